"""Several processes train the network that one would."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny import STATEFUL, command, metrics, start, train_tiny
from torch import nn

import empssl
from empssl import cli
from empssl.distributed import collectives, launch
from empssl.distributed.processes import Call
from empssl.errors import UsageError
from empssl.models.batchnorm import GlobalBatchNorm, convert_to_global_batchnorm
from empssl.objectives import OBJECTIVES, build_objective
from empssl.objectives.emp import EMP
from empssl.runs import checkpoint
from empssl.runs.run import Run
from empssl.training.step import objective_loss

Shares = dict[str, list[dict[str, torch.Tensor]]]
HANGS = 600  # seconds, after which a process is taken to wait for ever
BATCH, STEPS = 12, 3  # a batch that two and three processes can share


def one_process(out: Path) -> Path:
    return train_tiny(
        out, steps=STEPS * (1437 // 8) / (1437 // BATCH), batch=BATCH, precision="64-true"
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_process(tmp_path_factory.mktemp("alone") / "run")


def furthest(run: Path, other: Path) -> dict[str, float]:
    """The largest difference, relative to the largest number, of each kind of result."""
    found: dict[str, float] = {}
    for a, b in zip(metrics(run), metrics(other), strict=True):
        for key in a.keys() & {"loss", "coding_rate", "similarity", "gradient_norm"}:
            found[key] = max(found.get(key, 0.0), abs(a[key] - b[key]) / abs(a[key]))
    newest = [
        checkpoint.read(max((path / "checkpoints").glob("step-*"))).tensors for path in (run, other)
    ]
    assert newest[0].keys() == newest[1].keys()
    for group in newest[0]:
        one, two = (tensors[group] for tensors in newest)
        assert one.keys() == two.keys()
        for name in one:
            scale = max(1e-3, float(one[name].abs().max()))
            key = "statistics" if "running" in name else group
            difference = float((one[name] - two[name]).abs().max()) / scale
            found[key] = max(found.get(key, 0.0), difference)
    return found


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code and what it said; it must not hang."""
    try:
        _, said = process.communicate(timeout=HANGS)
    finally:
        process.kill()
    return process.returncode, said


# End to end


def test_float64_reaches_the_loss(alone: Path) -> None:
    losses = torch.tensor([entry["loss"] for entry in metrics(alone)], dtype=torch.float64)
    assert (losses != losses.float().double()).all()


def test_two_processes_train_the_network_of_one(alone: Path, tmp_path: Path) -> None:
    words = command(tmp_path / "run", "--devices", "2", "--precision", "64-true", steps=STEPS,
                    batch=BATCH)  # fmt: skip
    code, said = finish(start(*words))
    assert code == 0, said
    assert "Warning" not in said
    assert "deprecated" not in said
    assert said.count("training: 3 of 3") == 1
    assert Run(tmp_path / "run").environment["processes"] == 2
    assert max(furthest(alone, tmp_path / "run").values()) < 1e-10


def test_two_processes_with_little_memory_train_the_network_of_one_with_much(
    alone: Path, tmp_path: Path
) -> None:
    words = command(tmp_path / "run", "--devices", "2", "--precision", "64-true", "--memory",
                    "exact", steps=STEPS, batch=BATCH)  # fmt: skip
    code, said = finish(start(*words))
    assert code == 0, said
    assert Run(tmp_path / "run").environment["memory"] == "exact"
    assert max(furthest(alone, tmp_path / "run").values()) < 1e-10


CALLING = """
import os
import empssl
print("begun", flush=True)
options = dict(recipe="demo", patches=2, batch={batch}, epochs={epochs}, backbone=dict(width=4),
               projector=dict(hidden=16, dim=8), precision="64-true")
print(empssl.train("digits", out={out!r} + "/two", devices=2, **options))
left = [name for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT") if name in os.environ]
print("left", left, empssl.distributed.processes.children)
try:
    empssl.train("nowhere", out={out!r} + "/none", devices=2, **options)
except empssl.errors.EmpsslError as error:  # its own, or that of the other process
    print("refused", error.exit_code, str(error).count("nowhere"))
print(empssl.train("digits", out={out!r} + "/one", **options))
"""


