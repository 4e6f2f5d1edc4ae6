"""Residual networks (He et al., 2016) whose state-dict keys are torchvision's."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from empssl.models.segments import Segment

# Measured on two cores with AVX-512 BF16, 320 patches, 3x3, oneDNN against the product:
# stride 2, 32 to 64 channels from 16x16: 11.4 against 6.6 ms; 128 to 256 from 4x4: 6.1 against 2.5;
# stride 1, 256 channels at 2x2: 11.0 against 4.2; but 128 at 4x4: 3.8 against 4.8.
_SMALL_SIDE = 2
_MOST_COLUMNS = 2**25  # gathered numbers: 64 MiB in bfloat16; beyond that copying eats the gain
# Input channels of a strided 1x1 convolution below which oneDNN's backward pass writes past its
# memory (torch 2.13.0): below 8, a vector, with AVX2, and at 8 with AVX-512.
_NARROW = 16
Stem = Literal["imagenet", "small"]


class Conv2d(nn.Conv2d):
    """torch's Conv2d, with another weight gradient under CPU autocast where that is faster.

    With a stride or on the smallest maps, oneDNN's own takes two to three times as long. A narrow
    1x1 convolution with a stride is one without of every other pixel: oneDNN's own corrupts memory.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if input.device.type == "cpu" and self._is_corrupted():
            down, right = self.stride
            return F.conv2d(input[:, :, ::down, ::right], self.weight, self.bias)
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

    def _is_corrupted(self) -> bool:
        return (
            self.kernel_size == (1, 1) and max(self.stride) > 1 and self.in_channels < _NARROW
            and self.padding == (0, 0) and self.groups == 1
        )  # fmt: skip

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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1
    norm_after: ClassVar = {"conv1": "bn1", "conv2": "bn2"}

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(x)).add_(shortcut))
        return out

    def segments(self) -> list[Segment]:
        """The block, cut at its norms."""
        convolve, norm = _shortcut_parts(self.downsample)
        return [
            Segment((None,), lambda x: (self.conv1(x), convolve(x))),
            Segment((self.bn1, None), lambda u, s: (self.conv2(self.relu(u)), s)),
            Segment((self.bn2, norm), lambda u, s: (self.relu(u + s),)),
        ]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions."""

    expansion = 4
    norm_after: ClassVar = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3"}

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)).add_(shortcut))
        return out

    def segments(self) -> list[Segment]:
        """The block, cut at its norms."""
        convolve, norm = _shortcut_parts(self.downsample)
        return [
            Segment((None,), lambda x: (self.conv1(x), convolve(x))),
            Segment((self.bn1, None), lambda u, s: (self.conv2(self.relu(u)), s)),
            Segment((self.bn2, None), lambda u, s: (self.conv3(self.relu(u)), s)),
            Segment((self.bn3, norm), lambda u, s: (self.relu(u + s),)),
        ]


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


def _shortcut_parts(
    downsample: nn.Module | None,
) -> tuple[Callable[[Tensor], Tensor], _BatchNorm | None]:
    """What a shortcut does before its norm, and the norm."""
    if downsample is None:
        return (lambda x: x), None
    convolution, norm = downsample.children()
    return convolution, norm  # type: ignore[return-value]


class ResNet(nn.Module):
    """Four stages of residual blocks, then the mean over positions.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in each stage.
        width: channels of the first stage; each further stage doubles them.
        stem: `imagenet` is a 7x7 convolution of stride 2 and a max-pool; `small` is a 3x3
            convolution of stride 1 and no pool, for images of about 32 pixels.

    Attributes:
        dim: coordinates of the embedding.
        widths: coordinates of what `pooled` returns.

    Raises:
        ValueError: an unknown stem.
    """

    norm_after: ClassVar = {"conv1": "bn1"}

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        width: int,
        stem: Stem,
    ) -> None:
        super().__init__()
        if stem not in ("imagenet", "small"):
            raise ValueError(f"stem is '{stem}', expected 'imagenet' or 'small'")
        if width < 1:
            raise ValueError(f"width is {width}, expected 1 or more channels")
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stage_width = width * 2**stage
                blocks.append(block(channels, stage_width, 2 if stage and not index else 1))
                channels = stage_width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.dim = channels
        expanded = [width * 2**stage * block.expansion for stage in range(self.stages)]
        self.widths: tuple[int, ...] = (width, *expanded)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((2, 3))

    def pooled(self, x: Tensor) -> list[Tensor]:
        """Means over positions, after the stem and after each stage; the last is `forward`'s."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        means = [x.mean((2, 3))]
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
            means.append(x.mean((2, 3)))
        return means

    def segments(self) -> list[Segment]:
        """The network, cut at its norms: the same function of the whole batch."""
        chain = [
            Segment((None,), lambda x: (self.conv1(x),)),
            Segment((self.bn1,), lambda u: (self.maxpool(self.relu(u)),)),
        ]
        for stage in range(self.stages):
            for block in getattr(self, f"layer{stage + 1}"):
                chain += block.segments()
        return [*chain, Segment((None,), lambda x: (x.mean((2, 3)),))]


def resnet10(*, width: int = 32, stem: Stem = "small") -> ResNet:
    """One basic block a stage: for machines with two cores."""
    return ResNet(BasicBlock, (1, 1, 1, 1), width=width, stem=stem)


def resnet18(*, width: int = 64, stem: Stem = "small") -> ResNet:
    """The paper's backbone; with `stem="imagenet"` torchvision's resnet18 without its `fc`."""
    return ResNet(BasicBlock, (2, 2, 2, 2), width=width, stem=stem)


def resnet34(*, width: int = 64, stem: Stem = "small") -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), width=width, stem=stem)


def resnet50(*, width: int = 64, stem: Stem = "small") -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), width=width, stem=stem)
