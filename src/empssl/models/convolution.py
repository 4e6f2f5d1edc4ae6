"""Convolution whose weight gradient is a matrix product where that is the faster way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Largest output side at which the matrix product wins on the CPU in bfloat16. Measured on two
# cores with AVX-512 BF16, 320 patches: 128 to 256 channels, stride 2, 2x2 out: 6.3 ms against
# 41; 256 channels at 2x2: 15 against 59; 32 channels at 16x16: 10.5 against 4.2.
_SMALL_SIDE = 4


class Conv2d(nn.Conv2d):
    """torch's Conv2d, with another weight gradient on small maps under CPU autocast.

    There oneDNN's own weight gradient takes up to ten times as long as the forward pass.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if (
            input.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.is_grad_enabled()
            and input.shape[-1] // self.stride[0] <= _SMALL_SIDE
            and self.bias is None
            and self.groups == self.dilation[0] == 1
        ):
            kind = torch.get_autocast_dtype("cpu")
            output: Tensor = _Convolution.apply(
                input.to(kind), self.weight.to(kind), self.stride[0], self.padding[0]
            )
            return output
        return super().forward(input)


class _Convolution(torch.autograd.Function):
    """A square convolution without bias, channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        output: Tensor = F.conv2d(x, weight, None, stride, padding)
        return output

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        gradient, stride, padding = upstream[0], ctx.stride, ctx.padding
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1,
                [True, False, False],
            )[0]  # fmt: skip
        to_weight = weight_gradient(x, gradient, weight.shape[-1], stride, padding)
        return to_input, to_weight, None, None


def weight_gradient(x: Tensor, upstream: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient of a convolution's weight as one product of gathered columns.

    dW[o, i, r, c] = sum over images and positions of upstream[o, y, x] input[i, sy + r, sx + c].

    Args:
        x: (image, channel, height, width), the convolution's input.
        upstream: (image, filter, height, width), the gradient of its output.
        kernel: height and width of the filters.
        stride: of the convolution.
        padding: zeros around the input.
    """
    images, channels = x.shape[:2]
    filters, height, width = upstream.shape[1:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    n, row, column, channel = padded.stride()  # without padding this is a view of x
    columns = padded.as_strided(
        (images, height, width, kernel, kernel, channels),
        (n, stride * row, stride * column, row, column, channel),
    ).reshape(images * height * width, kernel * kernel * channels)
    rows = upstream.permute(0, 2, 3, 1).reshape(-1, filters)
    flat = (rows.T @ columns).view(filters, kernel, kernel, channels)
    return flat.permute(0, 3, 1, 2)
