import numpy as np
import pytest
import torch
from references import spectrum as plain

from empssl.errors import DataError
from empssl.metrics.embeddings import effective_rank, eigenvalues


def embeddings(seed: int = 0, *, rows: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    return mixed + 3


def orthogonal(dim: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(5)))[0]


@pytest.mark.parametrize("rows", [5, 50, 5000])
def test_eigenvalues_are_those_of_the_reference(rows: int) -> None:
    x = embeddings(rows=rows)
    assert np.allclose(eigenvalues(x), plain.eigenvalues(x.double().numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [5, 50, 5000])
def test_effective_rank_is_that_of_the_reference(rows: int) -> None:
    x = embeddings(rows=rows)
    assert effective_rank(x) == pytest.approx(plain.effective_rank(x.double().numpy()), rel=1e-5)


def test_eigenvalues_are_the_variances_along_planted_axes() -> None:
    axes = torch.tensor([4.0, 2.0, 1.0, 0.0])
    x = torch.cat([torch.diag(axes), -torch.diag(axes)]) @ orthogonal(4) + 10
    assert torch.allclose(eigenvalues(x), axes.double() ** 2 / 4, atol=1e-5)


def test_eigenvalues_sum_to_the_variance() -> None:
    x = embeddings()
    assert float(eigenvalues(x).sum()) == pytest.approx(float(x.var(0, correction=0).sum()), 1e-5)


def test_effective_rank_counts_equally_used_directions() -> None:
    x = torch.eye(6)[:4].repeat(3, 1) @ orthogonal(6)
    assert effective_rank(x) == pytest.approx(4.0, abs=1e-3)


def test_effective_rank_of_collapse_is_one() -> None:
    assert effective_rank(torch.ones(20, 7)) == pytest.approx(1.0, abs=1e-4)


def test_effective_rank_of_nothing_is_zero() -> None:
    assert effective_rank(torch.zeros(20, 7)) == 0.0


def test_effective_rank_ignores_scale_and_rotation() -> None:
    x = embeddings()
    assert effective_rank(5 * x @ orthogonal(8)) == pytest.approx(effective_rank(x), rel=1e-5)


@pytest.mark.parametrize("measure", [eigenvalues, effective_rank])
def test_embeddings_that_are_not_finite_are_refused(measure) -> None:
    with pytest.raises(DataError, match="1 of 5 embeddings hold NaN or infinity"):
        measure(torch.tensor([[1.0, 2.0]] * 4 + [[float("inf"), 0.0]]))
