"""How much of a step is in memory at once: the ways to a step's gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from empssl.engine import Fabric
from empssl.errors import UsageError, nearest
from empssl.models import Network
from empssl.models.batchnorm import summed
from empssl.models.pieces import Carry, Piece, Statistics, pieces_of
from empssl.objectives.objective import Loss

Memory = Literal["auto", "whole", "exact", "two-pass"]
ToLoss = Callable[[Tensor], Loss]  # from the projections of all views, (view*batch, dim)

FREE_SHARE = 0.8  # of the free memory that a step may plan with
# Autograd keeps a convolution's output and what the activation made of it; only the first of the
# two is carried from piece to piece.
KEPT_PER_CARRIED = 2
CHUNK = {"cpu": 256}  # patches at a time, by type of device
CHUNK_ELSEWHERE = 2048


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


def plan(
    mode: str,
    network: Network,
    images: Tensor,
    *,
    patches: int,
    free: float | None,
    autocast: Callable[[], object],
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
    if mode == "whole":
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
    carried, new = _sizes(pieces, images, autocast)
    if mode == "auto" and (
        free is None or KEPT_PER_CARRIED * sum(new) * patches <= FREE_SHARE * free
    ):
        return Plan()
    room = float("inf") if free is None else FREE_SHARE * free
    return Plan("exact", chunk, boundaries([size * patches for size in carried], room))


def boundaries(carried: Sequence[float], limit: float) -> tuple[int, ...]:
    """The pieces whose input should be kept: as many as fit, the smallest first.

    While piece k is at work, going forward or back, the boundaries up to it are in memory, and the
    larger of what it takes and what it gives.

    Args:
        carried: bytes of the input of each piece, and of the output of the last.
        limit: bytes; the input of the first piece is kept in any case.

    >>> boundaries([1.0, 8.0, 8.0, 2.0, 2.0, 1.0], 12.0)
    (0, 3, 4)
    """
    kept = {0}

    def peak(chosen: set[int]) -> float:
        return max(
            sum(carried[b] for b in chosen if b <= k) + max(carried[k], carried[k + 1])
            for k in range(len(carried) - 1)
        )

    for k in sorted(range(1, len(carried) - 1), key=lambda k: (carried[k], k)):
        if peak(kept | {k}) <= limit:
            kept.add(k)
    return tuple(sorted(kept))


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
    """The backbone piece by piece, each over all chunks; the rest at once, as it is small."""
    pieces = pieces_of(network.backbone)
    assert pieces is not None
    kept, statistics, embeddings = _forward(fabric, pieces, images, plan)
    h = torch.cat(embeddings).requires_grad_()
    with fabric.autocast():
        projections = network.projector(h)
    loss = to_loss(projections)
    loss.total.backward()
    assert h.grad is not None
    gradients: list[Carry] = [(part,) for part in h.grad.split([len(e) for e in embeddings])]
    _backward(fabric, pieces, kept, statistics, gradients)
    return loss


def _forward(
    fabric: Fabric, pieces: list[Piece], images: Tensor, plan: Plan
) -> tuple[dict[int, list[Carry]], list[list[Statistics | None]], list[Tensor]]:
    """The inputs of the boundary pieces, the statistics at each piece, and the embeddings."""
    carries: list[Carry] = [(chunk,) for chunk in images.split(plan.chunk)]
    kept: dict[int, list[Carry]] = {}
    statistics: list[list[Statistics | None]] = []
    for index, piece in enumerate(pieces):
        if index in plan.boundaries:
            kept[index] = list(carries)
        found: list[Statistics | None] = []
        for place, norm in enumerate(piece.norms):
            of = None if norm is None else Statistics.of([carry[place] for carry in carries])
            if norm is not None and of is not None:
                of.track(norm)
            found.append(of)
        statistics.append(found)
        with torch.no_grad(), fabric.autocast():
            for at, carry in enumerate(carries):  # each chunk's input is freed with its turn
                carries[at] = piece(carry, found)
                del carry
    return kept, statistics, [carry[0] for carry in carries]


def _backward(
    fabric: Fabric,
    pieces: list[Piece],
    kept: dict[int, list[Carry]],
    statistics: list[list[Statistics | None]],
    gradients: list[Carry],
) -> None:
    """Add to the parameters' gradients, given those of the last piece's output, which it uses up.

    The statistics are inputs of their piece like any other. What the loss's gradient by them asks
    of the numbers that they are the statistics of is known once the whole batch has passed, and is
    added when the piece before it has its turn.
    """
    through: list[Callable[[Tensor], Tensor] | None] = [None] * len(gradients[0])
    for index in reversed(range(len(pieces))):
        piece, start = pieces[index], max(b for b in kept if b <= index)
        leaves = [s if s is None else s.leaves() for s in statistics[index]]
        for at, carry in enumerate(kept[start]):
            with torch.no_grad(), fabric.autocast():
                for before in range(start, index):
                    carry = pieces[before](carry, statistics[before])
            inputs = tuple(x.detach().requires_grad_(index > 0) for x in carry)
            with fabric.autocast():
                outputs = piece(inputs, leaves)
            asked = [
                g if more is None else g + more(out.detach()).to(g.dtype)
                for g, more, out in zip(gradients[at], through, outputs, strict=True)
            ]
            torch.autograd.backward(outputs, asked)
            gradients[at] = tuple(x.grad for x in inputs) if index else ()  # type: ignore[misc]
        if start == index:
            del kept[index]
        through = [None if leaf is None else _through(leaf) for leaf in leaves]


def _through(leaf: Statistics) -> Callable[[Tensor], Tensor]:
    assert leaf.mean.grad is not None
    assert leaf.var.grad is not None
    by_mean, by_var = summed(leaf.mean.grad), summed(leaf.var.grad)
    fixed = Statistics(leaf.mean.detach(), leaf.var.detach(), leaf.count)
    return lambda x: fixed.slope(x, by_mean, by_var)


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


def _sizes(
    pieces: list[Piece], images: Tensor, autocast: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """Bytes a patch of the input of each piece and the last output; and of what each makes anew."""
    carry: Carry = (images[:2],)
    carried, new = [], []

    def size(tensors: Sequence[Tensor]) -> float:
        return sum(x.numel() * x.element_size() for x in tensors) / len(images[:2])

    for piece in pieces:
        carried.append(size(carry))
        found = [
            None if norm is None else Statistics.of([x])
            for norm, x in zip(piece.norms, carry, strict=True)
        ]
        with torch.no_grad(), autocast():  # type: ignore[attr-defined]
            after = piece(carry, found)
        new.append(size([x for x in after if all(x is not y for y in carry)]))
        carry = after
    return [*carried, size(carry)], new


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
