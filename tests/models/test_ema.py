"""Targets, and what objectives that need them make of n views."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from empssl.device import Fabric
from empssl.distributed.launch import launch
from empssl.errors import DivergenceError, UsageError
from empssl.models import Network, build_network
from empssl.models.ema import EMANetwork
from empssl.objectives import build_objective
from empssl.objectives.base import Loss, Objective
from empssl.objectives.byol import BYOL
from empssl.objectives.functional import codes
from empssl.objectives.ressl import ReSSL
from empssl.objectives.simsiam import SimSiam
from empssl.objectives.supcon import SupCon
from empssl.objectives.swav import SwAV
from empssl.training.step import training_step

BATCH, DIM = 6, 5


def normal(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def made(name: str, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_objective({"name": name, **options}, dim=DIM).double()


# n views: the explicit mean over pairs, written from what each method asks of two views

Pair = Callable[[Any, Tensor, Tensor], Tensor]  # of a view's projections and another's targets


def byol(of: BYOL, q: Tensor, t: Tensor) -> Tensor:
    return 2 * (F.normalize(q, dim=-1) - F.normalize(t, dim=-1)).square().sum(-1).mean()


def simsiam(of: SimSiam, q: Tensor, t: Tensor) -> Tensor:
    return -F.cosine_similarity(q, t, dim=-1).mean()


def swav(of: SwAV, z: Tensor, t: Tensor) -> Tensor:
    scores = F.normalize(t, dim=-1) @ of.prototypes.detach().T
    Q = (scores / of.epsilon).exp()
    for _ in range(of.iterations):
        Q = Q / Q.sum(0)
        Q = Q / Q.sum(1, keepdim=True)
    return F.cross_entropy(F.normalize(z, dim=-1) @ of.prototypes.T / of.temperature, Q)


def ressl(of: ReSSL, z: Tensor, t: Tensor) -> Tensor:
    relation = (F.normalize(t, dim=-1) @ of.queue.T / of.teacher_temperature).softmax(-1)
    return F.cross_entropy(F.normalize(z, dim=-1) @ of.queue.T / of.student_temperature, relation)


PAIRS: dict[str, Pair] = {"byol": byol, "simsiam": simsiam, "swav": swav, "ressl": ressl}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("views", [2, 3, 5, 9])
def test_n_views_are_the_mean_over_pairs_in_value_and_gradient(name: str, views: int) -> None:
    options = {"weak_views": 2} if name == "ressl" and views > 2 else {}
    objective = made(name, **options)
    given = normal(views, BATCH, DIM)
    targets = normal(views, BATCH, DIM, seed=1)[: objective.target_views]
    weak = objective.weak_views
    parameters = list(objective.parameters())
    found = []
    for explicit in (False, True):
        z = given[weak:].clone().requires_grad_()
        if explicit:
            q = objective.predictor(z) if hasattr(objective, "predictor") else z
            pairs = [
                PAIRS[name](objective, q[i], t) for i in range(len(z))
                for j, t in enumerate(targets) if weak or i != j
            ]  # fmt: skip
            total = torch.stack(pairs).mean()
        else:
            total = objective(z, targets=targets).total
        found.append([total, *torch.autograd.grad(total, [z, *parameters])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_without_a_label_supcon_is_the_normalized_temperature_scaled_cross_entropy() -> None:
    z, unknown = normal(2, BATCH, DIM), torch.full((BATCH,), -1)
    rows = F.normalize(z.flatten(0, 1), dim=-1)
    logits = (rows @ rows.T / 0.1).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, torch.arange(2 * BATCH).roll(BATCH))
    assert float(SupCon()(z, labels=unknown).total) == pytest.approx(float(expected), rel=1e-10)


def test_supcon_is_lower_when_classes_are_apart_than_when_images_are() -> None:
    labels = torch.arange(BATCH) % 2
    classes = F.one_hot(labels, DIM).double().expand(3, -1, -1)
    images = F.one_hot(torch.arange(BATCH), BATCH).double().expand(3, -1, -1)
    assert SupCon()(classes, labels=labels).total < SupCon()(images, labels=labels).total - 1


# Codes


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_codes_give_every_prototype_its_share(scale: float) -> None:
    Q = codes(scale * normal(2, 12, 4), epsilon=scale / 4, iterations=200)
    assert torch.allclose(Q.sum(2), torch.ones(2, 12, dtype=Q.dtype))
    assert torch.allclose(Q.sum(1), torch.full((2, 4), 3.0, dtype=Q.dtype), rtol=1e-6)


def test_codes_of_scores_too_large_for_powers_are_finite() -> None:
    scores = torch.tensor([[[100.0, 0.0], [99.0, 0.0], [98.0, 0.0]]])  # exp(2000) is infinite
    assert codes(scores, epsilon=0.05, iterations=3).isfinite().all()


# Momentum


def test_byols_momentum_rises_from_its_start_to_one_along_half_a_cosine() -> None:
    objective = made("byol", momentum=0.9)
    quarter = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    momenta = [objective.momentum_at(t) for t in (0.0, 0.25, 0.5, 1.0)]
    assert momenta == pytest.approx([0.9, quarter, 0.95, 1.0])


def test_ressls_momentum_stays() -> None:
    assert [made("ressl").momentum_at(t) for t in (0.0, 0.5, 1.0)] == [0.99] * 3


def test_an_objective_without_a_target_has_no_momentum() -> None:
    with pytest.raises(NotImplementedError, match="EMP has no momentum target"):
        made("emp").momentum_at(0.5)


# The target network


def network(seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = {"name": "official", "hidden": 6, "dim": DIM}
        return build_network({"name": "resnet10", "width": 4}, head).double().train()


def views(count: int = 3) -> Tensor:
    return normal(count, BATCH, 3, 8, 8, seed=3)


def fabric() -> Fabric:
    return launch(device="cpu", devices=1, precision="32-true")


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_a_target_moves_by_what_its_momentum_leaves(momentum: float) -> None:
    start, now = network(0), network(1)
    target = EMANetwork(start)
    target.update(now, momentum)
    ends = zip(start.parameters(), now.parameters(), target.parameters(), strict=True)
    for before, towards, weight in ends:
        assert torch.allclose(weight, momentum * before + (1 - momentum) * towards, atol=1e-12)


def test_a_target_projects_like_the_network_that_it_was_made_of() -> None:
    body = network()
    projections = EMANetwork(body).project(views(), fabric().autocast())
    assert torch.allclose(projections, body(views().flatten(0, 1)).unflatten(0, (3, BATCH)))
    assert not projections.requires_grad


def test_a_target_leaves_its_network_alone() -> None:
    body = network()
    before = copy.deepcopy(body.state_dict())
    target = EMANetwork(body)
    target.project(views(), fabric().autocast())
    target.update(network(1), 0.5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in body.state_dict().items())
    assert all(p.requires_grad for p in body.parameters())
    assert not any(p.requires_grad for p in target.parameters())


# In a step


class Recorder(Objective):
    """Keeps what it was given; the mean product of both is its loss."""

    target = "momentum"

    def __init__(self, weak_views: int, target_views: int | None) -> None:
        super().__init__()
        self.weak_views, self.target_views = weak_views, target_views
        self.updates: list[Tensor] = []

    def forward(self, projections: Tensor, *, targets: Tensor) -> Loss:
        self.projections, self.targets = projections.detach(), targets
        return Loss((projections.mean(0) * targets.mean(0)).mean())

    def after_update(self, targets: Tensor) -> None:
        self.updates.append(targets)


def linear() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, DIM)).double()


class Plain(EMANetwork):
    """A target of a network that is one layer."""

    def __init__(self, body: nn.Module) -> None:
        nn.Module.__init__(self)
        self.network = body  # type: ignore[assignment]


def step(
    body: Any, objective: Objective, target: EMANetwork | None = None, lr: float = 0.1
) -> None:
    trained = [*body.parameters(), *objective.parameters()]
    sgd = torch.optim.SGD(trained, lr=lr)
    training_step(
        fabric(), body, objective, [sgd], views(4), target=target,
        labels=torch.arange(BATCH) // 2 if objective.needs_labels else None,
    )  # fmt: skip


@pytest.mark.parametrize(("weak", "aimed"), [(0, 2), (0, None), (1, 1), (2, 2)])
def test_network_and_target_see_the_views_that_are_theirs(weak: int, aimed: int | None) -> None:
    body, other, objective = linear(), linear(), Recorder(weak, aimed)
    with torch.no_grad():
        other[1].weight.mul_(2)
    step(body, objective, Plain(other), lr=0.0)
    of_body, of_other = (m(views(4).flatten(0, 1)).unflatten(0, (4, BATCH)) for m in (body, other))
    assert torch.allclose(objective.projections, of_body[weak:])
    assert torch.allclose(objective.targets, of_other[:aimed])


def test_an_objective_learns_of_an_update_once_and_with_the_targets_of_its_step() -> None:
    objective = Recorder(0, 2)
    step(linear(), objective, Plain(linear()))
    assert len(objective.updates) == 1
    assert torch.equal(objective.updates[0], objective.targets)


@pytest.mark.parametrize("name", ["simsiam", "swav"])
def test_no_gradient_flows_through_targets_that_the_network_makes_itself(name: str) -> None:
    body, plain, objective = linear(), linear(), made(name)
    z = plain(views(4).flatten(0, 1)).unflatten(0, (4, BATCH))
    fixed = z.detach().clone()[: objective.target_views]
    copy.deepcopy(objective)(z, targets=fixed).total.backward()
    step(body, objective, lr=0.1)
    moved = {key: (p - q) / -0.1 for (key, p), q in zip(
        body.named_parameters(), linear().parameters(), strict=True
    )}  # fmt: skip
    for key, p in plain.named_parameters():
        torch.testing.assert_close(moved[key], p.grad, rtol=1e-8, atol=1e-10)


def test_an_objectives_own_weights_are_trained() -> None:
    objective = made("byol", hidden=8)
    before = copy.deepcopy(objective.state_dict())
    step(linear(), objective, Plain(linear()))
    assert not any(
        torch.equal(tensor, before[key]) for key, tensor in objective.state_dict().items()
    )


def test_a_gradient_of_an_objective_that_is_not_finite_stops_the_step_and_is_named() -> None:
    objective, body = made("byol", hidden=8), linear()
    weight = objective.predictor.out.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(DivergenceError, match=r"that of objective\.predictor\.out\.weight"):
        step(body, objective, Plain(linear()))
    assert torch.equal(body[1].weight, linear()[1].weight)


def test_prototypes_stay_unit_rows() -> None:
    objective = made("swav", prototypes=7)
    before = objective.prototypes.detach().clone()
    step(linear(), objective, lr=10.0)
    assert not torch.allclose(objective.prototypes, before)
    assert torch.allclose(objective.prototypes.norm(dim=1), torch.ones(7, dtype=torch.float64))


def test_the_queue_holds_the_last_targets_the_newest_first() -> None:
    objective = made("ressl", queue=4)
    first, second = normal(1, 3, DIM, seed=1), normal(1, 3, DIM, seed=2)
    for targets in (first, second):
        objective.after_update(targets)
    expected = F.normalize(torch.cat([second[0], first[0, :1]]), dim=-1)
    assert torch.allclose(objective.queue, expected)


def test_a_batch_larger_than_the_queue_fills_it() -> None:
    objective = made("ressl", queue=2)
    objective.after_update(normal(1, 3, DIM))
    assert torch.allclose(objective.queue, F.normalize(normal(1, 3, DIM)[0, :2], dim=-1))


def test_a_queue_begins_with_unit_rows_of_the_seed() -> None:
    assert torch.allclose(made("ressl").queue.norm(dim=1), torch.ones(4096).double(), atol=1e-6)
    assert torch.equal(made("ressl").queue, made("ressl").queue)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("byol", {"momentum": 1.1}, "momentum is 1.1, expected a share"),
        ("byol", {"target_views": 0}, "target_views is 0"),
        ("byol", {"hidden": 0}, "hidden is 0, expected a positive"),
        ("simsiam", {"hidden": -1}, "hidden is -1"),
        ("ressl", {"queue": 0}, "queue is 0"),
        ("ressl", {"momentum": -0.1}, "momentum is -0.1"),
        ("ressl", {"weak_views": 0}, "weak_views is 0"),
        ("ressl", {"teacher_temperature": 0.0}, "teacher_temperature is 0.0"),
        ("swav", {"prototypes": 0}, "prototypes is 0"),
        ("swav", {"epsilon": 0.0}, "epsilon is 0.0"),
        ("supcon", {"temperature": 0.0}, "temperature is 0.0"),
        ("byol", {"dim": 3}, "no option 'dim'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((UsageError, TypeError), match=said):
        build_objective({"name": name, **options}, dim=DIM)
