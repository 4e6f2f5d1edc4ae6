"""A backbone's embeddings and gradients over chunks: little is kept, the rest is computed again.

The chain of pieces is cut into segments. Only what enters a segment is kept, for all patches; what
lies inside is computed again, chunk by chunk, whenever it is wanted: once for each norm, whose
statistics are those of the whole batch, and once more for the gradients of each.
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
from empssl.objectives.base import Loss
from empssl.training.memory import MemoryPlan

Context = Callable[[], AbstractContextManager[object]]
SegmentStatistics = list[Statistics | None]  # of each tensor that enters a piece
GradFns = list[Callable[[Tensor], Tensor] | None]  # of each tensor that enters a piece


class Recomputation:
    """One step's way through a chain of pieces, forth and then back.

    Args:
        pieces: the chain.
        boundaries: the first piece of each segment, ascending, 0 the first.
        autocast: the context of the forward pass.
    """

    def __init__(
        self, pieces: Sequence[Segment], boundaries: Sequence[int], autocast: Context
    ) -> None:
        self.pieces = pieces
        self.segments = list(pairwise([*boundaries, len(pieces)]))
        self.autocast = autocast
        self.kept: dict[int, list[Activations]] = {}
        self.statistics: list[SegmentStatistics] = []

    def forward(self, chunks: Sequence[Tensor]) -> list[Tensor]:
        """The chain's output for each chunk; the norms' running statistics see the batch once."""
        carries: list[Activations] = [(chunk,) for chunk in chunks]
        for start, stop in self.segments:
            self.kept[start] = carries
            for index in range(start, stop):
                self.statistics.append(self._measure(start, index))
            carries = list(self._each(start, stop))
        return [carry[0] for carry in carries]

    def backward(self, gradients: Sequence[Tensor]) -> None:
        """Add to the gradients of the pieces' parameters, given those of the chain's output.

        The statistics are inputs of their piece like any other. What the loss's gradient by them
        asks of the numbers that they are the statistics of is known once the whole batch has
        passed; then it is the `slope` of what enters that piece.
        """
        asked: list[Activations] = [(gradient,) for gradient in gradients]
        slopes: dict[int, GradFns] = {}
        for start, stop in reversed(self.segments):
            for index in range(stop - 1, start, -1):
                if any(self.statistics[index]):
                    leaves = _leaves(self.statistics[index])
                    for at, carry in enumerate(self._each(start, index)):
                        self._pass_back(index, stop, carry, leaves, asked[at], slopes)
                    slopes[index] = _slopes(leaves)
            leaves = _leaves(self.statistics[start])
            kept = self.kept.pop(start)
            for at in range(len(kept)):
                inputs = tuple(x.detach().requires_grad_(start > 0) for x in kept[at])
                self._pass_back(start, stop, inputs, leaves, asked[at], slopes, last=True)
                kept[at] = ()  # its place in memory is its gradient's
                asked[at] = tuple(x.grad for x in inputs) if start else ()  # type: ignore[misc]
            slopes = {start: _slopes(leaves)}

    def _each(self, start: int, stop: int) -> Iterator[Activations]:
        """What enters the piece `stop`, chunk by chunk, computed from what is kept."""
        for carry in self.kept[start]:
            with torch.no_grad(), self.autocast():
                for index in range(start, stop):
                    carry = self.pieces[index](carry, self.statistics[index])
            yield carry

    def _measure(self, start: int, index: int) -> SegmentStatistics:
        """The statistics of what enters a piece."""
        norms = self.pieces[index].norms
        if not any(norms):
            return [None] * len(norms)
        moments = [None if norm is None else Moments() for norm in norms]
        for carry in self._each(start, index):
            for part, of in zip(carry, moments, strict=True):
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
        carry: Activations,
        leaves: SegmentStatistics,
        asked: Activations,
        slopes: dict[int, GradFns],
        *,
        last: bool = False,
    ) -> None:
        """One chunk from piece `start` to the segment's end and back.

        Args:
            start: the piece that it enters.
            stop: the end of the segment.
            carry: what enters.
            leaves: its statistics, which get their gradients; with `last` everything does.
            asked: the gradient of what leaves the segment.
            slopes: of what enters the later pieces, and of what leaves.
            last: the segment's other statistics have had their turn.
        """
        outputs: list[Tensor] = []
        wanted: list[Tensor] = []
        with self.autocast():
            for index in range(start, stop):
                carry = self.pieces[index](
                    carry, leaves if index == start else self.statistics[index]
                )
                for x, slope in zip(carry, slopes.get(index + 1, [None] * len(carry)), strict=True):
                    if slope is not None:
                        outputs.append(x)
                        wanted.append(slope(x.detach()).to(x.dtype))
        outputs += carry
        wanted += asked
        # Before the last pass some do not depend on these leaves.
        roots = [(x, g) for x, g in zip(outputs, wanted, strict=True) if x.requires_grad]
        sources = [x for leaf in leaves if leaf is not None for x in (leaf.mean, leaf.var)]
        torch.autograd.backward(
            [x for x, _ in roots], [g for _, g in roots], inputs=None if last else sources
        )


def _leaves(found: SegmentStatistics) -> SegmentStatistics:
    return [None if statistics is None else statistics.leaves() for statistics in found]


def _slopes(leaves: SegmentStatistics) -> GradFns:
    return [None if leaf is None else _slope(leaf) for leaf in leaves]


def _slope(leaf: Statistics) -> Callable[[Tensor], Tensor]:
    assert leaf.mean.grad is not None
    assert leaf.var.grad is not None
    by_mean, by_var = all_reduce_sum(leaf.mean.grad), all_reduce_sum(leaf.var.grad)
    fixed = Statistics(leaf.mean.detach(), leaf.var.detach(), leaf.count)
    return lambda x: fixed.slope(x, by_mean, by_var)


ToLoss = Callable[[Tensor], Loss]  # from the projections of all views, (view*batch, dim)


def backward(
    fabric: Fabric, module: nn.Module, images: Tensor, to_loss: ToLoss, plan: MemoryPlan, batch: int
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
                weight.grad = all_reduce_sum(weight.grad) / fabric.world_size
    return loss


def _exact(
    fabric: Fabric, network: Network, images: Tensor, to_loss: ToLoss, plan: MemoryPlan
) -> Loss:
    """The backbone in chunks, the rest at once, as it is small."""
    pieces = segments_of(network.backbone)
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
