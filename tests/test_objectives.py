"""What every objective promises. A new one is found here by itself."""

import importlib
import inspect
import pkgutil
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import empssl.objectives
from empssl.errors import DivergenceError
from empssl.objectives import OBJECTIVES
from empssl.objectives.objective import Loss, Objective
from empssl.spec import build, complete
from empssl.step import objective_loss

NAMES = sorted(OBJECTIVES)
PREVENT = [name for name in NAMES if OBJECTIVES[name].prevents_collapse]


def objective(name: str) -> Objective:
    made: Objective = build(OBJECTIVES, {"name": name})
    return made


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def projections(agreement: float = 0.5, common: float = 0.3, *, views: int = 4, batch: int = 12,
                dim: int = 16) -> Tensor:  # fmt: skip
    """Rows of any length. Views of an image agree, and all images have a direction in common."""
    image, own = normal(1, batch, dim, seed=1), normal(views, batch, dim, seed=2)
    direction = normal(dim, seed=3)
    mixed = agreement * image + (1 - agreement) * own
    return (1 - common) * mixed + common * direction


MEASURED = [name for name in PREVENT if objective(name)(projections()).fill is not None]


# SSL-EY wants variances of 1/2, and less where a batch has fewer images than directions.
SHORT = 0.5


def value(name: str, given: Tensor) -> float:
    return float(objective(name)(given).total)


def test_every_objective_is_in_the_table() -> None:
    found: set[type[Objective]] = set()
    for module in pkgutil.iter_modules(empssl.objectives.__path__, "empssl.objectives."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found |= {
            kind for _, kind in members if issubclass(kind, Objective) and kind is not Objective
        }
    assert found == set(OBJECTIVES.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("views", "batch", "dim"), [(2, 5, 9), (20, 6, 4), (4, 12, 16)])
def test_value_and_terms_are_those_of_the_reference(
    name: str, views: int, batch: int, dim: int
) -> None:
    plain = importlib.import_module(f"references.{name}")
    options = complete(OBJECTIVES, {"name": name})
    del options["name"]
    given = projections(views=views, batch=batch, dim=dim).double()
    loss = objective(name)(given)
    total, terms = plain.objective(given.numpy(), **options)
    assert float(loss.total) == pytest.approx(total, rel=1e-10)
    assert {key: float(term) for key, term in loss.terms.items()} == pytest.approx(terms, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_is_enough(name: str) -> None:
    given = projections(common=0.9)
    assert value(name, given) == pytest.approx(value(name, given.double()), rel=1e-5)


@pytest.mark.parametrize("name", PREVENT)
def test_prefers_spread_to_collapse(name: str) -> None:
    collapsed = SHORT * projections(agreement=1.0, common=1.0)
    spread = SHORT * projections(agreement=1.0, common=0.0)
    assert value(name, spread) < value(name, collapsed)


@pytest.mark.parametrize("name", PREVENT)
def test_descent_takes_nearly_collapsed_projections_apart(name: str) -> None:
    def common_length(z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1).mean((0, 1)).norm()

    # Not wholly agreeing views: those are where W-MSE, which whitens, is least and has no gradient.
    given = projections(agreement=0.9, common=0.9).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(name)(given).total, given)
    after = given - 0.01 * given.norm() * gradient / gradient.norm()
    assert common_length(after) < common_length(given)


@pytest.mark.parametrize("name", NAMES)
def test_prefers_agreeing_views_to_independent_ones(name: str) -> None:
    agreeing, independent = (SHORT * projections(agreement=a, common=0.0) for a in (1.0, 0.0))
    assert value(name, agreeing) < value(name, independent)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [0, 1], ids=["views", "images"])
def test_the_order_does_not_matter(name: str, axis: int) -> None:
    given = projections().double()
    shuffled = given.index_select(axis, torch.arange(given.shape[axis]).roll(3).flip(0))
    assert value(name, shuffled) == pytest.approx(value(name, given), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_views_and_images_are_not_the_same_axis(name: str) -> None:
    given = projections(views=6, batch=6).double()
    assert value(name, given.transpose(0, 1)) != pytest.approx(value(name, given), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("views", [2, 20])
@pytest.mark.parametrize("common", [0.0, 0.999, 1.0], ids=["spread", "nearly-alike", "alike"])
def test_gradients_are_finite(name: str, views: int, common: float) -> None:
    given = projections(agreement=0.9, common=common, views=views).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(name)(given).total, given)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "dim"), [(3, 5), (5, 3)])
def test_gradients_are_those_of_finite_differences(name: str, batch: int, dim: int) -> None:
    given = projections(views=3, batch=batch, dim=dim).double().requires_grad_()
    made = objective(name)
    assert torch.autograd.gradcheck(lambda z: made(z).total, given, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_autocast_does_not_change_the_value(name: str, kind: torch.dtype) -> None:
    given = projections(common=0.9).to(kind)
    expected: Loss = objective(name)(given.float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective_loss(objective(name), given)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, expected.total)


@pytest.mark.parametrize("name", NAMES)
def test_the_total_is_a_weighted_sum_in_which_every_term_helps(name: str) -> None:
    """Terms point the way their names say: larger is better unless they end in `_loss`."""
    losses: list[Loss] = [
        objective(name)(projections(agreement, common).double())
        for agreement in (0.1, 0.5, 0.9) for common in (0.0, 0.4, 0.8)
    ]  # fmt: skip
    terms = list(losses[0].terms)
    table = np.array([[1.0, *(float(loss.terms[term]) for term in terms)] for loss in losses])
    totals = np.array([float(loss.total) for loss in losses])
    weights, *_ = np.linalg.lstsq(table, totals, rcond=None)
    assert np.allclose(table @ weights, totals, rtol=1e-8)
    directions = {term: np.sign(weight) for term, weight in zip(terms, weights[1:], strict=True)}
    assert directions == {term: 1 if term.endswith("_loss") else -1 for term in terms}


@pytest.mark.parametrize("name", MEASURED)
def test_fill_goes_from_zero_when_all_are_alike_to_one_when_spread(name: str) -> None:
    made = objective(name)
    alike, between = (projections(agreement=1.0, common=c) for c in (1.0, 0.5))
    spread = torch.eye(16)[:12].expand(4, 12, 16)
    fills = [made(given).fill for given in (alike, between, spread)]
    assert [float(fill) for fill in fills] == pytest.approx([0, 0.5, 1], abs=0.45)
    assert float(fills[0]) == pytest.approx(0, abs=1e-4)
    assert float(fills[2]) == pytest.approx(1, abs=1e-4)
    assert not any(fill.requires_grad for fill in fills)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_projections_that_are_not_finite_are_an_error_or_make_a_loss_that_is_not(
    name: str, bad: float
) -> None:
    given, total = projections(), torch.tensor(float("nan"))
    given[1, 2, 3] = bad
    with suppress(DivergenceError):
        total = objective_loss(objective(name), given).total
    assert not total.isfinite()
