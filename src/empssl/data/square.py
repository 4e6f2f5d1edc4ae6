"""Images of any shape -> squares of one size."""

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

DEFAULT_SIDE = 64


def square(image: Image.Image, side: int) -> UInt8[np.ndarray, "3 {side} {side}"]:
    """The central square of an RGB image, scaled to `side` pixels; small images are enlarged.

    The same as scaling the shorter side and then cropping, at a cost that does not depend on the
    longer one: 1 x 60,000 pixels would otherwise become gigabytes on the way.
    """
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    small = image.resize(
        (side, side),
        Image.Resampling.BILINEAR,  # Pillow's is antialiased
        box=(left, top, left + short, top + short),
        reducing_gap=3.0,
    )
    return np.asarray(small).transpose(2, 0, 1)


def squares(
    pixels: UInt8[np.ndarray, "batch 3 height width"], side: int
) -> UInt8[Tensor, "batch 3 {side} {side}"]:
    """Many decoded images as squares."""
    if pixels.shape[-2:] == (side, side):
        return torch.from_numpy(pixels)
    rows = [square(Image.fromarray(p.transpose(1, 2, 0)), side) for p in pixels]
    return torch.from_numpy(np.stack(rows))
