"""Convolution whose weight gradient is a matrix product where that is the faster way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Measured on two cores with AVX-512 BF16, 320 patches, 3x3, oneDNN against the product:
# stride 2, 32 to 64 channels from 16x16: 11.4 against 6.6 ms; 128 to 256 from 4x4: 6.1 against 2.5;
# stride 1, 256 channels at 2x2: 11.0 against 4.2; but 128 at 4x4: 3.8 against 4.8.
_SMALL_SIDE = 2
_MOST_COLUMNS = 2**25  # gathered numbers: 64 MiB in bfloat16; beyond that copying eats the gain


class Conv2d(nn.Conv2d):
    """torch's Conv2d, with another weight gradient under CPU autocast where that is faster.

    With a stride or on the smallest maps, oneDNN's own takes two to three times as long.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if (
            input.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.is_grad_enabled()
            and self._product_is_faster(input)
        ):
            kind = torch.get_autocast_dtype("cpu")
            output: Tensor = _Convolution.apply(
                input.to(kind), self.weight.to(kind), self.stride[0], self.padding[0]
            )
            return output
        return super().forward(input)

    def _product_is_faster(self, input: Tensor) -> bool:  # noqa: A002
        if self.bias is not None or self.groups > 1 or self.dilation[0] > 1:
            return False
        stride = self.stride[0]
        columns = input.numel() // stride**2 * self.kernel_size[0] ** 2
        small = input.shape[-1] // stride <= _SMALL_SIDE
        return (stride > 1 or small) and columns <= _MOST_COLUMNS


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
