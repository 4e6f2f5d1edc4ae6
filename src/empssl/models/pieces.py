"""A backbone as a chain of pieces, cut wherever statistics of the whole batch are needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Carry = tuple[Tensor, ...]  # what goes from piece to piece, of some patches


@dataclass(frozen=True)
class Piece:
    """Normalizes what it is carried, where it has a norm for it, and goes on from there.

    Attributes:
        norms: for each carried tensor, the BatchNorm that it enters first, if any.
        body: from the normalized tensors to what is carried on.
    """

    norms: tuple[_BatchNorm | None, ...]
    body: Callable[..., Carry]

    def __call__(self, carry: Carry, statistics: Sequence["Statistics | None"]) -> Carry:
        """What is carried on.

        Args:
            carry: of any number of patches.
            statistics: of the whole batch, for each tensor that is normalized.
        """
        entered = [
            x if norm is None or s is None else s.normalize(x, norm)
            for x, norm, s in zip(carry, self.norms, statistics, strict=True)
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
        counts = [part.numel() // part.shape[1] for part in parts]
        means, variances = [], []
        for part in parts:  # one after the other: a copy in float32 of all would be large
            values = part if part.dtype == torch.float64 else part.float()
            var, mean = torch.var_mean(values, _but_channels(part), correction=0)
            means.append(mean)
            variances.append(var)
        total = sum(counts) * (dist.get_world_size() if _several() else 1)
        weight = torch.tensor(counts, dtype=means[0].dtype, device=means[0].device)[:, None] / total
        mean = summed((weight * torch.stack(means)).sum(0))
        apart = torch.stack(variances) + (torch.stack(means) - mean).square()
        return cls(mean, summed((weight * apart).sum(0)), total)

    def leaves(self) -> "Statistics":
        """The same numbers, to which gradients can be asked for."""
        mean, var = (x.detach().clone().requires_grad_() for x in (self.mean, self.var))
        return Statistics(mean, var, self.count)

    def normalize(self, x: Tensor, norm: _BatchNorm) -> Tensor:
        """What BatchNorm makes of x where the batch has these statistics."""
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(self.var + norm.eps)
        scale = scale * norm.weight
        shift = norm.bias - self.mean * scale
        values = x if x.dtype == torch.float64 else x.float()
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)

    def slope(self, x: Tensor, by_mean: Tensor, by_var: Tensor) -> Tensor:
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

    def track(self, norm: _BatchNorm) -> None:
        """Let the norm's running statistics see this batch, once."""
        unbiased = self.var * (self.count / (self.count - 1))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.running_mean.lerp_(self.mean.to(norm.running_mean), norm.momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var), norm.momentum)
        norm.num_batches_tracked.add_(1)


def pieces_of(backbone: nn.Module) -> list[Piece] | None:
    """The pieces whose chain is the backbone; None for networks whose inside is not known."""
    cut = getattr(backbone, "pieces", None)
    return None if cut is None else cut()


def summed(x: Tensor) -> Tensor:
    """The sum over processes."""
    if _several():
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]
