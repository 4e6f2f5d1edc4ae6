"""What the terms against collapse are for batches whose spectrum is known."""

import math

import pytest
import torch
from torch import Tensor

from empssl.objectives.frossl import FroSSL
from empssl.objectives.mmcr import MMCR
from empssl.objectives.spectral_contrastive import SpectralContrastive
from empssl.objectives.ssl_ey import SSLEY
from empssl.objectives.vne import VNE


def hadamard(size: int) -> Tensor:
    """Rows and columns at right angles; all columns but the first have mean zero."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        top, bottom = torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)
        matrix = torch.cat([top, bottom])
    return matrix


@pytest.mark.parametrize("directions", [1, 2, 7])
def test_entropy_is_the_logarithm_of_the_number_of_equal_directions(directions: int) -> None:
    even = hadamard(8)[:, 1 : 1 + directions] @ torch.eye(7, dtype=torch.float64)[:directions]
    rotated = even @ torch.linalg.qr(hadamard(8)[1:, 1:] + torch.eye(7)).Q
    views = rotated.expand(3, 8, 7)
    vne, frossl = VNE()(views).terms, FroSSL()(views).terms
    assert float(vne["entropy"]) == pytest.approx(math.log(directions), abs=1e-5)
    assert float(vne["similarity"]) == pytest.approx(1)
    assert float(frossl["invariance_loss"]) == pytest.approx(0, abs=1e-12)
    if directions == 7:  # coordinates are scaled to the same length first, so only here
        assert float(frossl["entropy"]) == pytest.approx(2 * math.log(7), abs=1e-5)


def test_the_gradient_of_the_entropy_does_not_depend_on_equal_eigenvalues() -> None:
    """It is -(log C + 1) Z 2 / b, less the part along z: none at all where all are equal."""
    equal = torch.eye(8, dtype=torch.float64).expand(2, 8, 8).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(VNE()(equal).terms["entropy"], equal)
    assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-12)


def test_the_nuclear_norm_is_greatest_for_equal_views_at_right_angles() -> None:
    best = torch.eye(8)[:6].expand(4, 6, 8)
    assert float(MMCR()(best).total) == pytest.approx(-6, rel=1e-6)
    assert float(MMCR()(torch.ones(4, 6, 8)).total) == pytest.approx(-math.sqrt(6), rel=1e-4)


def test_the_gradient_of_the_nuclear_norm_is_bounded_where_rows_coincide() -> None:
    alike = torch.ones(2, 6, 8, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(MMCR()(alike).total, alike)
    assert float(torch.linalg.matrix_norm(gradient[0], 2)) <= 1


@pytest.mark.parametrize("views", [2, 5])
def test_ssl_ey_is_least_where_variances_are_a_half(views: int) -> None:
    """With V = C = I in 4 directions, ||V||^2 - 2 tr(C) = -4."""

    def total(variance: float) -> float:
        unit = hadamard(8)[:, 1:5] * math.sqrt(7 / 8)
        return float(SSLEY()(math.sqrt(variance) * unit.expand(views, 8, 4)).total)

    assert total(0.5) == pytest.approx(-4)
    assert total(0.5) < min(total(0.495), total(0.505))


def test_the_spectral_loss_shortens_long_rows_and_keeps_short_ones() -> None:
    best = torch.eye(8)[:6].expand(4, 6, 8)
    value = SpectralContrastive(squared_radius=2.0)
    assert float(value(5 * best).total) == pytest.approx(-2)  # -2 mu / mu
    assert float(value(best).total) == pytest.approx(-1)  # -2 / mu
