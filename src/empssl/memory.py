"""How much of a step is in memory at once: the ways to a step's gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from empssl.engine import Fabric, agree, give_memory_back
from empssl.errors import UsageError, nearest
from empssl.models import Network
from empssl.models.batchnorm import GlobalBatchNorm
from empssl.models.pieces import Carry, Piece, Statistics, pieces_of
from empssl.objectives.objective import Loss
from empssl.processes import summed
from empssl.recomputation import Recomputation

Memory = Literal["auto", "whole", "exact", "two-pass"]
ToLoss = Callable[[Tensor], Loss]  # from the projections of all views, (view*batch, dim)

FREE_SHARE = 0.8  # of the free memory that a step may plan with
# Autograd keeps a convolution's output and what the activation made of it; only the first of the
# two is carried from piece to piece.
KEPT_PER_CARRIED = 2
# GlobalBatchNorm keeps, in place of that output, its distance from the mean, which is in float32.
KEPT_PER_CARRIED_IN_HALF = 3
CHUNK = {"cpu": 128}  # patches at a time, by type of device
CHUNK_ELSEWHERE = 2048
# What torch says in errors without a type of their own: of the CPU, of Apple's GPUs, of CUDA.
_REFUSED = (
    "can't allocate memory", "MPS backend out of memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip
_UNTOLD = 2**62  # bytes, more than there are: of a system that does not tell how many are free


@dataclass(frozen=True)
class Plan:
    """How the gradients of a step are computed.

    Attributes:
        mode: `whole`: all at once. `exact`: the backbone in chunks of patches, with the statistics
            and the gradients of the whole batch. `two-pass`: in chunks of view indices, each with
            BatchNorm statistics of its own, which is another method.
        chunk: patches at a time.
        boundaries: in `exact`, the pieces of the backbone whose input is kept, ascending, the
            first always; what lies between is computed again.
    """

    mode: Literal["whole", "exact", "two-pass"] = "whole"
    chunk: int = 0
    boundaries: tuple[int, ...] = (0,)


WHOLE = Plan()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused. Only some of torch's errors for it have a type of their own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSED)
    )


def smaller(mode: str, network: Network) -> str | None:
    """The mode that takes less memory for the same gradients; None if there is none.

    Args:
        mode: of the plan that took too much.
        network: what computes the projections.
    """
    return "exact" if mode == "whole" and pieces_of(network.backbone) is not None else None


def plan(
    mode: str,
    network: Network,
    images: Tensor,
    *,
    patches: int,
    free: float | None,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Plan:
    """The plan for a step.

    Args:
        mode: one of `Memory`; `auto` is whole where that is expected to fit, else exact.
        network: what computes the projections.
        images: two views or more, as the network sees them.
        patches: views of all images that this process holds of a step.
        free: bytes; None where that is not known, and then nothing is assumed to be too large.
        autocast: the context of the forward pass.

    Raises:
        UsageError: exact was asked for, or is needed, but the backbone cannot be cut.
    """
    if mode not in get_args(Memory):
        raise UsageError(f"no memory '{mode}': {nearest(mode, get_args(Memory))}")
    chunk = CHUNK.get(images.device.type, CHUNK_ELSEWHERE)
    # Not measured where nothing could follow from it: on Apple's GPUs it cannot be.
    if mode == "whole" or (mode == "auto" and free is None):
        return Plan()
    if mode == "two-pass":
        return Plan("two-pass", chunk)
    pieces = pieces_of(network.backbone)
    if pieces is None:
        if mode == "auto":
            return Plan()
        raise UsageError(
            "memory is 'exact', but this backbone cannot be cut at its norms; choose 'whole', or "
            "'two-pass' with BatchNorm statistics of each chunk"
        )
    stages = _stages(pieces, images, autocast)
    everything = _kept_per_carried(network, images, autocast) * sum(stage.made for stage in stages)
    room = float("inf") if free is None else FREE_SHARE * free
    if mode == "auto" and everything * patches <= room:
        return Plan()
    end = _head_size(network)
    return Plan("exact", chunk, boundaries(stages, end, room / patches))


def boundaries(stages: Sequence["Stage"], end: float, limit: float) -> tuple[int, ...]:
    """The pieces whose input should be kept, for the least work within a limit.

    While a segment is at work, its input and those of the segments before it are in memory, and
    its output or that output's gradient. Among the ways to the start of each segment only those
    are followed that no other beats in both memory and work.

    Args:
        stages: the pieces.
        end: bytes of what follows the last piece.
        limit: bytes; where nothing fits, as little as can be is kept.

    >>> stages = [Stage(1.0, True, 1.0), Stage(8.0, True, 1.0), Stage(2.0, True, 1.0)]
    >>> boundaries(stages, 1.0, 4.0), boundaries(stages, 1.0, 20.0)
    ((0, 2), (0, 1, 2))
    """
    size = [*(stage.entering for stage in stages), end]
    ways: list[list[tuple[float, float, tuple[int, ...]]]] = [[] for _ in size]
    ways[0] = [(size[0], 0.0, (0,))]
    for stop in range(1, len(size)):
        found = [
            (held + size[stop], work + _work(stages, start, stop), (*chosen, stop))
            for start in range(stop) for held, work, chosen in ways[start]
            if held + size[stop] <= limit
        ]  # fmt: skip
        for way in sorted(found):
            if not ways[stop] or way[1] < ways[stop][-1][1]:
                ways[stop].append(way)
    if not ways[-1]:
        return (0,)
    return min(ways[-1], key=lambda way: way[1])[2][:-1]


def _work(stages: Sequence["Stage"], start: int, stop: int) -> float:
    """FLOP of a segment: each of its norms wants the way up to it, and the whole of it and back."""

    def flops(first: int, after: int) -> float:
        return sum(stage.flops for stage in stages[first:after])

    inner = [k for k in range(start + 1, stop) if stages[k].normed]
    again = sum(flops(start, k) + flops(start, stop) + flops(k, stop) for k in inner)
    return again + 4 * flops(start, stop)


def backward(
    fabric: Fabric, module: nn.Module, images: Tensor, to_loss: ToLoss, plan: Plan, batch: int
) -> Loss:
    """Compute the loss of a step and add its gradients to those of the parameters.

    Args:
        fabric: of the run.
        module: the network as Fabric wraps it.
        images: (view*batch, 3, side, side).
        to_loss: from projections to the loss, over all processes.
        plan: how.
        batch: images of each view.
    """
    if plan.mode == "whole":
        loss = to_loss(module(images))
        fabric.backward(loss.total)
        return loss
    original: Any = getattr(module, "module", module)  # without Fabric's wrappers
    network: Network = original
    if plan.mode == "exact":
        loss = _exact(fabric, network, images, to_loss, plan)
    else:
        loss = _two_pass(fabric, network, images, to_loss, max(1, plan.chunk // batch) * batch)
    if fabric.world_size > 1:  # as DistributedDataParallel does
        for weight in network.parameters():
            if weight.grad is not None:
                weight.grad = summed(weight.grad) / fabric.world_size
    return loss


def _exact(fabric: Fabric, network: Network, images: Tensor, to_loss: ToLoss, plan: Plan) -> Loss:
    """The backbone in chunks, the rest at once, as it is small."""
    pieces = pieces_of(network.backbone)
    assert pieces is not None
    if images.device.type == "cpu":
        give_memory_back()
    way = Recomputation(pieces, plan.boundaries, fabric.autocast)
    embeddings = way.forward(images.split(plan.chunk))
    h = torch.cat(embeddings).requires_grad_()
    with fabric.autocast():
        projections = network.projector(h)
    loss = to_loss(projections)
    loss.total.backward()
    del projections
    assert h.grad is not None
    way.backward(h.grad.split(plan.chunk))
    return loss


def _two_pass(
    fabric: Fabric, network: Network, images: Tensor, to_loss: ToLoss, chunk: int
) -> Loss:
    """First all projections without a graph, then each chunk again with its share of the gradient.

    GradCache (Gao et al., 2021). Every chunk, in both passes, is normalized by its own statistics;
    the running ones see each chunk once.
    """
    with torch.no_grad(), fabric.autocast(), _untracked(network):
        parts = [network(part) for part in images.split(chunk)]
    projections = torch.cat(parts).requires_grad_()
    loss = to_loss(projections)
    loss.total.backward()
    assert projections.grad is not None
    for part, gradient in zip(images.split(chunk), projections.grad.split(chunk), strict=True):
        with fabric.autocast():
            again = network(part)
        torch.autograd.backward(again, gradient)
    return loss


@contextmanager
def _untracked(network: nn.Module) -> Iterator[None]:
    """Running statistics as if nothing had been seen."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    yield
    with torch.no_grad():
        for norm, buffers in zip(norms, before, strict=True):
            for name, values in buffers.items():
                norm.get_buffer(name).copy_(values)


