"""Processes that each hold some views of all images compute what one process would."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_distributed import finish, free_port, furthest, network
from tiny import command, differences, start, train_tiny
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from empssl.distributed import launch
from empssl.distributed.view_axis import ViewAxis
from empssl.errors import DivergenceError, UsageError
from empssl.models import Network, build_network
from empssl.models.batchnorm import convert_to_global_batchnorm
from empssl.models.resnet import BasicBlock, ResNet
from empssl.objectives import OBJECTIVES, build_objective
from empssl.objectives.base import Objective
from empssl.runs.run import Run
from empssl.training.memory import WHOLE, MemoryPlan
from empssl.training.sharding import Share, gather_projections
from empssl.training.step import training_step

Found = dict[str, torch.Tensor]
BATCH, SIDE, DIM = 5, 8, 4  # a batch that neither two nor three processes could share
PATCHES = {2: 4, 3: 6}
# Every objective that can, with the options under which it can.
ABLE: dict[str, dict[str, Any]] = {
    name: {"name": name} for name in OBJECTIVES if OBJECTIVES[name].sums_views
} | {"tcr": {"name": "tcr", "pooled": False}}
PLANS = {"whole": WHOLE, "exact": MemoryPlan("exact", 7, (0, 2))}
CASES = [(name, "whole") for name in ABLE] + [("emp", "exact"), ("vicreg", "exact")]


def objective(spec: dict[str, Any]) -> Objective:
    return build_objective(spec, dim=DIM).double()


def residual() -> Network:
    """One that can be computed in pieces; each norm is a round of messages, so they are few."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build_network({"name": "resnet10"}, {"name": "official", "hidden": 6, "dim": DIM})
        made.backbone = ResNet(BasicBlock, (1,), width=2, stem="small")
        made.projector = type(made.projector)(made.backbone.dim, hidden=[6], dim=DIM)
    return made.double().train()


BODIES = {"whole": network, "exact": residual}


