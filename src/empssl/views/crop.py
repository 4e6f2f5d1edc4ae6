"""Which pixels a patch takes from its image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from empssl.shapes import Images


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


def corners(u: Tensor, room: int) -> Tensor:
    """Uniform draws in [0, 1) to whole corners 0..room, each equally likely."""
    return (u * (room + 1)).long().clamp_(max=room)


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
