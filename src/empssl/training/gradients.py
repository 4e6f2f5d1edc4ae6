"""A step's projections, with gradients that need little memory.

`project` is one differentiable function of the network's parameters, whichever way it takes:

    whole      all activations are kept for the backward pass
    exact      the backbone is computed in chunks and computed again for its gradients
    two-pass   the whole network is, and each chunk has BatchNorm statistics of its own

so that a step is `project`, the objective, and one `backward`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from empssl.device import Fabric, give_memory_back
from empssl.distributed.collectives import all_reduce_sum
from empssl.models import Network
from empssl.models.batchnorm import track
from empssl.models.segments import Activations, Moments, Segment, Statistics, segments_of
from empssl.training.memory import MemoryPlan

Context = Callable[[], AbstractContextManager[object]]
SegmentStatistics = list[Statistics | None]  # of each tensor that enters a segment
GradFns = list[Callable[[Tensor], Tensor] | None]  # of each tensor that enters a segment


def project(
    fabric: Fabric, module: nn.Module, images: Tensor, plan: MemoryPlan, batch: int
) -> Tensor:
    """Projections of all views that this process holds, (view*batch, dim).

    The gradients that `backward` gives the parameters are, by `whole` and `exact`, those of the
    whole batch at once. Before an optimizer's step they want `average_gradients`.

    Args:
        fabric: of the run.
        module: the network as Fabric wraps it.
        images: (view*batch, 3, side, side).
        plan: how much is in memory at once.
        batch: images of each view.
    """
    if plan.mode == "whole":
        projections: Tensor = module(images)
        return projections
    network = _unwrapped(module)
    # Autograd calls a function's backward only if something that enters it wants a gradient.
    anchor = torch.zeros((), requires_grad=True)
    if plan.mode == "exact":
        segments = segments_of(network.backbone)
        assert segments is not None
        if images.device.type == "cpu":
            give_memory_back()
        way = Recomputation(segments, plan.boundaries, fabric.autocast)
        embeddings: Tensor = _Recomputed.apply(anchor, images, way, plan.chunk)
        with fabric.autocast():
            exact: Tensor = network.projector(embeddings)
        return exact
    chunk = max(1, plan.chunk // batch) * batch
    two_pass: Tensor = _TwoPass.apply(anchor, images, network, fabric.autocast, chunk)
    return two_pass


def average_gradients(fabric: Fabric, module: nn.Module, plan: MemoryPlan) -> None:
    """The mean of each gradient over processes, where DistributedDataParallel did not take it."""
    if plan.mode == "whole" or fabric.world_size == 1:
        return
    for weight in _unwrapped(module).parameters():
        if weight.grad is not None:
            weight.grad = all_reduce_sum(weight.grad) / fabric.world_size


def _unwrapped(module: nn.Module) -> Network:
    original: Any = getattr(module, "module", module)  # without Fabric's wrappers
    network: Network = original
    return network


class _Recomputed(torch.autograd.Function):
    """The backbone in chunks; what follows is small and stays whole."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, images: Tensor, way: "Recomputation", chunk: int
    ) -> Tensor:
        ctx.way, ctx.chunk = way, chunk
        return torch.cat(way.forward(images.split(chunk)))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, None]:
        with torch.enable_grad():
            ctx.way.backward(upstream[0].split(ctx.chunk))
        return None, None, None, None


