"""A backbone as a chain of segments, cut wherever statistics of the whole batch are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from empssl.device import send
from empssl.distributed.collectives import all_reduce_sum, several

Activations = tuple[Tensor, ...]  # what goes from segment to segment, of some patches
# Of a channel, that the CPU sums at a time. Over 2^18 in float32 a variance is off by 1e-4 of
# itself; not so with a GPU's kernel, Welford's, which takes longer to start than for so few.
_NUMBERS = 2**12


@dataclass(frozen=True)
class Segment:
    """Normalizes what it is carried, where it has a norm for it, and goes on from there.

    Attributes:
        norms: for each carried tensor, the BatchNorm that it enters first, if any.
        body: from the normalized tensors to what is carried on.
    """

    norms: tuple[_BatchNorm | None, ...]
    body: Callable[..., Activations]

    def __call__(
        self, activations: Activations, statistics: Sequence["Statistics | None"]
    ) -> Activations:
        """What is carried on.

        Args:
            activations: of any number of patches.
            statistics: of the whole batch, for each tensor that is normalized.
        """
        entered = [
            x if norm is None or s is None else s.normalize(x, norm)
            for x, norm, s in zip(activations, self.norms, statistics, strict=True)
        ]
        return self.body(*entered)


@dataclass(frozen=True)
class Statistics:
    """Of each channel of a tensor, over the whole batch of all processes.

    Attributes:
        mean: (channel,).
        var: the biased variance.
        count: numbers that each is over.
    """

    mean: Tensor
    var: Tensor
    count: int

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> "Statistics":
        """Those of a tensor that is held in parts, (patch, channel, ...) each."""
        moments = Moments()
        for part in parts:
            moments.add(part)
        return moments.statistics()

    def leaves(self) -> "Statistics":
        """The same numbers, to which gradients can be asked for."""
        mean, var = (x.detach().clone().requires_grad_() for x in (self.mean, self.var))
        return Statistics(mean, var, self.count)

    def normalize(self, x: Tensor, norm: _BatchNorm) -> Tensor:
        """What BatchNorm makes of x where the batch has these statistics."""
        scale = norm.weight * torch.rsqrt(self.var + norm.eps)
        shift = norm.bias - self.mean * scale
        # Through weight and bias, so that the statistics get their gradients too.
        zero, one = torch.zeros_like(self.mean), torch.ones_like(self.var)
        return F.batch_norm(x, zero, one, scale, shift, eps=0.0)

    def gradient(self, x: Tensor, by_mean: Tensor, by_var: Tensor) -> Tensor:
        """The gradient of x that goes through the statistics.

        mean = sum x / count and var = sum (x - mean)^2 / count, so it is
        (by_mean + 2 (x - mean) by_var) / count.

        Args:
            x: a part of what they are the statistics of.
            by_mean: the loss's gradient by `mean`, of all processes.
            by_var: by `var`.
        """
        shape = [1, -1] + [1] * (x.dim() - 2)
        values = x if x.dtype == torch.float64 else x.float()
        centered = values - self.mean.view(shape)
        return (by_mean.view(shape) + 2 * centered * by_var.view(shape)) / self.count


class Moments:
    """Mean and variance of a tensor that passes by in parts."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._means: list[Tensor] = []
        self._variances: list[Tensor] = []

    def add(self, part: Tensor) -> None:
        """See (patch, channel, ...)."""
        positions = part[0, 0].numel()
        at_once = max(1, _NUMBERS // positions) if part.device.type == "cpu" else len(part)
        for group in part.split(at_once):
            # torch.var_mean takes 30 times as long, and a copy in float32. The type of what comes
            # back is that of the running statistics, which are not wanted here.
            kind = torch.promote_types(group.dtype, torch.float32)
            unused = torch.zeros(2, group.shape[1], dtype=kind, device=group.device)
            mean, var = torch.batch_norm_update_stats(group, unused[0], unused[1], 0.0)
            self._counts.append(len(group) * positions)
            self._means.append(mean)
            self._variances.append(var)

    def statistics(self) -> Statistics:
        """Of all that was seen, in all processes."""
        means, variances = torch.stack(self._means), torch.stack(self._variances)
        total = sum(self._counts) * (dist.get_world_size() if several() else 1)
        weight = send(torch.tensor(self._counts, dtype=means.dtype), means.device)[:, None] / total
        mean = all_reduce_sum((weight * means).sum(0))
        apart = variances + (means - mean).square()
        return Statistics(mean, all_reduce_sum((weight * apart).sum(0)), total)


def segments_of(backbone: nn.Module) -> list[Segment] | None:
    """The segments whose chain is the backbone; None for networks whose inside is not known."""
    cut = getattr(backbone, "segments", None)
    return cut() if callable(cut) else None
