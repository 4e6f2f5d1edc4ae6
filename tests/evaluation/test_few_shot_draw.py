"""Draws of labeled images with as many of every class."""

import pytest
import torch
from torch import Tensor

from empssl.errors import DataError, UsageError
from empssl.evaluation.few_shot import balanced, shots

# Labels need not count from zero, and the classes are uneven.
LABELS = torch.tensor([3] * 40 + [5] * 6 + [9] * 100)[
    torch.randperm(146, generator=torch.Generator().manual_seed(0))
]


def counts(rows: Tensor) -> list[int]:
    return [int((LABELS[rows] == label).sum()) for label in (3, 5, 9)]


def test_a_draw_has_as_many_of_each_class_as_there_are() -> None:
    assert counts(balanced(LABELS, 15, seed=0)) == [5, 5, 5]
    assert counts(balanced(LABELS, 46, seed=0)) == [20, 6, 20]
    assert counts(balanced(LABELS, 146, seed=0)) == [40, 6, 100]
    assert sorted(counts(balanced(LABELS, 16, seed=0))) == [5, 5, 6]


def test_nothing_is_drawn_twice_and_the_seed_decides() -> None:
    first, again, other = (balanced(LABELS, 60, seed=seed) for seed in (0, 0, 1))
    assert len(first.unique()) == 60
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_larger_draw_holds_the_smaller_one() -> None:
    small, large = (set(balanced(LABELS, size, seed=0).tolist()) for size in (20, 50))
    assert small < large


def test_every_image_of_a_class_is_as_likely() -> None:
    drawn = torch.cat([balanced(LABELS, 9, seed=seed) for seed in range(400)])
    often = drawn.bincount(minlength=len(LABELS))[LABELS == 3].double()
    assert float(often.min()) > 10  # 30 on average
    assert float(often.max()) < 60


@pytest.mark.parametrize("size", [0, -1, 147])
def test_a_size_that_cannot_be_drawn_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"{size} images to learn from .* of 146"):
        balanced(LABELS, size, seed=0)


def test_shots_are_so_many_of_every_class() -> None:
    for count in (1, 4, 6):
        assert counts(shots(LABELS, count, seed=0)) == [count] * 3
    assert not torch.equal(shots(LABELS, 4, seed=0), shots(LABELS, 4, seed=1))


def test_a_class_with_too_few_for_the_shots_is_named() -> None:
    with pytest.raises(DataError, match=r"7 images of every class .* class 5 has 6; .* at most 6"):
        shots(LABELS, 7, seed=0)
    with pytest.raises(UsageError, match="expected at least 1"):
        shots(LABELS, 0, seed=0)
