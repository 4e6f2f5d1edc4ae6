"""Few-shot accuracy: probes learned from so many images of each class, over many draws."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from empssl.errors import DataError, UsageError
from empssl.evaluation.probes.base import Score
from empssl.types import Labels

DRAWS = 10
# Held-out images to choose by would be labels too. On whitened patches of CIFAR-10 train images, 1
# to 0.001 change linear by 0.35 points at most; with 0.1 ridge loses 2 of 32 at 10 labels a class.
STRENGTH = 1.0
OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {"strengths": (STRENGTH,)},
    "ridge": {"strengths": (STRENGTH,)},
}


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


@dataclass(frozen=True)
class FewShot:
    """The scores of one probe, learned from draws of the train images.

    Attributes:
        probe: as in `evaluate`; linear and ridge with one strength, 1, that no label chose.
        layer: where the embedding was taken.
        crops: which patches were averaged.
        model: SHA-256 of the weights, `random-SEED`, `whitened-patches` or `whitened-mirrored`.
        shots: images of each class that a draw has.
        train_size: images that a draw has.
        test_size: of all test images, the same for each draw.
        seed: of the draws; those of another seed are others.
        accuracies: percent of the test images, a draw each.
        mean: of the accuracies.
        deviation: their sample standard deviation.
    """

    probe: str
    layer: str
    crops: str
    model: str
    shots: int
    train_size: int
    test_size: int
    seed: int
    accuracies: list[float]
    mean: float
    deviation: float

    @classmethod
    def of(
        cls,
        learn: Callable[..., Score],
        features: tuple[Tensor, Tensor],  # not Embeddings: train and test differ in samples
        labels: tuple[Tensor, Tensor],
        *,
        count: int,
        probe: str,
        layer: str,
        crops: str,
        model: str,
        seed: int,
        draws: int = DRAWS,
    ) -> "FewShot":
        """Learn from `count` images of each class, again for each draw.

        Args:
            learn: a probe, from embeddings and labels of train and test.
            features: of train and test.
            labels: of train and test.
            count: images of each class.
            probe: which, and so on as in the attributes.
            layer: where the embedding was taken.
            crops: which patches were averaged.
            model: whose embeddings.
            seed: of the draws.
            draws: how many.

        Raises:
            DataError: a class has too few images.
        """
        (train, test), (train_labels, test_labels) = features, labels
        options = OPTIONS.get(probe, {})
        found = []
        for draw in range(draws):
            rows = shots(train_labels, count, seed=seed * draws + draw)
            found.append(learn(train[rows], train_labels[rows], test, test_labels, **options))
        accuracies = [score.accuracy for score in found]
        return cls(
            probe, layer, crops, model, count, found[0].train_size, found[0].test_size, seed,
            accuracies, statistics.fmean(accuracies),
            statistics.stdev(accuracies) if draws > 1 else 0.0,
        )  # fmt: skip
