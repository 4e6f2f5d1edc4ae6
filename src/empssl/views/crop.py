"""Which pixels a patch takes from its image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from empssl.types import Images


def cut(images: Images, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Patches of `size` pixels at whole-pixel corners.

    Args:
        images: (batch, 3, height, width), of any type.
        top: int64 (view, batch), the first row of each patch.
        left: the first column.
        size: height and width of a patch.

    Returns:
        (view, batch, 3, size, size), of the images' type.
    """
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # batch 3 rows columns size size
    rows = torch.arange(len(images), device=images.device).expand_as(top)
    return windows[rows, :, top, left]


def corners(u: Tensor, room: int | Tensor) -> Tensor:
    """Uniform draws in [0, 1) to whole corners 0..room, each equally likely."""
    return (u * (room + 1)).long().clamp(max=room)


def grid(side: int, size: int, steps: int) -> tuple[Tensor, Tensor]:
    """Corners of `steps` x `steps` patches spread evenly over an image, edges included.

    Returns:
        Rows and columns, each int64 (steps * steps,).
    """
    room = side - size
    marks = (
        torch.linspace(0, room, steps).round().long() if steps > 1 else torch.tensor([room // 2])
    )
    top, left = torch.meshgrid(marks, marks, indexing="ij")
    return top.flatten(), left.flatten()


def resize(patches: Tensor, side: int) -> Tensor:
    """Bilinear, antialiased when it shrinks, as Pillow does it. (..., size, size) float."""
    if patches.shape[-1] == side:
        return patches
    flat = patches.flatten(0, -4)
    out = F.interpolate(flat, size=(side, side), mode="bilinear", antialias=True)
    resized: Tensor = out.unflatten(0, patches.shape[:-3])
    return resized


def resized_crops(
    images: Images, top: Tensor, left: Tensor, height: Tensor, width: Tensor, side: int
) -> Tensor:
    """Crops of any size, each resized to `side` x `side` as `resize` would.

    Along each axis cropping and resizing are one matrix a crop, so that sizes can differ.

    Args:
        images: (batch, 3, height, width), square.
        top: int64 (view, batch), the first row of each crop.
        left: the first column.
        height: rows.
        width: columns.
        side: pixels of the result.

    Returns:
        (view, batch, 3, side, side) in [0, 1].
    """
    whole = images.shape[-1]
    rows, columns = _weights(top, height, whole, side), _weights(left, width, whole, side)
    values = images.float().div_(255)
    return rows[:, :, None] @ values @ columns[:, :, None].mT


def _weights(start: Tensor, length: Tensor, whole: int, side: int) -> Tensor:
    """What each pixel along an axis gives to each of the result: (view, batch, side, whole).

    A triangle around the place in the crop from which the pixel comes, as wide as a pixel of the
    result where that is the larger one; nothing outside of the crop; rows that sum to 1.
    """
    start, length = start[..., None, None], length[..., None, None]
    at = torch.arange(whole, device=start.device)
    scale = length / side
    center = start + (torch.arange(side, device=start.device)[:, None] + 0.5) * scale
    triangle = (1 - (at + 0.5 - center).abs() / scale.clamp(min=1)).clamp(min=0)
    within = (at >= start) & (at < start + length)
    weights = triangle * within
    return weights / weights.sum(-1, keepdim=True)
