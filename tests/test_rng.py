from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from empssl.rng import permutation, uniform

WORD = 2**64
SAMPLES = torch.arange(64)


def mix(x: int) -> int:
    """SplitMix64's finalizer, in Python's own integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def number(*key: int) -> float:
    word = 0
    for part in key:
        word = mix((word + 0x9E3779B97F4A7C15) % WORD ^ mix((part + 0x9E3779B97F4A7C15) % WORD))
    return (word >> 40) / 2**24


def numbers(
    samples: Tensor = SAMPLES, *, seed: int = 0, epoch: int = 0, views: range = range(8),
    draws: int = 13,
) -> Tensor:  # fmt: skip
    return uniform(samples, seed=seed, epoch=epoch, views=views, draws=draws)


@pytest.mark.parametrize("seed", [0, 7, -1, 2**62])
def test_a_number_is_a_hash_of_its_key(seed: int) -> None:
    samples, views = torch.tensor([0, 5, 2**40]), range(3, 5)
    drawn = uniform(samples, seed=seed, epoch=9, views=views, draws=3)
    assert drawn.tolist() == [
        [[number(seed, 9, view, sample, draw) for draw in range(3)] for sample in samples.tolist()]
        for view in views
    ]


def test_a_seed_keeps_its_meaning() -> None:
    drawn = numbers(torch.tensor([3]), seed=1, epoch=2, views=range(4, 5), draws=3)
    assert (drawn * 2**24).flatten().tolist() == [3070123, 16419496, 8079227]


def test_numbers_do_not_depend_on_the_batch() -> None:
    rows = torch.tensor([40, 3, 17])
    assert torch.equal(numbers(SAMPLES[rows]), numbers()[:, rows])


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_numbers_do_not_depend_on_how_views_are_split(cut: int) -> None:
    parts = [numbers(views=range(cut)), numbers(views=range(cut, 8))]
    assert torch.equal(torch.cat(parts), numbers())


def test_every_second_view_has_its_own_numbers() -> None:
    assert torch.equal(numbers(views=range(0, 8, 2)), numbers()[::2])


def test_further_draws_leave_the_first_ones_alone() -> None:
    assert torch.equal(numbers(draws=20)[..., :13], numbers())


@pytest.mark.parametrize(
    "other",
    [
        lambda: numbers(seed=1),
        lambda: numbers(epoch=1),
        lambda: numbers(views=range(1, 9)),
        lambda: numbers(SAMPLES + 1),
    ],
    ids=["seed", "epoch", "view", "sample"],
)
def test_another_key_changes_every_number(other: Callable[[], Tensor]) -> None:
    assert (other() == numbers()).float().mean() < 1e-3


def test_twenty_thousand_keys_never_repeat() -> None:
    drawn = torch.cat([
        numbers(seed=seed, epoch=epoch, views=range(20), draws=3).flatten(0, 1)
        for seed in range(4) for epoch in range(4)
    ])  # fmt: skip
    assert len(drawn) == 20480
    assert len(drawn.unique(dim=0)) == 20480


def test_numbers_are_at_least_zero_and_below_one() -> None:
    drawn = numbers(torch.arange(5000))
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["views", "samples", "draws"])
def test_numbers_along_each_axis_are_uniform(axis: int) -> None:
    shape = [1, 1, 1]
    shape[axis] = 100_000
    drawn = uniform(torch.arange(shape[1]), seed=0, epoch=0, views=range(shape[0]), draws=shape[2])
    counts = torch.histc(drawn.flatten(), bins=256, min=0, max=1)
    assert 0.001 < stats.chisquare(counts.numpy()).pvalue < 0.999


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["views", "samples", "draws"])
def test_neighbors_along_each_axis_are_uncorrelated(axis: int) -> None:
    drawn = numbers(torch.arange(400), views=range(20)).movedim(axis, 0) - 0.5
    correlation = 12 * (drawn[1:] * drawn[:-1]).mean()
    assert abs(correlation) < 4 / (drawn[1:].numel()) ** 0.5


def test_different_draws_of_one_patch_are_uncorrelated() -> None:
    drawn = numbers(torch.arange(1000), views=range(10)).flatten(0, 1).T
    off_diagonal = torch.corrcoef(drawn) - torch.eye(13)
    assert off_diagonal.abs().max() < 4.5 / drawn.shape[1] ** 0.5


def test_an_order_visits_every_sample_once() -> None:
    assert permutation(1000, seed=0, epoch=0).sort().values.tolist() == list(range(1000))


def test_an_order_comes_again_with_its_seed_and_epoch() -> None:
    assert torch.equal(permutation(100, seed=3, epoch=4), permutation(100, seed=3, epoch=4))


@pytest.mark.parametrize("key", [{"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}])
def test_orders_of_different_seeds_or_epochs_have_nothing_in_common(key: dict[str, int]) -> None:
    same = permutation(1000, seed=0, epoch=0) == permutation(1000, **key)
    assert same.sum() < 8  # one is expected by chance


def test_every_sample_comes_first_equally_often() -> None:
    first = torch.stack([permutation(5, seed=0, epoch=e) for e in range(1000)])[:, 0]
    assert 0.001 < stats.chisquare(first.bincount().numpy()).pvalue < 0.999
