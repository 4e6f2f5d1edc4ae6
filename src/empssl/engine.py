"""Where a run computes: device, precision, processes. The only file that knows Lightning Fabric."""

import atexit
import ctypes
import logging
import os
import platform
import warnings
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from empssl import __version__
from empssl.ending import joining
from empssl.errors import RankError, UsageError, nearest
from empssl.processes import Call, children, start_children
from empssl.shapes import BatchLabels, Projections

try:
    from lightning_fabric import Fabric as Fabric
except ImportError:  # the same package, installed as part of lightning
    from lightning.fabric import Fabric as Fabric  # type: ignore[no-redef]

Precision = Literal["auto", "32-true", "bf16-mixed", "64-true"]
Compile = Literal["auto", "none", "default", "reduce-overhead", "max-autotune-no-cudagraphs"]

# What glibc may keep of freed memory. Below these sizes it neither maps blocks one by one nor
# gives them back after every step: 171 instead of 97 patches/s were measured (ResNet-18, 32 px,
# bfloat16, 2,000 patches a step, two cores).
_KEPT_BYTES = 2**31 - 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


# A forked child has torch's threads in name only, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def launch(
    *, device: str, devices: int, num_nodes: int = 1, precision: Precision, call: Call | None = None
) -> Fabric:
    """Start (or, under torchrun or SLURM, join) the processes of a run.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: processes on this machine.
        num_nodes: machines.
        precision: `auto` is bfloat16 autocast where the hardware multiplies it, else float32.
        call: what several processes are launched for.

    Raises:
        UsageError: the device or precision is not to be had here, or processes cannot be started.
    """
    device = resolve_device(device)
    if min(devices, num_nodes) < 1:
        raise UsageError(
            f"{devices} devices on {num_nodes} machines; at least one of each is needed"
        )
    if torch.distributed.is_torchelastic_launched():  # then torchrun has decided
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if device == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} devices were asked for, {torch.cuda.device_count()} are here")
    # float64 is left to the network's own type: Fabric's hands float32 projections back.
    half = resolve_precision(precision, device) == "bf16-mixed"
    keep_freed_memory()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Fabric advises srun, job schedulers and more workers; none of it concerns this program.
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if devices * num_nodes > 1 else "auto",
            precision="bf16-mixed" if half else "32-true",
        )
        if devices * num_nodes > 1:
            environment: Any = fabric.strategy
            assert call is not None
            start_children(environment.cluster_environment, devices, num_nodes, call)
        with joining():
            _launch(fabric)
    if fabric.world_size > 1:
        atexit.register(_leave)
    return fabric


def _launch(fabric: Fabric) -> None:
    """Have the processes meet.

    Raises:
        UsageError: the port where they should is taken.
        RankError: they did not.
    """
    try:
        fabric.launch()
    except torch.distributed.DistError as error:
        for child in children.values():  # which may not have come so far as to notice
            child.kill()
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "EADDRINUSE" in first or "address already in use" in str(error).lower():
            raise UsageError(
                f"port {os.environ.get('MASTER_PORT')} is in use by another program; set "
                "MASTER_PORT to a free one, or leave it to this program to find one"
            ) from error
        raise RankError(f"the processes did not meet: {first}") from error


def _leave() -> None:
    # Threads of gloo that are still there when Python ends make it abort, now and then.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def resolve_device(device: str) -> str:
    """The device that `auto` stands for.

    Raises:
        UsageError: it is not to be had here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available()}  # fmt: skip
    if device not in here:
        raise UsageError(f"no device '{device}': {nearest(device, ['auto', *here])}")
    if not here[device]:
        raise UsageError(f"device '{device}' was asked for, but torch finds none here")
    return device


def resolve_precision(precision: Precision, device: str) -> Any:
    """The precision that `auto` stands for on a device."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    flags = cpu_flags() if device == "cpu" else ""
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


def resolve_compile(mode: Compile, fabric: Fabric) -> Any:
    """The mode of `torch.compile` that `auto` stands for: its default in one process on a GPU.

    Triton writes the GPU's kernels. On the CPU compiling takes minutes and gains little; over
    processes BatchNorm's exchange would cut the network in pieces.
    """
    if mode != "auto":
        return mode
    alone = fabric.device.type == "cuda" and fabric.world_size == 1
    return "default" if alone and find_spec("triton") is not None else "none"


def settle(fabric: Fabric) -> None:
    """Wait for everything that the device has been told to do, before reading a clock."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    elif fabric.device.type == "mps":
        torch.mps.synchronize()


def cpu_flags() -> str:
    """The instruction sets of this CPU as Linux lists them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def keep_freed_memory(largest: int = _KEPT_BYTES) -> None:
    """Let the C allocator keep freed blocks for the next step (glibc only).

    Args:
        largest: bytes of a block that is kept; larger ones are given back at once.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, largest)
        libc.mallopt(_M_TRIM_THRESHOLD, largest)


def give_memory_back() -> None:
    """Leave as little as can be to the allocator: where memory is scarce, holes in it are dear."""
    keep_freed_memory(2**20)


def gather(fabric: Fabric, projections: Projections) -> Tensor:
    """The projections of all processes, in the order of the global batch, with their gradients.

    The backward pass sums over processes what DistributedDataParallel then averages, so the
    gradients are those of one process: no factor of the number of processes belongs in a loss.
    """
    if fabric.world_size == 1:
        return projections
    every: Tensor = _AllGather.apply(projections)  # process view batch dim
    return every.transpose(0, 1).flatten(1, 2)


def gather_labels(fabric: Fabric, labels: BatchLabels) -> Tensor:
    """The labels of all processes, in the order of the global batch."""
    every: Tensor = labels if fabric.world_size == 1 else _AllGather.apply(labels).flatten()
    return every


class _AllGather(torch.autograd.Function):
    """The tensors of all processes, stacked; backward sums what each process asks of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, x)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        total = upstream[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total[torch.distributed.get_rank()]


def agree(fabric: Fabric, *flags: int) -> list[int]:
    """The largest of each flag in any process, so that all take the same decisions.

    The host waits for the device, and for the other processes.
    """
    if fabric.world_size == 1:
        return list(flags)
    # Not fabric.all_reduce: it knows only sum and mean.
    values = torch.tensor(flags, dtype=torch.int64, device=fabric.device)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    largest: list[int] = values.tolist()
    return largest


def environment(fabric: Fabric, precision: Precision) -> dict[str, Any]:
    """What a result may depend on besides its configuration."""
    cuda = fabric.device.type == "cuda"
    return {
        "empssl": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(fabric.device) if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "processes": fabric.world_size,
        "precision": resolve_precision(precision, fabric.device.type),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def cpu_name() -> str:
    """The processor, and how many of its cores there are."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next((x for x in file if x.startswith("model name")), "")
    except OSError:
        line = ""
    return f"{line.partition(':')[2].strip() or platform.machine()}, {os.cpu_count()} cores"


def cores() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