def views(patches: int) -> torch.Tensor:
    """View batch 3 side side; unlike in scale, so that statistics differ."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    own = torch.randn(patches, BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return (image + own) * torch.arange(1, patches + 1)[:, None, None, None, None]


def stepped(
    fabric: Any, module: nn.Module, body: nn.Module, spec: dict[str, Any], how: MemoryPlan,
    patches: int,
) -> Found:  # fmt: skip
    """Loss, terms, collapse metrics, gradients and statistics of one step with shared patches."""
    made, found = objective(spec), {}
    share = Share.of("patches", made, name=spec["name"], patches=patches,
                     rank=fabric.global_rank, world=fabric.world_size)  # fmt: skip
    sgd = torch.optim.SGD(body.parameters(), lr=0.1)

    def keep(*_: Any) -> None:
        found.update({f"grad {name}": p.grad.clone() for name, p in body.named_parameters()})

    sgd.register_step_pre_hook(keep)
    own = views(patches)[share.views.start : share.views.stop]
    result = training_step(fabric, module, made, [sgd], own, how, axis=share.axis)
    found |= {"loss": result.loss.total.detach(), "norm": torch.tensor(result.gradient_norm)}
    found |= {f"term {name}": term.detach() for name, term in result.loss.terms.items()}
    found |= {f"collapse_metrics {name}": value for name, value in result.collapse_metrics.items()}
    return found | {name: buffer.clone() for name, buffer in body.named_buffers()}


def worker(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    # As much of Fabric as a step asks for.
    fabric = SimpleNamespace(
        world_size=world, global_rank=rank, device=torch.device("cpu"), autocast=nullcontext,
        backward=lambda loss: loss.backward(),
    )  # fmt: skip
    for name, memory in CASES:
        body = convert_to_global_batchnorm(BODIES[memory]())
        module = DistributedDataParallel(body) if memory == "whole" else body
        found = stepped(fabric, module, body, ABLE[name], PLANS[memory], PATCHES[world])
        torch.save(found, f"{folder}/{name}-{memory}{rank}")
    z = torch.full((1, 2, 3), torch.nan if rank == 1 else 0.0)
    with pytest.raises(DivergenceError, match="the projections are not finite"):
        gather_projections(fabric, z, ViewAxis(world))
    Path(folder, f"heard{rank}").touch()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=PATCHES)
def apart(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[int, Path]:
    """How many processes there were, and the folder of what each found."""
    folder, world = tmp_path_factory.mktemp("sharded"), request.param
    torch.multiprocessing.spawn(worker, (world, free_port(), str(folder)), nprocs=world)
    return world, folder


@pytest.mark.parametrize(("name", "memory"), CASES)
def test_shared_patches_give_the_step_of_one_process(
    name: str, memory: str, apart: tuple[int, Path]
) -> None:
    world, folder = apart
    fabric = launch.launch(device="cpu", devices=1, precision="32-true")
    body = BODIES[memory]()
    expected = stepped(fabric, body, body, ABLE[name], WHOLE, PATCHES[world])
    found = torch.load(folder / f"{name}-{memory}0", weights_only=True)
    assert expected.keys() == found.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize(("name", "memory"), CASES)
def test_all_processes_take_the_same_step(name: str, memory: str, apart: tuple[int, Path]) -> None:
    world, folder = apart
    first, *rest = [
        torch.load(folder / f"{name}-{memory}{rank}", weights_only=True) for rank in range(world)
    ]
    # The first view is in the first process, which alone writes its measures down.
    alike = {key for key in first if "collapse_metrics" not in key} | {"collapse_metrics alignment"}
    for key in alike:
        assert all(torch.equal(first[key], other[key]) for other in rest), key


def test_all_processes_hear_that_the_projections_of_one_are_not_finite(
    apart: tuple[int, Path],
) -> None:
    world, folder = apart
    assert len(list(folder.glob("heard*"))) == world


def test_two_processes_that_share_patches_train_the_network_of_one(tmp_path: Path) -> None:
    batch, steps = 9, 3  # two processes could not share the images
    settings: dict[str, Any] = {"patches": 4, "batch": batch, "precision": "64-true"}
    alone = train_tiny(tmp_path / "alone", steps=steps * (1437 // 8) / (1437 // batch), **settings)
    words = command(tmp_path / "run", "--devices", "2", "--precision", "64-true", "--patches", "4",
                    "--shard", "patches", steps=steps, batch=batch)  # fmt: skip
    code, said = finish(start(*words))
    assert code == 0, said
    assert "Warning" not in said
    assert Run(tmp_path / "run").environment["processes"] == 2
    assert max(furthest(alone, tmp_path / "run").values()) < 1e-10
    assert Run(alone).metrics()[-1]["coding_rate_ratio"] == pytest.approx(
        Run(tmp_path / "run").metrics()[-1]["coding_rate_ratio"], rel=1e-10
    )


# Shares


def test_each_view_is_in_one_process_and_each_image_in_all() -> None:
    shares = [
        Share.of("patches", objective({"name": "emp"}), name="emp", patches=6, rank=rank, world=3)
        for rank in range(3)
    ]
    assert [list(share.views) for share in shares] == [[0, 1], [2, 3], [4, 5]]
    assert {(share.rank, share.world) for share in shares} == {(0, 1)}


@pytest.mark.parametrize("name", [*sorted(OBJECTIVES.keys() - ABLE.keys()), "tcr"])
def test_an_objective_that_compares_views_says_which_others_could_share_patches(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Share.of("patches", objective({"name": name}), name=name, patches=4, rank=0, world=2)
    assert name in str(caught.value)
    assert all(able in str(caught.value) for able in ABLE)


def test_simclr_with_each_view_in_turn_needs_them_all() -> None:
    made = objective({"name": "simclr", "partners": "each"})
    with pytest.raises(UsageError, match="simclr compares views"):
        Share.of("patches", made, name="simclr", patches=4, rank=0, world=2)


def test_patches_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(UsageError, match="20 patches cannot be shared by 3 processes"):
        Share.of("patches", objective({"name": "emp"}), name="emp", patches=20, rank=0, world=3)


def test_an_unknown_shard_is_refused() -> None:
    with pytest.raises(UsageError, match="no shard 'patch'"):
        Share.of("patch", objective({"name": "emp"}), name="emp", patches=4, rank=0, world=2)


# The setting


def test_in_one_process_nothing_is_shared_and_nothing_changes(
    tiny_run: Path, tmp_path: Path
) -> None:
    out = train_tiny(tmp_path / "run", steps=6, shard="patches")
    assert differences(tiny_run, out) == []


def test_a_resumed_run_keeps_its_shard(tmp_path: Path) -> None:
    out = train_tiny(tmp_path / "run", steps=2, shard="patches")
    train_tiny(out, resume=True, epochs=None)
    assert Run(out).config["shard"] == "patches"


def test_a_resumed_run_cannot_be_sharded_otherwise(tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="shard would change"):
        train_tiny(tiny_run, resume=True, epochs=None, shard="patches")
