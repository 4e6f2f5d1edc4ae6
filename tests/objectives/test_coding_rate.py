import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from empssl.objectives.coding_rate import coding_rate, coding_rate_bounds

DISTORTION = 0.2
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def units(views: int, batch: int, dim: int, *, common: float = 0.0, seed: int = 0) -> Tensor:
    """Unit rows in float64; `common` is how much of one direction they share."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(views, batch, dim, dtype=torch.float64, generator=generator)
    direction = torch.randn(dim, dtype=torch.float64, generator=generator)
    return F.normalize((1 - common) * F.normalize(own, dim=-1) + common * F.normalize(direction,
                       dim=0), dim=-1)  # fmt: skip


def determinant(z: Tensor, distortion: float = DISTORTION) -> Tensor:
    """Eq. 1 as it stands, d x d."""
    _, batch, dim = z.shape
    eye = torch.eye(dim, dtype=z.dtype)
    return torch.linalg.slogdet(eye + dim / (batch * distortion) * z.mT @ z)[1].mean() / 2


rows = st.builds(
    units,
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(2, 9),
    common=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
distortions = st.floats(1e-3, 10)


@pytest.mark.parametrize(
    ("dim", "alike", "orthogonal", "random"),
    [(1024, 4.270, 197.754, 195.4), (512, 3.924, 164.046, 159.3)],
)
def test_oracle_values_of_a_hundred_unit_rows(
    dim: int, alike: float, orthogonal: float, random: float
) -> None:
    assert float(coding_rate(units(1, 100, dim, common=1.0), DISTORTION)) == pytest.approx(
        alike, abs=1e-3
    )
    orthonormal = torch.eye(dim, dtype=torch.float64)[None, :100]
    assert float(coding_rate(orthonormal, DISTORTION)) == pytest.approx(orthogonal, abs=1e-3)
    assert float(coding_rate(units(4, 100, dim), DISTORTION)) == pytest.approx(random, abs=0.1)


def test_four_rows_by_hand() -> None:
    two_directions = torch.eye(2, dtype=torch.float64).repeat(2, 1)[None]
    # I + d / (b eps^2) Z^T Z = (1 + 2 / (4 * 0.5) * 2) I = 3 I
    assert float(coding_rate(two_directions, 0.5)) == pytest.approx(math.log(3))


@pytest.mark.parametrize(("batch", "dim"), [(7, 7), (5, 40), (40, 5)])
def test_both_gram_matrices_give_the_determinant(batch: int, dim: int) -> None:
    z = units(3, batch, dim, common=0.3)
    assert float(coding_rate(z, DISTORTION)) == pytest.approx(float(determinant(z)), rel=1e-12)


@pytest.mark.parametrize(("batch", "dim"), [(7, 7), (5, 40), (40, 5)])
@pytest.mark.parametrize("common", [0.0, 0.9])
def test_the_gradient_is_that_of_the_determinant(batch: int, dim: int, common: float) -> None:
    z = units(3, batch, dim, common=common).requires_grad_()
    (closed,) = torch.autograd.grad(coding_rate(z, DISTORTION), z)
    (expected,) = torch.autograd.grad(determinant(z), z)
    assert torch.allclose(closed, expected, rtol=1e-10, atol=1e-12)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    z = units(2, 3, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(coding_rate(z, DISTORTION), z, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize(("batch", "dim"), [(100, 1024), (256, 128), (100, 100), (8, 512)])
def test_single_precision_is_enough_even_near_collapse(common: float, batch: int, dim: int) -> None:
    for seed in range(3):
        z = units(2, batch, dim, common=common, seed=seed)
        single = float(coding_rate(z.float(), DISTORTION))
        assert single == pytest.approx(float(coding_rate(z, DISTORTION)), rel=1e-4)


def test_the_value_is_the_mean_over_views() -> None:
    z = units(3, 6, 10)
    each = [float(coding_rate(view[None], DISTORTION)) for view in z]
    assert float(coding_rate(z, DISTORTION)) == pytest.approx(sum(each) / 3)


def test_ascent_takes_rows_apart() -> None:
    z = units(1, 10, 16, common=0.9).requires_grad_()
    for _ in range(50):
        (gradient,) = torch.autograd.grad(coding_rate(z, DISTORTION), z)
        z = F.normalize(z.detach() + 0.5 * gradient, dim=-1).requires_grad_()
    _, most = coding_rate_bounds(10, 16, DISTORTION)
    assert float(coding_rate(z.detach(), DISTORTION)) == pytest.approx(most, rel=1e-3)


@given(rows, distortions)
@PROPERTY
def test_it_stays_within_its_bounds(z: Tensor, distortion: float) -> None:
    least, most = coding_rate_bounds(*z.shape[1:], distortion)
    assert least - 1e-9 <= float(coding_rate(z, distortion)) <= most + 1e-9


@given(rows, distortions)
@PROPERTY
def test_it_is_the_determinant_for_any_shape(z: Tensor, distortion: float) -> None:
    expected = float(determinant(z, distortion))
    assert float(coding_rate(z, distortion)) == pytest.approx(expected, rel=1e-9)


@given(rows, st.integers(0, 2**32))
@PROPERTY
def test_a_rotation_changes_nothing(z: Tensor, seed: int) -> None:
    dim = z.shape[-1]
    square = torch.randn(dim, dim, dtype=z.dtype, generator=torch.Generator().manual_seed(seed))
    rotated = z @ torch.linalg.qr(square)[0]
    expected = float(coding_rate(z, DISTORTION))
    assert float(coding_rate(rotated, DISTORTION)) == pytest.approx(expected, rel=1e-9)


@given(rows)
@PROPERTY
def test_repeating_the_images_changes_nothing(z: Tensor) -> None:
    expected = float(coding_rate(z, DISTORTION))
    assert float(coding_rate(z.repeat(1, 3, 1), DISTORTION)) == pytest.approx(expected, rel=1e-9)


@given(rows, distortions)
@PROPERTY
def test_a_larger_distortion_needs_fewer_nats(z: Tensor, distortion: float) -> None:
    assert coding_rate(z, 1.1 * distortion) < coding_rate(z, distortion)


@pytest.mark.parametrize("distortion", [0.0, -0.2, float("nan")])
def test_a_distortion_that_is_not_positive_is_refused(distortion: float) -> None:
    with pytest.raises(ValueError, match=f"distortion is {distortion}, expected a positive number"):
        coding_rate(units(1, 2, 2), distortion)


def test_projections_that_are_not_finite_are_an_error() -> None:
    z = units(2, 5, 8)
    z[1, 2, 3] = math.nan
    with pytest.raises(torch.linalg.LinAlgError):
        coding_rate(z, DISTORTION)
