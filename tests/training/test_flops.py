"""What a step costs is what torch's counter finds that a real step does."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from empssl.distributed.launch import launch
from empssl.models import Network, build_network
from empssl.models.ema import EMANetwork
from empssl.objectives import OBJECTIVES, build_objective
from empssl.objectives.base import Objective
from empssl.optim import build_optimizers
from empssl.training.flops import (
    FACTORIZATIONS,
    counter,
    flops_per_view,
    objective_flops,
    optimizer_flops,
    projecting_flops,
    step_flops,
    training_flops,
)
from empssl.training.recipes import NAMES, resolve
from empssl.training.step import training_step

BATCH, SIDE, DIM = 12, 8, 10
SGD = {"name": "sgd"}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def small() -> Network:
    torch.manual_seed(0)
    return build_network(
        {"name": "resnet10", "width": 4}, {"name": "official", "hidden": 16, "dim": DIM}
    )


def given(objective: Objective, targets: Tensor, batch: int) -> dict[str, Tensor]:
    """What forward takes besides projections."""
    found = {"targets": targets[: objective.target_views]} if objective.target else {}
    return found | ({"labels": torch.arange(batch) % 2} if objective.needs_labels else {})


def of_a_real_step(objective: Objective, patches: int, optimizer: dict[str, Any]) -> float:
    network = small()
    fabric = launch(device="cpu", devices=1, precision="32-true")
    target = EMANetwork(network) if objective.target == "momentum" else None
    optimizers = build_optimizers(torch.nn.ModuleList([network, objective]), optimizer)
    labels = torch.arange(BATCH) % 2 if objective.needs_labels else None
    views = normal(patches, BATCH, 3, SIDE, SIDE)
    with counter() as counted:
        training_step(
            fabric, fabric.setup(network), objective, optimizers, views, target=target,
            labels=labels,
        )  # fmt: skip
    return float(counted.get_total_flops())


@pytest.mark.parametrize("patches", [2, 4, 8])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_is_counted_as_torch_counts_a_real_one(
    name: str, patches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "empssl.training.step.projection_metrics", lambda *_: {}
    )  # which only measures
    objective = build_objective({"name": name}, dim=DIM)
    optimizer = {"name": "muon_lars"}
    found = step_flops(small(), objective, patches, SIDE, BATCH, optimizer)
    assert found.total == pytest.approx(of_a_real_step(objective, patches, optimizer))
    assert found.objective > 0
    assert (found.target > 0) == (objective.target == "momentum")


@pytest.mark.parametrize("recipe", [name for name in NAMES if name not in ("paper", "official")])
def test_an_objective_is_counted_as_its_real_pass_in_the_shapes_of_a_recipe(recipe: str) -> None:
    settings = resolve(recipe, {})
    batch, dim = settings["batch"], settings["projector"]["dim"]
    objective = build_objective(settings["objective"], dim=dim)
    seen = min(settings["patches"], 8) - objective.weak_views
    projections = normal(seen, batch, dim).requires_grad_()
    others = given(objective, normal(seen + objective.weak_views, batch, dim), batch)
    with counter() as counted:
        objective(projections, **others).total.backward()
    targets = len(others.get("targets", ()))
    found = objective_flops(objective, views=seen, batch=batch, dim=dim, targets=targets)
    assert found == pytest.approx(counted.get_total_flops())


class Operations(TorchDispatchMode):
    """Notes the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_factorization_of_an_objective_has_a_count(name: str) -> None:
    objective = build_objective({"name": name}, dim=DIM)
    seen = 4 - objective.weak_views
    projections = normal(seen, BATCH, DIM).requires_grad_()
    others = given(objective, normal(4, BATCH, DIM), BATCH)
    with Operations() as operations:
        objective(projections, **others).total.backward()
    words = ("linalg", "cholesky", "triangular", "svd", "eig", "geqrf", "lu_factor", "_det")
    free = ("linalg_vector_norm", "_linalg_check_errors")
    factorizations = {
        packet for packet in operations.found
        if any(word in packet.__name__ for word in words) and packet.__name__ not in free
    }  # fmt: skip
    assert factorizations <= FACTORIZATIONS.keys()


def counted_by(work: Any) -> float:
    with counter() as counted:
        work()
    return float(counted.get_total_flops())


