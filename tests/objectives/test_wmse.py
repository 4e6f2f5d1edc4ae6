import pytest
import torch
from torch import Tensor

from empssl.config import build
from empssl.errors import UsageError
from empssl.objectives import OBJECTIVES
from empssl.objectives.wmse import WMSE


def views(batch: int, dim: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, batch, dim, generator=generator, dtype=torch.float64)
    return image + torch.randn(3, batch, dim, generator=generator, dtype=torch.float64)


def loss(objective: WMSE, given: Tensor) -> float:
    return float(objective(given).total)


@pytest.mark.parametrize(("option", "value"), [("epsilon", -1e-9), ("shrinkage", -0.1)])
def test_nothing_is_taken_off_the_covariance(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}, expected"):
        WMSE(**{option: value})


def test_without_shrinkage_no_triangular_map_of_the_coordinates_changes_it() -> None:
    """Any other would turn the whitened batch of each view by a rotation of its own."""
    published = WMSE(shrinkage=0.0, epsilon=0.0)
    given = views(20, 5)
    mixing = torch.tril(views(5, 5, seed=1)[0]) + 3 * torch.eye(5)
    assert loss(published, given @ mixing.T + 7) == pytest.approx(loss(published, given), rel=1e-9)


def test_with_shrinkage_the_scale_of_projections_does_not_matter() -> None:
    given = views(6, 9)
    assert loss(WMSE(), 100 * given) == pytest.approx(loss(WMSE(), given), rel=1e-6)


def test_single_precision_takes_few_images_on_one_line() -> None:
    on_a_line = (50 * views(8, 1) * views(1, 512, seed=1)[0]).float().requires_grad_()
    total = WMSE()(on_a_line).total
    total.backward()
    assert 0 <= float(total.detach()) <= 4
    assert on_a_line.grad is not None
    assert on_a_line.grad.isfinite().all()


def test_what_rounding_leaves_of_equal_rows_does_not_agree() -> None:
    alike = views(1, 16).float()[:1].expand(3, 7, 16)
    assert (alike - alike.mean(1, keepdim=True)).any()
    assert float(WMSE()(alike).total) == pytest.approx(2, abs=0.01)


def test_each_slice_is_a_batch_of_its_own() -> None:
    given = views(12, 3)
    parts = [loss(WMSE(), part) for part in given.split(4, dim=1)]
    assert loss(WMSE(slice_size=4), given) == pytest.approx(sum(parts) / 3, rel=1e-12)


def test_a_batch_that_is_no_multiple_of_the_slices_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 10 cannot be cut into slices of 4"):
        WMSE(slice_size=4)(views(10, 3))


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("slice_size", 1, "2 or more"), ("shrinkage", 1.5, "between 0 and 1")],
)
def test_options_out_of_range_are_refused(option: str, value: float, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        build(OBJECTIVES, {"name": "wmse", option: value})
