"""What every objective promises. A new one is found here by itself."""

import importlib
import inspect
import pkgutil
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import empssl.objectives
from empssl.config import complete
from empssl.errors import DivergenceError, UsageError
from empssl.objectives import OBJECTIVES, build_objective
from empssl.objectives.base import Loss, ModuleObjective, Objective
from empssl.training.step import objective_loss

NAMES = sorted(OBJECTIVES)
PREVENT = [name for name in NAMES if OBJECTIVES[name].prevents_collapse]
DIM = 16


def objective(name: str, dim: int = DIM) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_objective({"name": name}, dim=dim)


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def projections(agreement: float = 0.5, common: float = 0.3, *, views: int = 4, batch: int = 12,
                dim: int = DIM) -> Tensor:  # fmt: skip
    """Rows of any length. Views of an image agree, and all images have a direction in common."""
    image, own = normal(1, batch, dim, seed=1), normal(views, batch, dim, seed=2)
    direction = normal(dim, seed=3)
    mixed = agreement * image + (1 - agreement) * own
    return (1 - common) * mixed + common * direction


# SSL-EY wants variances of 1/2, and less where a batch has fewer images than directions.
SHORT = 0.5


def asked(made: Objective, given: Tensor) -> dict[str, Tensor]:
    """What the objective asks for besides projections, made of the projections of all views.

    The target is not quite the network; the first two images are of a class, the next two of an
    unknown one, and each other is of its own.
    """
    found = {}
    if made.target is not None:
        other = given.detach() + 0.2 * given.detach().flip(-1)
        found["targets"] = other[: made.target_views]
    if made.needs_labels:
        images = torch.arange(given.shape[1])
        found["labels"] = images.clamp(min=1).masked_fill(images // 2 == 1, -1)
    return found


def loss_of(made: Objective, given: Tensor) -> Loss:
    """The loss of the projections of all views, weak ones first."""
    found: Loss = made(given[made.weak_views :], **asked(made, given))
    return found


def value(name: str, given: Tensor) -> float:
    return float(loss_of(objective(name).to(given.dtype), given).total.detach())


def fitted(name: str, given: Tensor) -> Objective:
    """The objective, after its own weights, if it has any, have had time to adapt."""
    made = objective(name)
    if list(made.parameters()):
        adam = torch.optim.Adam(made.parameters(), lr=0.01)
        for _ in range(50):
            adam.zero_grad()
            loss_of(made, given).total.backward()
            adam.step()
            made.after_update(asked(made, given).get("targets"))
    return made


def test_every_objective_is_in_the_table() -> None:
    found: set[type[Objective]] = set()
    for module in pkgutil.iter_modules(empssl.objectives.__path__, "empssl.objectives."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found |= {
            kind for _, kind in members
            if issubclass(kind, Objective) and kind not in (Objective, ModuleObjective)
        }  # fmt: skip
    assert found == set(OBJECTIVES.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("views", "batch", "dim"), [(2, 5, 9), (20, 6, 4), (4, 12, 16)])
def test_value_and_terms_are_those_of_the_reference(
    name: str, views: int, batch: int, dim: int
) -> None:
    plain = importlib.import_module(f"references.{name}")
    made = objective(name, dim).double()
    options = complete(OBJECTIVES, {"name": name}, given=("dim",))
    del options["name"]
    given = projections(views=views, batch=batch, dim=dim).double()
    more: dict[str, Any] = {key: values.numpy() for key, values in asked(made, given).items()}
    if made.state_dict():
        more["state"] = {key: tensor.numpy() for key, tensor in made.state_dict().items()}
    loss = loss_of(made, given)
    total, terms = plain.objective(given[made.weak_views :].numpy(), **options | more)
    found = {key: float(term.detach()) for key, term in loss.terms.items()}
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-10)
    assert found == pytest.approx(terms, rel=1e-10)


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
    (gradient,) = torch.autograd.grad(loss_of(objective(name), given).total, given)
    after = given - 0.01 * given.norm() * gradient / gradient.norm()
    assert common_length(after) < common_length(given)


@pytest.mark.parametrize("name", NAMES)
def test_prefers_agreeing_views_to_independent_ones(name: str) -> None:
    agreeing, independent = (SHORT * projections(agreement=a, common=0.0) for a in (1.0, 0.0))
    values = [float(loss_of(fitted(name, z), z).total.detach()) for z in (agreeing, independent)]
    assert values[0] < values[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_images_does_not_matter(name: str) -> None:
    made, given = objective(name).double().requires_grad_(False), projections().double()
    order = torch.arange(12).roll(3).flip(0)
    more = {
        key: values.index_select(values.dim() - 1 - (key == "targets"), order)
        for key, values in asked(made, given).items()
    }
    shuffled = made(given[made.weak_views :, order], **more)
    assert float(shuffled.total) == pytest.approx(float(loss_of(made, given).total), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_views_does_not_matter_but_for_the_leading_ones(name: str) -> None:
    made, given = objective(name).double().requires_grad_(False), projections(views=8).double()
    leading = range(8)[: made.target_views] if made.target_views else []
    following = [view for view in range(8) if view not in leading]
    order = torch.tensor([*reversed(leading), *following[3:], *following[:3]])
    shuffled = loss_of(made, given[order])
    assert float(shuffled.total) == pytest.approx(float(loss_of(made, given).total), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_views_and_images_are_not_the_same_axis(name: str) -> None:
    given = projections(views=6, batch=6).double()
    assert value(name, given.transpose(0, 1)) != pytest.approx(value(name, given), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("views", [2, 20])
@pytest.mark.parametrize("common", [0.0, 0.999, 1.0], ids=["spread", "nearly-alike", "alike"])
def test_gradients_are_finite(name: str, views: int, common: float) -> None:
    given = projections(agreement=0.9, common=common, views=views).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(objective(name), given).total, given)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "dim"), [(3, 5), (5, 3)])
def test_gradients_are_those_of_finite_differences(name: str, batch: int, dim: int) -> None:
    every = projections(views=3, batch=batch, dim=dim).double()
    made = objective(name, dim).double()
    more = asked(made, every)  # held fixed: through targets no gradient flows
    given = every[made.weak_views :].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: made(z, **more).total, given, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_autocast_does_not_change_the_value(name: str, kind: torch.dtype) -> None:
    made, given = objective(name), projections(common=0.9).to(kind)
    more = {key: values.to(kind) if values.is_floating_point() else values
            for key, values in asked(made, given).items()}  # fmt: skip
    seen = given[made.weak_views :]
    expected: Loss = made(
        seen.float(), **{k: v.float() if k == "targets" else v for k, v in more.items()}
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective_loss(made, seen, **more)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, expected.total)


@pytest.mark.parametrize("name", NAMES)
def test_the_total_is_a_weighted_sum_in_which_every_term_helps(name: str) -> None:
    """Terms point the way their names say: larger is better unless they end in `_loss`."""
    made = objective(name).double().requires_grad_(False)
    losses: list[Loss] = [
        loss_of(made, projections(agreement, common).double())
        for agreement in (0.1, 0.5, 0.9) for common in (0.0, 0.4, 0.8)
    ]  # fmt: skip
    terms = list(losses[0].terms)
    table = np.array([[1.0, *(float(loss.terms[term]) for term in terms)] for loss in losses])
    totals = np.array([float(loss.total) for loss in losses])
    weights, *_ = np.linalg.lstsq(table, totals, rcond=None)
    assert np.allclose(table @ weights, totals, rtol=1e-8)
    directions = {term: np.sign(weight) for term, weight in zip(terms, weights[1:], strict=True)}
    assert directions == {term: 1 if term.endswith("_loss") else -1 for term in terms}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_projections_that_are_not_finite_are_an_error_or_make_a_loss_that_is_not(
    name: str, bad: float
) -> None:
    made, given, total = objective(name), projections(), torch.tensor(float("nan"))
    given[1, 2, 3] = bad
    with suppress(DivergenceError):
        total = objective_loss(made, given[made.weak_views :], **asked(made, given)).total
    assert not total.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_and_a_backward_pass_change_nothing(name: str) -> None:
    made = objective(name)
    before = {key: tensor.clone() for key, tensor in made.state_dict().items()}
    loss_of(made.train(), projections().requires_grad_()).total.backward()
    assert all(torch.equal(tensor, before[key]) for key, tensor in made.state_dict().items())


POSITIVE = {"epsilon", "temperature", "student_temperature", "teacher_temperature", "distortion"}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (n, o)
        for n in NAMES
        for o in inspect.signature(OBJECTIVES[n]).parameters
        if o in POSITIVE and n != "wmse"  # which may do without
    ],
)
@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_what_must_be_positive_is_said_to_be(name: str, option: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{option} is {value}, expected a positive number"):
        build_objective({"name": name, option: value}, dim=8)


@pytest.mark.parametrize("name", [n for n in NAMES if OBJECTIVES[n].target == "momentum"])
def test_the_momentum_of_a_target_is_a_share_and_does_not_fall(name: str) -> None:
    momenta = [objective(name).momentum_at(step / 10) for step in range(11)]
    assert momenta[0] >= 0
    assert momenta == sorted(momenta)
    assert momenta[-1] <= 1
