"""Batch normalization over the images of all processes, on any device."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from empssl.distributed.collectives import all_reduce_autograd
from empssl.errors import UsageError


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of the whole global batch.

    torch's SyncBatchNorm, but it also works on CPU tensors and in float64. Every process must
    hold the same number of images.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 axes, got {input.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
            )
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        values = x if x.dtype == torch.float64 else x.float()
        world = dist.get_world_size()
        rows = values.numel() // values.shape[1] * world
        mean = all_reduce_autograd(values.mean(axes)) / world
        centered = values - mean.view(shape)
        variance = all_reduce_autograd(centered.square().mean(axes)) / world
        track(self, mean, variance, rows)
        scale = (self.weight * torch.rsqrt(variance + self.eps)).view(shape)
        out: Tensor = (centered * scale + self.bias.view(shape)).to(x.dtype)
        return out


@torch.no_grad()
def track(norm: _BatchNorm, mean: Tensor, variance: Tensor, rows: int) -> None:
    """Let a norm's running statistics see a batch.

    Args:
        norm: one that keeps them.
        mean: (channel,).
        variance: (channel,), biased.
        rows: numbers that each is over.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    unbiased = variance * (rows / (rows - 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    norm.num_batches_tracked.add_(1)


def convert_to_global_batchnorm(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm in it replaced by one over all processes.

    Raises:
        UsageError: it has a BatchNorm that does more than torch's.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm):
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise UsageError(
                f"{type(module).__name__} cannot be computed over several processes; train in one, "
                "with --devices 1"
            )
        new = GlobalBatchNorm(module.num_features, module.eps, module.momentum)
        new.load_state_dict(module.state_dict())
        return new.to(module.weight.device, module.weight.dtype).train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_to_global_batchnorm(child))
    return module
