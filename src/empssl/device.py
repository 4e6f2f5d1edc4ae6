"""Where a run computes: device, precision, memory. The only file that knows Lightning Fabric."""

import ctypes
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, Literal, Protocol, runtime_checkable

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from empssl._version import __version__
from empssl.errors import UsageError, nearest

# A forked child has torch's threads in name only, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


RESIDENT_SHARE = 0.25  # of the device's free memory that a data set may take; a step needs the rest
Precision = Literal["auto", "32-true", "bf16-mixed", "64-true"]
Compile = Literal["auto", "none", "default", "reduce-overhead", "max-autotune-no-cudagraphs"]
# What glibc may keep of freed memory. Below these sizes it neither maps blocks one by one nor
# gives them back after every step: 171 instead of 97 patches/s were measured (ResNet-18, 32 px,
# bfloat16, 2,000 patches a step, two cores).
_KEPT_BYTES = 2**31 - 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# What torch says in errors without a type of their own: of the CPU, of Apple's GPUs, of CUDA.
_REFUSED = (
    "can't allocate memory", "MPS backend out of memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device.

    A GPU copies from pinned memory while the host goes on; from other memory the host waits until
    everything before the copy is done.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def has_room(size: int, device: torch.device) -> bool:
    """Whether so many bytes of data may stay on the device: never on one that is not a GPU."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size <= RESIDENT_SHARE * free


@runtime_checkable
class Fabric(Protocol):
    """What this package asks of Lightning Fabric: the processes of a run, and their device."""

    @property
    def device(self) -> torch.device: ...
    @property
    def world_size(self) -> int: ...
    @property
    def global_rank(self) -> int: ...
    @property
    def is_global_zero(self) -> bool: ...
    @property
    def strategy(self) -> Any: ...
    def launch(self) -> Any: ...
    def setup(self, module: nn.Module) -> Any: ...
    def autocast(self) -> AbstractContextManager[None]: ...
    def backward(self, tensor: Tensor) -> None: ...
    def broadcast(self, obj: Any) -> Any: ...
    def barrier(self) -> None: ...


def build_fabric(**options: Any) -> Fabric:
    """Lightning's `Fabric`, with its own options.

    Imported only here: it imports torch's compiler, which takes as long as torch itself, and only
    training needs it.
    """
    try:
        from lightning_fabric import Fabric as Lightning
    except ImportError:  # the same package, installed as part of lightning
        from lightning.fabric import Fabric as Lightning  # type: ignore[no-redef]
    for name in ("lightning.fabric", "lightning_fabric"):  # whose import sets another level
        logging.getLogger(name).setLevel(logging.WARNING)
    return Lightning(**options)


class _Undrawn(TorchFunctionMode):
    """Leaves weights undrawn."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def outlines() -> Iterator[None]:
    """Modules that are made while the block runs have shapes only, however large they are.

    Weights are not drawn either: on the meta device that would import torch's compiler.
    """
    with torch.device("meta"), _Undrawn():
        yield


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
    processes BatchNorm's exchange would break the graph.
    """
    if mode != "auto":
        return mode
    single = fabric.device.type == "cuda" and fabric.world_size == 1
    return "default" if single and find_spec("triton") is not None else "none"


def synchronize(fabric: Fabric) -> None:
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
    return f"{line.partition(':')[2].strip() or platform.machine()}, {psutil.cpu_count()} cores"


def cores() -> int:
    """How many of them this process may use."""
    if hasattr(psutil.Process, "cpu_affinity"):  # not on macOS
        return len(psutil.Process().cpu_affinity() or ()) or 1
    return psutil.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused. Only some of torch's errors for it have a type of their own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSED)
    )


def free_bytes(device: torch.device) -> float | None:
    """Memory that a step could still take; None where that is not told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":  # whose share of the main memory is its own affair
        return None
    return float(psutil.virtual_memory().available)
