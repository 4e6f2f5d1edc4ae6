"""A step in little memory gives the gradients of a step in much."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from empssl.device import build_fabric
from empssl.errors import UsageError
from empssl.models import Network, build_network
from empssl.models.batchnorm import convert_to_global_batchnorm
from empssl.models.resnet import BasicBlock, Bottleneck, ResNet
from empssl.models.segments import Statistics
from empssl.objectives.base import Loss
from empssl.objectives.emp import EMP
from empssl.training import memory
from empssl.training.gradients import project
from empssl.training.memory import MemoryPlan, Stage, boundaries, plan_memory
from empssl.training.step import objective_loss

COUNT, BATCH, SIDE = 3, 7, 8
HEAD = {"name": "official", "hidden": 6, "dim": 5}
FABRIC = build_fabric(accelerator="cpu", devices=1)
BODIES: dict[str, Callable[[], nn.Module]] = {
    "basic": lambda: ResNet(BasicBlock, (2, 1), width=4, stem="small"),
    "bottleneck": lambda: ResNet(Bottleneck, (1, 2), width=2, stem="small"),
    "imagenet": lambda: ResNet(BasicBlock, (1, 1), width=3, stem="imagenet"),
}


def network(body: str = "basic") -> Network:
    torch.manual_seed(0)
    made = build_network({"name": "resnet10", "width": 4}, HEAD)
    made.backbone = BODIES[body]()
    made.projector = type(made.projector)(made.backbone.dim, hidden=[6, 6], dim=5)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # unlike 1 and 0, or faults could hide
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return made.double().train()


def images(side: int = SIDE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, BATCH, 3, side, side, generator=generator, dtype=torch.float64)
    return (x * torch.arange(1, BATCH + 1)[:, None, None, None]).flatten(0, 1)


def to_loss(projections: Tensor) -> Loss:
    return objective_loss(EMP(), projections.unflatten(0, (COUNT, BATCH)))


def step(made: Network, how: MemoryPlan, x: Tensor) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one backward pass."""
    loss = to_loss(project(FABRIC, made, x, how, BATCH))
    loss.total.backward()
    found = {"loss": loss.total.detach()}
    found |= {f"{n}.grad": p.grad for n, p in made.named_parameters() if p.grad is not None}
    return found | {n: b.clone() for n, b in made.named_buffers()}


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    scale = max(float(t.abs().max()) for n, t in one.items() if n.endswith("grad"))
    differences = {
        name: float((one[name].double() - other[name].double()).abs().max())
        / (scale if name.endswith("grad") else max(1.0, float(one[name].abs().max())))
        for name in one
    }
    return max(differences.values())


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("chunk", [1, 4, 21, 100])
def test_exact_is_the_whole_batch(body: str, chunk: int) -> None:
    x = images(32 if body == "imagenet" else SIDE)
    whole = step(network(body), MemoryPlan(), x)
    assert furthest(whole, step(network(body), MemoryPlan("exact", chunk), x)) < 1e-10


@pytest.mark.parametrize("kept", [(0,), (0, 2), (0, 1, 3, 4), tuple(range(12))])
def test_exact_does_not_depend_on_its_boundaries(kept: tuple[int, ...]) -> None:
    whole = step(network(), MemoryPlan(), images())
    assert furthest(whole, step(network(), MemoryPlan("exact", 5, kept), images())) < 1e-10


def test_gradients_add_to_those_that_are_there() -> None:
    made, twice = network(), network()
    once = step(made, MemoryPlan("exact", 5), images())
    for weight in twice.parameters():
        weight.grad = torch.ones_like(weight)
    found = step(twice, MemoryPlan("exact", 5), images())
    for name, gradient in once.items():
        if name.endswith("grad"):
            assert torch.allclose(found[name], gradient + 1, atol=1e-12)


def test_two_passes_are_the_chunks_of_views_with_statistics_of_their_own() -> None:
    found = step(network(), MemoryPlan("two-pass", BATCH), images())
    plain = network()
    parts = [plain(part) for part in images().split(BATCH)]
    loss = to_loss(torch.cat(parts))
    loss.total.backward()
    expected = {"loss": loss.total.detach()}
    expected |= {f"{n}.grad": p.grad for n, p in plain.named_parameters() if p.grad is not None}
    expected |= dict(plain.named_buffers())
    assert furthest(expected, found) < 1e-10


def test_two_passes_are_not_the_whole_batch() -> None:
    whole = step(network(), MemoryPlan(), images())
    assert furthest(whole, step(network(), MemoryPlan("two-pass", BATCH), images())) > 1e-3


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    x = images() + 1000  # far from zero, where sums of squares lose their digits
    found = Statistics.of([x[:2], x[2:3], x[3:]])
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    assert torch.allclose(found.mean, mean, rtol=1e-12)
    assert torch.allclose(found.var, var, rtol=1e-9)
    assert found.count == x.numel() // 3