class _TwoPass(torch.autograd.Function):
    """First all projections without a graph, then each chunk again with its share of the gradient.

    GradCache (Gao et al., 2021). Every chunk, in both passes, is normalized by its own statistics;
    the running ones see each chunk once.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, images: Tensor, network: Network, autocast: Context, chunk: int
    ) -> Tensor:
        ctx.images, ctx.network, ctx.autocast, ctx.chunk = images, network, autocast, chunk
        with autocast(), _untracked(network):
            return torch.cat([network(part) for part in images.split(chunk)])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, None, None]:
        chunks = zip(ctx.images.split(ctx.chunk), upstream[0].split(ctx.chunk), strict=True)
        for part, gradient in chunks:
            with torch.enable_grad(), ctx.autocast():
                again = ctx.network(part)
            torch.autograd.backward(again, gradient)
        return None, None, None, None, None


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


class Recomputation:
    """Embeddings and gradients of a backbone over chunks: little is kept, the rest computed again.

    The chain of segments is cut into spans. Only what enters a span is kept, for all patches; what
    lies inside is computed again, chunk by chunk, whenever it is wanted: once for each norm, whose
    statistics are those of the whole batch, and once more for the gradients of each.

    Args:
        segments: the chain.
        boundaries: the first segment of each span, ascending, 0 the first.
        autocast: the context of the forward pass.
    """

    def __init__(
        self, segments: Sequence[Segment], boundaries: Sequence[int], autocast: Context
    ) -> None:
        self.segments = segments
        self.spans = list(pairwise([*boundaries, len(segments)]))
        self.autocast = autocast
        self.kept: dict[int, list[Activations]] = {}
        self.statistics: list[SegmentStatistics] = []

    def forward(self, chunks: Sequence[Tensor]) -> list[Tensor]:
        """The chain's output for each chunk; the norms' running statistics see the batch once."""
        entering: list[Activations] = [(chunk,) for chunk in chunks]
        for start, stop in self.spans:
            self.kept[start] = entering
            for index in range(start, stop):
                self.statistics.append(self._measure(start, index))
            entering = list(self._each(start, stop))
        return [activations[0] for activations in entering]

    def backward(self, gradients: Sequence[Tensor]) -> None:
        """Add to the gradients of the segments' parameters, given those of the chain's output.

        The statistics are inputs of their segment like any other. What the loss's gradient by them
        asks of the numbers that they are the statistics of is known once the whole batch has
        passed; then it is the `gradient` of what enters that segment.
        """
        gradients_out: list[Activations] = [(gradient,) for gradient in gradients]
        grad_fns: dict[int, GradFns] = {}
        for start, stop in reversed(self.spans):
            for index in range(stop - 1, start, -1):
                if any(self.statistics[index]):
                    leaves = _leaves(self.statistics[index])
                    for at, activations in enumerate(self._each(start, index)):
                        self._pass_back(
                            index, stop, activations, leaves, gradients_out[at], grad_fns
                        )
                    grad_fns[index] = _grad_fns(leaves)
            leaves = _leaves(self.statistics[start])
            kept = self.kept.pop(start)
            for at in range(len(kept)):
                inputs = tuple(x.detach().requires_grad_(start > 0) for x in kept[at])
                self._pass_back(start, stop, inputs, leaves, gradients_out[at], grad_fns, last=True)
                kept[at] = ()  # its place in memory is its gradient's
                gradients_out[at] = tuple(x.grad for x in inputs) if start else ()  # type: ignore[misc]
            grad_fns = {start: _grad_fns(leaves)}

    def _each(self, start: int, stop: int) -> Iterator[Activations]:
        """What enters the segment `stop`, chunk by chunk, computed from what is kept."""
        for activations in self.kept[start]:
            with torch.no_grad(), self.autocast():
                for index in range(start, stop):
                    activations = self.segments[index](activations, self.statistics[index])
            yield activations

    def _measure(self, start: int, index: int) -> SegmentStatistics:
        """The statistics of what enters a segment."""
        norms = self.segments[index].norms
        if not any(norms):
            return [None] * len(norms)
        moments = [None if norm is None else Moments() for norm in norms]
        for activations in self._each(start, index):
            for part, of in zip(activations, moments, strict=True):
                if of is not None:
                    of.add(part)
        found = [None if of is None else of.statistics() for of in moments]
        for norm, statistics in zip(norms, found, strict=True):
            if norm is not None and statistics is not None:
                track(norm, statistics.mean, statistics.var, statistics.count)
        return found

    def _pass_back(
        self,
        start: int,
        stop: int,
        activations: Activations,
        leaves: SegmentStatistics,
        gradients_out: Activations,
        grad_fns: dict[int, GradFns],
        *,
        last: bool = False,
    ) -> None:
        """One chunk from segment `start` to the span's end and back.

        Args:
            start: the segment that it enters.
            stop: the end of the span.
            activations: what enters.
            leaves: its statistics, which get their gradients; with `last` everything does.
            gradients_out: the gradient of what leaves the span.
            grad_fns: of what enters the later segments, and of what leaves.
            last: the span's other statistics have had their turn.
        """
        outputs: list[Tensor] = []
        wanted: list[Tensor] = []
        with self.autocast():
            for index in range(start, stop):
                activations = self.segments[index](
                    activations, leaves if index == start else self.statistics[index]
                )
                after = grad_fns.get(index + 1, [None] * len(activations))
                for x, grad_fn in zip(activations, after, strict=True):
                    if grad_fn is not None:
                        outputs.append(x)
                        wanted.append(grad_fn(x.detach()).to(x.dtype))
        outputs += activations
        wanted += gradients_out
        # Before the last pass some do not depend on these leaves.
        roots = [(x, g) for x, g in zip(outputs, wanted, strict=True) if x.requires_grad]
        sources = [x for leaf in leaves if leaf is not None for x in (leaf.mean, leaf.var)]
        torch.autograd.backward(
            [x for x, _ in roots], [g for _, g in roots], inputs=None if last else sources
        )


def _leaves(found: SegmentStatistics) -> SegmentStatistics:
    return [None if statistics is None else statistics.leaves() for statistics in found]


def _grad_fns(leaves: SegmentStatistics) -> GradFns:
    return [None if leaf is None else _grad_fn(leaf) for leaf in leaves]


def _grad_fn(leaf: Statistics) -> Callable[[Tensor], Tensor]:
    assert leaf.mean.grad is not None
    assert leaf.var.grad is not None
    by_mean, by_var = all_reduce_sum(leaf.mean.grad), all_reduce_sum(leaf.var.grad)
    fixed = Statistics(leaf.mean.detach(), leaf.var.detach(), leaf.count)
    return lambda x: fixed.gradient(x, by_mean, by_var)
