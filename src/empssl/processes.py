"""Sums over the processes of a run, of numbers and of their gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(x: Tensor) -> Tensor:
    """The sum over processes."""
    if several():
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def added(x: Tensor) -> Tensor:
    """The sum over processes, of the values and, backward, of what each process asks of them.

    So each process gets the gradient of the sum of all losses, of which DistributedDataParallel
    then takes the mean: where all compute the same loss, that of one process.
    """
    total: Tensor = _Added.apply(x)
    return total


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return summed(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return summed(upstream[0])