def test_statistics_of_half_precision_are_in_single() -> None:
    x = torch.randn(9, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = Statistics.of([x[:5], x[5:]])
    var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    assert found.mean.dtype == found.var.dtype == torch.float32
    assert torch.allclose(found.mean, mean, atol=1e-6)
    assert torch.allclose(found.var, var, rtol=1e-5)


@pytest.mark.parametrize(("device", "launches"), [("cpu", 25), ("meta", 1)])
def test_only_the_cpu_takes_statistics_of_little_at_a_time(
    device: str, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU each launch takes longer than its sums."""
    seen: list[int] = []

    def counted(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        seen.append(len(x))
        return torch.zeros(4, device=device), torch.ones(4, device=device)

    monkeypatch.setattr(torch, "batch_norm_update_stats", counted)
    found = Statistics.of([torch.empty(100, 4, 32, 32, device=device)])
    assert (len(seen), sum(seen), found.count) == (launches, 100, 100 * 32 * 32)


def test_exact_holds_under_autocast() -> None:
    half = build_fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    gradients = []
    for how in (MemoryPlan(), MemoryPlan("exact", 5)):
        made = network().float()
        module = half.setup(made.to(memory_format=torch.channels_last))
        half.backward(to_loss(project(half, module, images().float(), how, BATCH)).total)
        gradients.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
    assert gradients[0].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def peak(stages: list[Stage], end: float, chosen: tuple[int, ...]) -> float:
    size = [*(s.entering for s in stages), end]
    return max(
        sum(size[c] for c in chosen if c <= start) + size[stop]
        for start, stop in pairwise([*chosen, len(stages)])
    )


def test_boundaries_are_the_cheapest_that_fit() -> None:
    """Against all choices there are."""
    entering = [1.0, 8.0, 8.0, 4.0, 4.0, 2.0, 1.0]
    stages = [Stage(x, index % 3 != 0, 1.0 + index % 2) for index, x in enumerate(entering)]
    inner = range(1, len(stages))
    every = [
        (0, *some) for count in range(len(stages)) for some in combinations(inner, count)
    ]  # fmt: skip

    def work(chosen: tuple[int, ...]) -> float:
        return sum(
            memory._work(stages, start, stop) for start, stop in pairwise([*chosen, len(stages)])
        )

    for limit in (3.0, 6.0, 12.0, 16.0, 100.0):
        found = boundaries(stages, 2.0, limit)
        possible = [work(chosen) for chosen in every if peak(stages, 2.0, chosen) <= limit]
        assert peak(stages, 2.0, found) <= limit
        assert work(found) == min(possible)
    assert boundaries(stages, 2.0, 0.5) == (0,)


def choose(mode: Any, free: float | None, body: nn.Module | None = None) -> MemoryPlan:
    made = copy.deepcopy(network())
    if body is not None:
        made.backbone = body
    return plan_memory(mode, made, images(), patches=21, free=free, autocast=nullcontext)


def test_auto_takes_the_whole_batch_where_it_fits_and_exact_where_not() -> None:
    assert choose("auto", 1e9) == MemoryPlan()
    assert choose("auto", None) == MemoryPlan()
    assert choose("auto", 1e3).mode == "exact"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("over_processes", [False, True])
def test_auto_expects_half_as_much_again_as_autograd_keeps_of_the_backbone(
    precision: Any, over_processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients and what lives for an operation only need room too."""
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    fabric = build_fabric(accelerator="cpu", devices=1, precision=precision)
    made = build_network({"name": "resnet10", "width": 8}, HEAD).train()
    made = convert_to_global_batchnorm(made) if over_processes else made
    x, kept = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with fabric.autocast(), torch.autograd.graph.saved_tensors_hooks(keep, lambda y: y):
        z = made.backbone(x.contiguous(memory_format=torch.channels_last))
    for held in [*made.parameters(), x]:
        kept.pop(held.untyped_storage().data_ptr(), None)
    assert z.requires_grad  # so that all is still held

    def planned(free: float) -> str:
        return plan_memory("auto", made, x, patches=64, free=free, autocast=fabric.autocast).mode

    needed = sum(kept.values()) / memory.FREE_SHARE
    assert (planned(1.4 * needed), planned(1.7 * needed)) == ("exact", "whole")


@pytest.mark.parametrize(
    ("device", "free", "expected"),
    [("cpu", 6e9, 2e9), ("cuda", 6e9, 4e9), ("cpu", None, 4e9), ("cuda", 2e9, 2e9)],
)
def test_processes_plan_with_what_the_least_of_them_has(
    device: str, free: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of this machine, the others with 4 GB each."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    monkeypatch.setattr(memory, "all_reduce_max", lambda fabric, flag: [max(flag, -int(4e9))])
    fabric = build_fabric(accelerator="cpu", devices=1)
    strategy = SimpleNamespace(num_processes=3, is_global_zero=True)
    strategy.root_device = torch.device(device)
    monkeypatch.setattr(fabric, "_strategy", strategy)
    assert memory.free_of_each(fabric) == expected


def test_nothing_is_measured_where_nothing_could_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Apple's GPUs it could not be."""
    monkeypatch.setattr(memory, "_stages", lambda *_: pytest.fail("it was"))
    assert choose("auto", None) == MemoryPlan()


def test_where_no_process_knows_what_is_free_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert memory.free_of_each(FABRIC) is None


def test_planning_leaves_no_trace_in_the_network() -> None:
    made = network()
    before = copy.deepcopy(made.state_dict())
    plan_memory("exact", made, images(), patches=21, free=1e6, autocast=nullcontext)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())


def test_a_backbone_that_cannot_be_cut_is_not_chunked_silently() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert choose("auto", 1e3, body) == MemoryPlan()
    with pytest.raises(UsageError, match="choose 'whole', or 'two-pass'"):
        choose("exact", 1e3, body)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="no memory 'exacd'"):
        choose("exacd", None)


def test_free_memory_is_told_on_linux() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e15