@dataclass(frozen=True)
class Stage:
    """A piece of the backbone as planning sees it.

    Attributes:
        entering: bytes that enter it.
        normed: whether it begins with a norm.
        flops: of its forward pass.
        made: bytes that it makes anew.
    """

    entering: float
    normed: bool
    flops: float
    made: float = 0.0


def _stages(
    pieces: list[Piece], images: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> list[Stage]:
    """Each piece, measured on two patches; all numbers are of one."""
    carry: Carry = (images[:2],)
    stages = []
    for piece in pieces:
        found = [
            None if norm is None else Statistics.of([x])
            for norm, x in zip(piece.norms, carry, strict=True)
        ]
        with torch.no_grad(), autocast(), FlopCounterMode(display=False) as counter:
            after = piece(carry, found)
        new = [x for x in after if all(x is not y for y in carry)]
        flops = counter.get_total_flops() / 2
        stages.append(Stage(_size(carry), any(piece.norms), flops, _size(new)))
        carry = after
    return stages


def _kept_per_carried(
    network: nn.Module, images: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> int:
    """What autograd keeps of a step, as a multiple of what is carried from piece to piece."""
    with autocast():
        half = torch.is_autocast_enabled(images.device.type)
    own = any(isinstance(module, GlobalBatchNorm) for module in network.modules())
    return KEPT_PER_CARRIED_IN_HALF if half and own else KEPT_PER_CARRIED


def _size(tensors: Sequence[Tensor]) -> float:
    """Bytes a patch."""
    return sum(x.numel() * x.element_size() / len(x) for x in tensors)


def _head_size(network: Network) -> float:
    """Bytes a patch that the projector's way to the loss and back holds, in float32."""
    widths = [m.out_features for m in network.projector.modules() if isinstance(m, nn.Linear)]
    return 4.0 * KEPT_PER_CARRIED * sum(widths)


def free_of_each(fabric: Fabric) -> float | None:
    """Memory that a step of every process could take, the same in all, as their plans must be.

    A GPU belongs to one process; those of a machine share its main memory.
    """
    free = free_bytes(fabric.device)
    if free is not None and fabric.device.type != "cuda":
        free /= getattr(fabric.strategy, "num_processes", 1)  # a strategy for one has none
    least = -agree(fabric, -_UNTOLD if free is None else -int(free))[0]
    return None if least == _UNTOLD else float(least)


def free_bytes(device: torch.device) -> float | None:
    """Memory that a step could still take; None where that is not told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
    except OSError:
        return None
    available = lines.get("MemAvailable")
    return None if available is None else 1024.0 * int(available.split()[0])