@pytest.mark.parametrize("by", ["file", "prompt"])
def test_a_program_that_calls_for_two_processes_is_run_once_and_goes_on_alone(
    by: str, alone: Path, tmp_path: Path
) -> None:
    """With no guard around its calls, and from where it cannot be run again."""
    program = CALLING.format(batch=BATCH, epochs=STEPS / (1437 // BATCH), out=str(tmp_path))
    if by == "prompt":  # the rest is the same
        program = program.partition("try:")[0]
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py") if by == "file" else "-"], text=True,
        input=program if by == "prompt" else None, capture_output=True, timeout=HANGS,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = ["begun", f"{tmp_path}/two", "left [] {}", "refused 3 1", f"{tmp_path}/one"]
    assert done.stdout.splitlines() == (said[:3] if by == "prompt" else said)
    assert not list(tmp_path.glob("empssl-*"))  # what told the other process what to do
    assert Run(tmp_path / "two").environment["processes"] == 2
    assert max(furthest(alone, tmp_path / "two").values()) < 1e-10
    if by == "file":
        assert max(furthest(alone, tmp_path / "one").values()) == 0


def test_a_call_is_told_to_other_processes_as_a_command(tmp_path: Path) -> None:
    arguments = {
        "data": Path("photos"), "out": "run", "keep_epochs": (0.5, 1), "backbone": {"width": 4},
        "seed": 3, "budget": None, "resume": False,
    }  # fmt: skip
    words = Call("train", arguments).words()
    assert words[:4] == ["-m", "empssl", "train", "--config"]
    values, _ = cli.parse("train", empssl.train, words[3:])
    Path(words[4]).unlink()
    expected = arguments | {"data": "photos", "keep_epochs": [0.5, 1], "budget": None}
    assert {name: values[name] for name in arguments} == expected


def test_what_cannot_be_told_to_other_processes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"objective is <object.*cannot be told.*torchrun"):
        Call("train", {"objective": object()}).words()


@pytest.mark.parametrize(
    "name", ["byol", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ressl", "supcon"))]
)
def test_two_processes_share_target_predictor_queue_and_labels(name: str, tmp_path: Path) -> None:
    objective = STATEFUL.get(name, {"name": name})
    alone = train_tiny(
        tmp_path / "alone", steps=STEPS * (1437 // 8) / (1437 // BATCH), batch=BATCH,
        precision="64-true", objective=objective,
    )  # fmt: skip
    options = [f"--objective.{key}={value}" for key, value in objective.items()]
    words = command(tmp_path / "run", "--devices", "2", "--precision", "64-true", *options,
                    steps=STEPS, batch=BATCH)  # fmt: skip
    code, said = finish(start(*words))
    assert code == 0, said
    assert max(furthest(alone, tmp_path / "run").values()) < 1e-10


@pytest.mark.slow
def test_three_processes_under_torchrun_train_the_network_of_one(
    alone: Path, tmp_path: Path
) -> None:
    words = command(tmp_path / "run", "--precision", "64-true", steps=STEPS, batch=BATCH)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    process = subprocess.Popen(
        [sys.executable, *launcher, "-m", "empssl", *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    code, said = finish(process)
    assert code == 0, said
    assert Run(tmp_path / "run").environment["processes"] == 3
    assert max(furthest(alone, tmp_path / "run").values()) < 1e-10


def test_where_numbers_are_read_together_processes_agree_only_then(tmp_path: Path) -> None:
    """As several GPUs do, for which to agree is to wait."""
    script = (
        "import os, signal; from empssl import __main__\n"
        "from empssl.training import metrics_buffer, trainer\n"
        "step, agree = trainer.training_step, trainer.all_reduce_max\n"
        "rank, steps = os.environ.get('LOCAL_RANK', '0'), []\n"
        "def counted(*a, **k):\n"
        "    steps.append(0)\n"
        "    if rank == '1' and len(steps) == 18: signal.raise_signal(signal.SIGTERM)\n"
        "    return step(*a, **k)\n"
        "def noted(*a):\n"
        f"    with open('{tmp_path}/agreed' + rank, 'a') as file: print(len(steps), file=file)\n"
        "    return agree(*a)\n"
        "trainer.training_step, trainer.all_reduce_max = counted, noted\n"
        "metrics_buffer.SYNC_EVERY = {}\n"
        "__main__.run()\n"
    )
    path = tmp_path / "counting.py"  # a file, as the second process starts by running it again
    path.write_text(script)
    words = command(tmp_path / "run", "--devices", "2", "--keep-epochs",
                    str(3 / (1437 // BATCH)), steps=40, batch=BATCH)  # fmt: skip
    code, said = finish(start(*words, script=path))
    assert code == 143, said
    for rank in range(2):
        # Once a network was kept; then 16 steps after, when the signal is heard too.
        assert (tmp_path / f"agreed{rank}").read_text().split() == ["3", "19"]
    assert len(metrics(tmp_path / "run")) == 19


@pytest.mark.slow
def test_a_run_of_two_processes_can_be_resumed_by_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps = STEPS * (1437 // 8) / (1437 // BATCH)
    whole = train_tiny(tmp_path / "whole", steps=2 * steps, batch=BATCH, precision="64-true")
    script = (
        "import signal, sys; from empssl import __main__, training\n"
        "step = training.training_step\n"
        "def stopped(*a, **k):\n"
        "    if training.rank() == 1: signal.raise_signal(signal.SIGTERM)\n"
        "    return step(*a, **k)\n"
        "training.rank = lambda: int(__import__('os').environ['LOCAL_RANK'])\n"
        "training.training_step = stopped\n"
        "__main__.run()"
    )
    path = tmp_path / "stopping.py"  # a file, as the second process starts by running it again
    path.write_text(script)
    words = command(out, "--devices", "2", "--precision", "64-true", steps=2 * STEPS, batch=BATCH)
    code, said = finish(start(*words, script=path))
    assert code == 143, said
    assert len(metrics(out)) == 1  # the signal came to the second process; both stopped
    train_tiny(out, resume=True, epochs=None, batch=BATCH, precision="64-true")
    assert max(furthest(whole, out).values()) < 1e-10


# Failures


def test_an_error_in_the_first_process_ends_all_of_them(tiny_run: Path) -> None:
    with Run(tiny_run).lock():
        process = start("train", "digits", "--out", str(tiny_run), "--resume", "--devices", "2")
        code, said = finish(process)
    assert code == 8, said
    assert f"in use by process {os.getpid()}" in said


# The parts, in processes of their own


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 6),
            nn.BatchNorm1d(6), nn.Linear(6, 4),
        ).double()  # fmt: skip


def images() -> torch.Tensor:
    """View batch 3 8 8."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x * torch.arange(1, 7)[:, None, None, None]  # unlike, so that statistics differ


def measured(body: nn.Module, x: torch.Tensor, fabric: Any) -> dict[str, torch.Tensor]:
    """Loss, gradients and statistics of one step."""
    x = x.clone().requires_grad_()
    z = body(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    loss = EMP()(collectives.gather(fabric, z))
    loss.total.backward()
    found = {f"grad {name}": p.grad for name, p in body.named_parameters() if p.grad is not None}
    found |= {name: b.clone() for name, b in body.named_buffers()}
    assert x.grad is not None
    return found | {"loss": loss.total.detach(), "input": x.grad}


def worker(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    for kind in ("global", "local"):
        body = convert_to_global_batchnorm(network()) if kind == "global" else network()
        # `gather` only asks Fabric how many processes there are.
        found = measured(body, images()[:, share], SimpleNamespace(world_size=world))
        for name in found:
            if name.startswith("grad"):  # as DistributedDataParallel averages
                dist.all_reduce(found[name])
                found[name] /= world
        torch.save(found, f"{folder}/{kind}{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Shares:
    """What each of three processes measured, with statistics of all images and of its own."""
    folder, world = tmp_path_factory.mktemp("shares"), 3
    torch.multiprocessing.spawn(worker, (world, free_port(), str(folder)), nprocs=world)
    return {
        kind: [torch.load(folder / f"{kind}{rank}", weights_only=True) for rank in range(world)]
        for kind in ("global", "local")
    }


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    fabric = launch.launch(device="cpu", devices=1, precision="32-true")
    return measured(network(), images(), fabric)


def joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    # A process's input gradient is that of its own images, of a loss that all processes share and
    # each counts once.
    return parts[0] | {"input": torch.cat([part["input"] for part in parts], 1) / len(parts)}


def test_gradients_and_statistics_are_those_of_the_joined_batch(
    expected: dict[str, torch.Tensor], shares: Shares
) -> None:
    found = joined(shares["global"])
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12, msg=name)


def test_all_processes_have_the_same_loss_and_statistics(
    shares: Shares,
) -> None:
    first, *others = shares["global"]
    for name in first.keys() - {"input"}:
        assert all(torch.equal(first[name], other[name]) for other in others), name


def test_statistics_of_each_process_alone_would_be_noticed(
    expected: dict[str, torch.Tensor], shares: Shares
) -> None:
    found = joined(shares["local"])
    gradient = "grad 0.weight"
    error = (found[gradient] - expected[gradient]).norm() / expected[gradient].norm()
    assert error > 0.01


def test_every_batchnorm_is_replaced_and_keeps_its_state() -> None:
    body = network().train()
    body[1].running_mean.fill_(3.0)
    kinds = [type(module) for module in convert_to_global_batchnorm(body)]
    assert kinds.count(GlobalBatchNorm) == 2
    assert not {nn.BatchNorm1d, nn.BatchNorm2d} & set(kinds)
    assert body.state_dict().keys() == network().state_dict().keys()
    assert body[1].running_mean.tolist() == [3.0] * 5


def test_in_eval_mode_it_is_torchs_own() -> None:
    one, other = network().eval(), convert_to_global_batchnorm(network()).eval()
    x = images().flatten(0, 1)
    assert torch.equal(one(x), other(x))


def test_a_batchnorm_that_does_more_is_refused() -> None:
    class BatchNormAct(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    with pytest.raises(UsageError, match="BatchNormAct cannot be computed over several"):
        convert_to_global_batchnorm(nn.Sequential(BatchNormAct(3)))


# Every objective, in processes that each hold a share of the batch


def projected() -> torch.Tensor:
    """View batch dim, of the whole batch; more images than coordinates."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, BATCH, 4, generator=generator, dtype=torch.float64)


def weighed(name: str, share: slice, fabric: Any) -> dict[str, torch.Tensor]:
    """Loss, terms and gradients of one objective, of the projections of a share of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build_objective({"name": name}, dim=4).double()
    z = projected()[:, share].clone().requires_grad_()
    every = collectives.gather(fabric, z[made.weak_views :])
    targets = collectives.gather(fabric, projected().flip(-1)[: made.target_views, share])
    labels = collectives.gather_labels(fabric, torch.arange(BATCH)[share] // 2)
    loss = objective_loss(
        made, every, targets if made.target else None, labels if made.needs_labels else None
    )
    loss.total.backward()
    made.after_update(targets)
    assert z.grad is not None
    found = {"loss": loss.total.detach(), "input": z.grad}
    found |= {f"term {key}": term.detach() for key, term in loss.terms.items()}
    found |= {f"grad {key}": p.grad for key, p in made.named_parameters() if p.grad is not None}
    return found | made.state_dict()


def objectives_worker(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for name in OBJECTIVES:
        torch.save(
            weighed(name, share, SimpleNamespace(world_size=world)), f"{folder}/{name}{rank}"
        )
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def weighed_apart(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Shares:
    """What each process found, by objective."""
    folder, world = tmp_path_factory.mktemp("objectives"), request.param
    torch.multiprocessing.spawn(objectives_worker, (world, free_port(), str(folder)), nprocs=world)
    return {
        name: [torch.load(folder / f"{name}{rank}", weights_only=True) for rank in range(world)]
        for name in OBJECTIVES
    }


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_over_processes_is_that_of_the_whole_batch(
    name: str, weighed_apart: Shares
) -> None:
    fabric = launch.launch(device="cpu", devices=1, precision="32-true")
    expected = weighed(name, slice(None), fabric)
    found = joined(weighed_apart[name])
    assert expected.keys() == found.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_all_processes_find_the_same_gradients_for_an_objectives_own_weights(
    name: str, weighed_apart: Shares
) -> None:
    first, *rest = weighed_apart[name]
    for key in first.keys() - {"input"}:
        assert all(torch.equal(first[key], other[key]) for other in rest), key
