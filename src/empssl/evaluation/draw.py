"""A draw of labeled images in which every class has as many as every other."""

import torch
from jaxtyping import Int64
from torch import Tensor

from empssl.errors import DataError, UsageError
from empssl.shapes import Labels


def balanced(labels: Labels, size: int, *, seed: int) -> Int64[Tensor, " drawn"]:
    """`size` rows, ascending, in numbers as equal as the classes allow.

    A class with too few gives all that it has, and the others share what is left; where the last
    rows do not go round, the seed says which classes have one more.

    Args:
        labels: of all rows, none unknown.
        size: how many to draw.
        seed: of the draw. With one seed, what a smaller draw has of a class a larger one has too.

    Raises:
        UsageError: `size` is not positive, or there are not so many.

    >>> rows = balanced(torch.tensor([7] * 50 + [8] * 3 + [9] * 20), 13, seed=0)
    >>> torch.tensor([7] * 50 + [8] * 3 + [9] * 20)[rows].tolist()
    [7, 7, 7, 7, 7, 8, 8, 8, 9, 9, 9, 9, 9]
    """
    if not 0 < size <= len(labels):
        raise UsageError(
            f"{size} images to learn from were asked for, of {len(labels)} that have a label; "
            f"give a number from 1 to {len(labels)}"
        )
    generator = torch.Generator().manual_seed(seed)
    turn, classes = _turns(labels, generator)
    order = torch.randperm(int(classes.max()) + 1, generator=generator)
    return (turn * len(order) + order[classes]).argsort()[:size].sort().values


def shots(labels: Labels, count: int, *, seed: int) -> Int64[Tensor, " drawn"]:
    """`count` rows of every class, ascending.

    Raises:
        UsageError: `count` is not positive.
        DataError: a class has fewer.
    """
    if count < 1:
        raise UsageError(f"{count} images of a class were asked for, expected at least 1")
    names, sizes = labels.unique(return_counts=True)
    if few := names[sizes < count].tolist():
        raise DataError(
            f"{count} images of every class were asked for, but class {few[0]} has "
            f"{int(sizes.min())}; ask for at most {int(sizes.min())}"
        )
    turn, _ = _turns(labels, torch.Generator().manual_seed(seed))
    return (turn < count).nonzero()[:, 0]


def _turns(labels: Labels, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """In random order, the place of each row among those of its class; and its class."""
    classes = labels.unique(return_inverse=True)[1]
    shuffled = torch.randperm(len(labels), generator=generator)
    rows = shuffled[classes[shuffled].argsort(stable=True)]
    count = classes.bincount()
    turn = torch.empty_like(rows)
    turn[rows] = torch.arange(len(rows)) - (count.cumsum(0) - count)[classes[rows]]
    return turn, classes
