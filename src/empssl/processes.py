"""The processes of a run: starting them, comparing them, and sums over them."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from empssl.errors import UsageError

# Those that this one has started, by rank; for as long as it lives.
children: dict[int, "subprocess.Popen[bytes]"] = {}


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(x: Tensor) -> Tensor:
    """The sum over processes."""
    if several():
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def added(x: Tensor) -> Tensor:
    """The sum over processes, of the values and, backward, of what each process asks of them.

    So each process gets the gradient of the sum of all losses, of which DistributedDataParallel
    then takes the mean: where all compute the same loss, that of one process.
    """
    total: Tensor = _Added.apply(x)
    return total


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return summed(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return summed(upstream[0])


def start_children(environment: Any, devices: int, num_nodes: int) -> None:
    """Start this command again for the other processes of this machine, unless a launcher has.

    Fabric would do so too, but end this process by a signal when another one fails.

    Args:
        environment: Lightning's cluster environment.
        devices: processes on this machine.
        num_nodes: machines.
    """
    if environment.creates_processes_externally:
        return
    os.environ |= {
        "MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()), "LOCAL_RANK": "0",
        "WORLD_SIZE": str(devices * num_nodes),
    }  # fmt: skip
    for local in range(1, devices):
        children[environment.node_rank() * devices + local] = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {"LOCAL_RANK": str(local)},
        )


def dead_child() -> str | None:
    """Which of the processes started here ended without success, and how."""
    for rank, child in children.items():
        code = child.poll()
        if code is not None and code < 0:
            return f"process {rank} was ended by signal {-code} ({signal.Signals(-code).name})"
        if code:
            return f"process {rank} ended with exit code {code}"
    return None


def restarted() -> bool:
    """Whether torchrun has started this process in place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def torchrun_launch() -> str | None:
    """A name of this launch that torchrun keeps over restarts; None where there is none."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if os.environ.get("GROUP_WORLD_SIZE") == "1" and "TORCHELASTIC_ERROR_FILE" in os.environ:
        # The folder of its logs, which is new each time. A user's own name need not be.
        return Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[2].name
    return None if name == "none" else name


def gathered(value: Any) -> list[Any]:
    """What each process has, by rank."""
    every = [value]
    if several():
        every *= dist.get_world_size()
        dist.all_gather_object(every, value)
    return every


def check_same(facts: dict[str, Any]) -> None:
    """See that facts are the same in all processes, as is the program.

    Raises:
        UsageError: one is not; in all of them.
    """
    if not several():
        return
    every = gathered(facts | {"empssl's code": code_digest(), "torch": torch.__version__})
    for rank, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                raise UsageError(
                    f"{name} is {value!r} in process 0 and {other.get(name)!r} in process {rank}; "
                    "start all with the same command, on the same data, with the same program"
                )


def code_digest() -> str:
    """What this package's source is, in twelve digits."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
