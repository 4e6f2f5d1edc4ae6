"""Each measure against a plain twin, and at the ends of its scale."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from empssl.metrics.projections import projection_metrics


def projections(common: float, agreement: float = 0.5, *, views: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    image, own = (
        torch.randn(1, 7, 5, generator=generator),
        torch.randn(views, 7, 5, generator=generator),
    )
    direction = torch.randn(5, generator=generator)
    mixed = agreement * image + (1 - agreement) * own
    return ((1 - common) * mixed + common * direction).double()


def plain(z: np.ndarray) -> dict[str, float]:
    """A loop a sum."""
    z = np.array([[row / np.linalg.norm(row) for row in Z] for Z in z])
    views, batch, dim = z.shape
    Z = z[0]

    centered = np.array([row - sum(Z) / batch for row in Z])
    moment = sum(np.outer(row, row) for row in centered)
    rate = float(np.linalg.slogdet(np.eye(dim) + dim / (batch * 0.2) * moment)[1]) / 2
    rank = min(batch - 1, dim)
    values = np.linalg.svd(centered, compute_uv=False) ** 2
    pairs = [
        float(((z[i, k] - z[j, k]) ** 2).sum())
        for k in range(batch) for i, j in combinations(range(views), 2)
    ]  # fmt: skip
    between = [
        math.exp(-2 * float(((Z[j] - Z[k]) ** 2).sum()))
        for j, k in combinations(range(batch), 2)
    ]  # fmt: skip
    return {
        "coding_rate_ratio": rate / (rank / 2 * math.log(1 + dim / (rank * 0.2))),
        "participation_ratio": float(values.sum() ** 2 / (values**2).sum()),
        "embedding_std": float(np.mean([np.std(Z[:, d], ddof=1) for d in range(dim)]))
        * math.sqrt(dim),
        "alignment": float(np.mean(pairs)),
        "uniformity": math.log(float(np.mean(between))),
    }


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("views", [2, 5])
def test_measures_are_those_of_plain_loops(common: float, views: int) -> None:
    given = projections(common, views=views)
    found = {name: float(value) for name, value in projection_metrics(given).items()}
    assert found == pytest.approx(plain(given.numpy()), rel=1e-8)


def test_all_alike_is_the_low_end() -> None:
    given = torch.ones(3, 7, 5)
    assert {
        name: float(value) for name, value in projection_metrics(given).items()
    } == pytest.approx(
        {
            "coding_rate_ratio": 0,
            "participation_ratio": 1,
            "embedding_std": 0,
            "alignment": 0,
            "uniformity": 0,
        },
        abs=1e-5,
    )


def test_a_simplex_is_the_high_end() -> None:
    found = projection_metrics((torch.eye(8) - 1 / 8).repeat(3, 1, 1))
    assert float(found["coding_rate_ratio"]) == pytest.approx(1, abs=1e-5)
    assert float(found["participation_ratio"]) == pytest.approx(7, rel=1e-5)
    assert float(found["embedding_std"]) == pytest.approx(math.sqrt(8 / 7), rel=1e-5)
    assert float(found["uniformity"]) == pytest.approx(-4 * 8 / 7, rel=1e-5)


def test_what_all_have_in_common_does_not_count_for_the_number_of_directions() -> None:
    given = torch.eye(8).repeat(3, 1, 1)
    near, far = (projection_metrics(given + common) for common in (0.0, 3.0))
    assert float(far["participation_ratio"]) == pytest.approx(
        float(near["participation_ratio"]), rel=1e-4
    )
    assert far["coding_rate_ratio"] < 0.5 * near["coding_rate_ratio"]


@pytest.mark.parametrize(("batch", "dim", "told"), [(4, 9, False), (5, 9, True), (9, 3, False)])
def test_participation_is_told_where_there_are_four_directions(
    batch: int, dim: int, told: bool
) -> None:
    given = torch.randn(2, batch, dim, generator=torch.Generator().manual_seed(0))
    assert ("participation_ratio" in projection_metrics(given)) == told


@pytest.mark.parametrize("name", ["coding_rate_ratio", "embedding_std"])
def test_more_in_common_is_less_spread(name: str) -> None:
    values = [
        float(projection_metrics(projections(common))[name]) for common in (0.0, 0.5, 0.8, 0.95)
    ]
    assert values == sorted(values, reverse=True)


def test_half_precision_and_autocast_change_little() -> None:
    given = projections(0.5).bfloat16()
    expected = {name: float(value) for name, value in projection_metrics(given.double()).items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = {name: float(value) for name, value in projection_metrics(given).items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_it_has_no_gradient() -> None:
    given = projections(0.5).requires_grad_()
    assert not any(value.requires_grad for value in projection_metrics(given).values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_of_what_is_not_finite_the_measures_are_not_either(bad: float) -> None:
    given = projections(0.5)
    given[0, 1, 2] = bad
    assert not any(value.isfinite() for value in projection_metrics(given).values())
