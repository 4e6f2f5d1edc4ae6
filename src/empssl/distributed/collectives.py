"""What processes tell each other: sums, maxima, gathered tensors and objects."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from empssl.device import Fabric
from empssl.errors import EmpsslError, RankError, UsageError
from empssl.types import BatchLabels, Projections

T = TypeVar("T")


def on_rank_zero(fabric: Fabric, action: Callable[[], T]) -> T | None:
    """Do something in the first process only; if it fails there, fail in all."""
    result, error = None, None
    if fabric.is_global_zero:
        try:
            result = action()
        except EmpsslError as caught:
            error = caught
    code = error.exit_code if error is not None else 0
    code = fabric.broadcast(code) if fabric.world_size > 1 else code
    if error is not None:
        raise error
    if code:
        raise RankError("process 0 could not do its part", code)
    return result


def gather(fabric: Fabric, projections: Projections) -> Tensor:
    """The projections of all processes, in the order of the global batch, with their gradients.

    The backward pass sums over processes what DistributedDataParallel then averages, so the
    gradients are those of one process: no factor of the number of processes belongs in a loss.
    """
    if fabric.world_size == 1:
        return projections
    gathered: Tensor = _AllGather.apply(projections)  # process view batch dim
    return gathered.transpose(0, 1).flatten(1, 2)


def gather_labels(fabric: Fabric, labels: BatchLabels) -> Tensor:
    """The labels of all processes, in the order of the global batch."""
    gathered: Tensor = labels if fabric.world_size == 1 else _AllGather.apply(labels).flatten()
    return gathered


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


def all_reduce_max(fabric: Fabric, *flags: int) -> list[int]:
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


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over processes."""
    if several():
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def all_reduce_autograd(x: Tensor) -> Tensor:
    """The sum over processes, of the values and, backward, of what each process asks of them.

    So each process gets the gradient of the sum of all losses, of which DistributedDataParallel
    then takes the mean: where all compute the same loss, that of one process.
    """
    total: Tensor = _AllReduceSum.apply(x)
    return total


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return all_reduce_sum(upstream[0])


def all_gather_object(value: Any) -> list[Any]:
    """What each process has, by rank."""
    gathered = [value]
    if several():
        gathered *= dist.get_world_size()
        dist.all_gather_object(gathered, value)
    return gathered


def check_same(facts: dict[str, Any]) -> None:
    """See that facts are the same in all processes, as is the program.

    Raises:
        UsageError: one is not; in all of them.
    """
    if not several():
        return
    gathered = all_gather_object(
        facts | {"empssl's code": code_digest(), "torch": torch.__version__}
    )
    for rank, other in enumerate(gathered):
        for name, value in gathered[0].items():
            if other.get(name) != value:
                raise UsageError(
                    f"{name} is {value!r} in process 0 and {other.get(name)!r} in process {rank}; "
                    "start all with the same command, on the same data, with the same program"
                )


def code_digest() -> str:
    """What this package's source is, in twelve digits."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
