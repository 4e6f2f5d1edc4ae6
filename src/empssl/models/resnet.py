"""Residual networks (He et al., 2016) whose state-dict keys are torchvision's."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from empssl.models.convolution import Conv2d
from empssl.models.pieces import Piece

Stem = Literal["imagenet", "small"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

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

    def pieces(self) -> list[Piece]:
        """The block, cut at its norms."""
        convolve, norm = _shortcut_parts(self.downsample)
        return [
            Piece((None,), lambda x: (self.conv1(x), convolve(x))),
            Piece((self.bn1, None), lambda u, s: (self.conv2(self.relu(u)), s)),
            Piece((self.bn2, norm), lambda u, s: (self.relu(u + s),)),
        ]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions."""

    expansion = 4

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

    def pieces(self) -> list[Piece]:
        """The block, cut at its norms."""
        convolve, norm = _shortcut_parts(self.downsample)
        return [
            Piece((None,), lambda x: (self.conv1(x), convolve(x))),
            Piece((self.bn1, None), lambda u, s: (self.conv2(self.relu(u)), s)),
            Piece((self.bn2, None), lambda u, s: (self.conv3(self.relu(u)), s)),
            Piece((self.bn3, norm), lambda u, s: (self.relu(u + s),)),
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

    def pieces(self) -> list[Piece]:
        """The network, cut at its norms: the same function of the whole batch."""
        chain = [
            Piece((None,), lambda x: (self.conv1(x),)),
            Piece((self.bn1,), lambda u: (self.maxpool(self.relu(u)),)),
        ]
        for stage in range(self.stages):
            for block in getattr(self, f"layer{stage + 1}"):
                chain += block.pieces()
        return [*chain, Piece((None,), lambda x: (x.mean((2, 3)),))]


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
