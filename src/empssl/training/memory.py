"""How much of a step is in memory at once: the ways to a step's gradients."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from empssl.device import Fabric, free_bytes
from empssl.distributed.collectives import all_reduce_max
from empssl.errors import UsageError, nearest
from empssl.models import Network
from empssl.models.batchnorm import GlobalBatchNorm
from empssl.models.segments import Activations, Segment, Statistics, segments_of

Memory = Literal["auto", "whole", "exact", "two-pass"]

FREE_SHARE = 0.8  # of the free memory that a step may plan with
# Autograd keeps a convolution's output and what the activation made of it; only the first of the
# two is carried from segment to segment.
KEPT_PER_CARRIED = 2
# GlobalBatchNorm keeps, in place of that output, its distance from the mean, which is in float32.
KEPT_PER_CARRIED_IN_HALF = 3
CHUNK = {"cpu": 128}  # patches at a time, by type of device
CHUNK_ELSEWHERE = 2048
_UNKNOWN = 2**62  # bytes, more than there are: of a system that does not tell how many are free


@dataclass(frozen=True)
class MemoryPlan:
    """How the gradients of a step are computed.

    Attributes:
        mode: `whole`: all at once. `exact`: the backbone in chunks of patches, with the statistics
            and the gradients of the whole batch. `two-pass`: in chunks of view indices, each with
            BatchNorm statistics of its own, which is another method.
        chunk: patches at a time.
        boundaries: in `exact`, the segments of the backbone whose input is kept, ascending, the
            first always; what lies between is computed again.
    """

    mode: Literal["whole", "exact", "two-pass"] = "whole"
    chunk: int = 0
    boundaries: tuple[int, ...] = (0,)


WHOLE = MemoryPlan()


def lower_memory_mode(mode: str, network: Network) -> str | None:
    """The mode that takes less memory for the same gradients; None if there is none.

    Args:
        mode: of the plan that took too much.
        network: what computes the projections.
    """
    return "exact" if mode == "whole" and segments_of(network.backbone) is not None else None


def plan_memory(
    mode: str,
    network: Network,
    images: Tensor,
    *,
    patches: int,
    free: float | None,
    autocast: Callable[[], AbstractContextManager[object]],
) -> MemoryPlan:
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
        return MemoryPlan()
    if mode == "two-pass":
        return MemoryPlan("two-pass", chunk)
    segments = segments_of(network.backbone)
    if segments is None:
        if mode == "auto":
            return MemoryPlan()
        raise UsageError(
            "memory is 'exact', but this backbone cannot be cut at its norms; choose 'whole', or "
            "'two-pass' with BatchNorm statistics of each chunk"
        )
    stages = _stages(segments, images, autocast)
    everything = _kept_per_carried(network, images, autocast) * sum(stage.made for stage in stages)
    room = float("inf") if free is None else FREE_SHARE * free
    if mode == "auto" and everything * patches <= room:
        return MemoryPlan()
    end = _head_size(network)
    return MemoryPlan("exact", chunk, boundaries(stages, end, room / patches))


def boundaries(stages: Sequence["Stage"], end: float, limit: float) -> tuple[int, ...]:
    """The segments whose input should be kept, for the least work within a limit.

    Each begins a span that ends where the next begins. While a span is at work, its input and those
    of the spans before it are in memory, and its output or that output's gradient. Among the ways
    to the start of each span only those are followed that no other beats in both memory and work.

    Args:
        stages: the segments.
        end: bytes of what follows the last segment.
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
    """FLOP of a span: each of its norms wants the way up to it, and the whole of it and back."""

    def flops(first: int, after: int) -> float:
        return sum(stage.flops for stage in stages[first:after])

    inner = [k for k in range(start + 1, stop) if stages[k].normed]
    again = sum(flops(start, k) + flops(start, stop) + flops(k, stop) for k in inner)
    return again + 4 * flops(start, stop)


@dataclass(frozen=True)
class Stage:
    """A segment of the backbone as planning sees it.

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
    segments: list[Segment], images: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> list[Stage]:
    """Each segment, measured on two patches; all numbers are of one."""
    activations: Activations = (images[:2],)
    stages = []
    for segment in segments:
        found = [
            None if norm is None else Statistics.of([x])
            for norm, x in zip(segment.norms, activations, strict=True)
        ]
        with torch.no_grad(), autocast(), FlopCounterMode(display=False) as counter:
            after = segment(activations, found)
        new = [x for x in after if all(x is not y for y in activations)]
        flops = counter.get_total_flops() / 2
        stages.append(Stage(_size(activations), any(segment.norms), flops, _size(new)))
        activations = after
    return stages


def _kept_per_carried(
    network: nn.Module, images: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> int:
    """What autograd keeps of a step, as a multiple of what is carried from segment to segment."""
    with autocast():
        half = torch.is_autocast_enabled(images.device.type)
    own = any(isinstance(module, GlobalBatchNorm) for module in network.modules())
    return KEPT_PER_CARRIED_IN_HALF if half and own else KEPT_PER_CARRIED


def _size(tensors: Sequence[Tensor]) -> float:
    """Bytes a patch."""
    return sum((x.numel() * x.element_size() / len(x) for x in tensors), 0.0)


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
    least = -all_reduce_max(fabric, -_UNKNOWN if free is None else -int(free))[0]
    return None if least == _UNKNOWN else float(least)