def test_factorizations_cost_the_multiplications_and_additions_of_their_loops() -> None:
    n, k = 60, 7
    definite = torch.eye(n).expand(2, n, n)
    # L_ij takes j products and as many subtractions; to solve for one side takes i for row i, and
    # the inverse is n sides of falling length and then their products.
    cholesky = sum(2 * j for i in range(n) for j in range(i + 1))
    solve = k * sum(2 * i for i in range(n))
    inverse = sum(2 * i for side in range(n) for i in range(side))
    inverse += sum(2 * (n - i) for i in range(n) for _ in range(i + 1))
    assert counted_by(lambda: torch.linalg.cholesky(definite)) == pytest.approx(
        2 * cholesky, rel=0.05
    )
    sides = torch.ones(2, n, k)
    assert counted_by(
        lambda: torch.linalg.solve_triangular(definite, sides, upper=False)
    ) == pytest.approx(2 * solve, rel=0.05)
    assert counted_by(lambda: torch.cholesky_inverse(definite)) == pytest.approx(
        2 * inverse, rel=0.05
    )


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8)])
def test_eigenvalues_and_singular_values_cost_what_textbooks_say(shape: tuple[int, ...]) -> None:
    matrices = normal(*shape)
    gram = matrices.mT @ matrices
    n, m, d = 8, 20, shape[-1]
    aten = torch.ops.aten
    assert counted_by(lambda: aten._linalg_eigh(gram, "L", False)) == pytest.approx(4 * d**3)
    assert counted_by(lambda: torch.linalg.eigh(gram)) == pytest.approx(27 * d**3)
    assert counted_by(lambda: aten._linalg_svd(matrices, False, False)) == pytest.approx(
        3 * (4 * m * n**2 - 4 * n**3 / 3)
    )
    assert counted_by(lambda: torch.linalg.svd(matrices, full_matrices=False)) == pytest.approx(
        3 * (6 * m * n**2 + 20 * n**3)
    )


def test_the_covariances_of_vicreg_by_hand() -> None:
    objective = build_objective({"name": "vicreg"}, dim=DIM)
    found = objective_flops(objective, views=4, batch=BATCH, dim=DIM, targets=0)
    assert found == 4 * 3 * 2 * BATCH * DIM**2  # Z^T Z, and twice its size for the gradient


def test_the_parts_of_a_step_add_up_to_what_a_view_costs() -> None:
    objective = build_objective({"name": "byol", "target_views": 2}, dim=DIM)
    network = small()
    found = step_flops(network, objective, 3, SIDE, BATCH, SGD)
    assert found.network == 3 * BATCH * training_flops(network, SIDE)
    assert found.target == 2 * BATCH * projecting_flops(network, SIDE)
    assert found.optimizer == 0
    every = found.network + found.target + found.objective
    assert flops_per_view(network, objective, 3, SIDE, BATCH, SGD) == every / (3 * BATCH)


def test_a_view_costs_the_less_the_more_views_share_an_update_of_muon() -> None:
    network, objective = small(), build_objective({"name": "emp"}, dim=DIM)
    muon = {"name": "muon_lars"}
    update = optimizer_flops(network, muon)
    # X X^T and the product with X; five squares, four products of steps, X X^T after four steps.
    by_hand = 0
    for weight in network.parameters():
        if weight.ndim == 4:
            rows, columns = sorted((len(weight), weight[0].numel()))
            by_hand += 2 * 2 * rows**2 * columns + (5 + 4 + 2 * 4) * 2 * rows**3
    assert update == by_hand
    for batch in (4, 8):
        with_muon, without = (
            flops_per_view(network, objective, 2, SIDE, batch, spec) for spec in (muon, SGD)
        )
        assert with_muon - without == pytest.approx(update / (2 * batch))


def test_counting_leaves_objective_and_network_as_they_were() -> None:
    network, objective = small().eval(), build_objective({"name": "swav"}, dim=DIM)
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in (network, objective)]
    step_flops(network, objective, 2, SIDE, BATCH, {"name": "muon_lars"})
    for module, before in zip((network, objective), states, strict=True):
        assert all(p.grad is None and p.device.type == "cpu" for p in module.parameters())
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not network.training
