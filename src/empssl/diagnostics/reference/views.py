"""Views in Pillow: one patch at a time, rounded to 8 bits after every operation.

The twin that the tests hold `empssl.views` against, and what the slow pipeline trains on.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

PillowPicture = Image.Image


def brightness(patch: PillowPicture, factor: float) -> PillowPicture:
    return ImageEnhance.Brightness(patch).enhance(factor)


def contrast(patch: PillowPicture, factor: float) -> PillowPicture:
    return ImageEnhance.Contrast(patch).enhance(factor)


def saturation(patch: PillowPicture, factor: float) -> PillowPicture:
    return ImageEnhance.Color(patch).enhance(factor)


def hue(patch: PillowPicture, turn: float) -> PillowPicture:
    """Pillow's 8-bit HSV has 255 steps to the full circle."""
    h, s, v = patch.convert("HSV").split()
    turned = h.point([(level + round(255 * turn)) % 255 for level in range(256)])
    return Image.merge("HSV", (turned, s, v)).convert("RGB")


def gray(patch: PillowPicture) -> PillowPicture:
    return patch.convert("L").convert("RGB")


def blur(patch: PillowPicture, sigma: float) -> PillowPicture:
    """Three box filters in a row, which is Pillow's approximation of a Gaussian."""
    return patch.filter(ImageFilter.GaussianBlur(sigma))


def solarize(patch: PillowPicture) -> PillowPicture:
    return ImageOps.solarize(patch, 128)


def flip(patch: PillowPicture) -> PillowPicture:
    return patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cut(image: PillowPicture, top: int, left: int, size: int) -> PillowPicture:
    return image.crop((left, top, left + size, top + size))


def resize(patch: PillowPicture, side: int) -> PillowPicture:
    return patch.resize((side, side), Image.Resampling.BILINEAR)


def view(
    image: PillowPicture, draw: Mapping[str, float], options: Mapping[str, Any]
) -> Float32[np.ndarray, "3 side side"]:
    """One view as the backbone sees it.

    Args:
        image: square.
        draw: a number in [0, 1) for each name in `DRAWS`.
        options: all arguments of `Patches`.
    """

    def between(name: str, low: float, high: float) -> float:
        return low + (high - low) * draw[name]

    size = round(options["crop"] * image.width)
    corners = image.width - size + 1
    patch = cut(image, int(corners * draw["top"]), int(corners * draw["left"]), size)
    side = image.width if options["side"] == "image" else options["side"] or size
    patch = resize(patch, side)
    if draw["flip"] < options["flip"]:
        patch = flip(patch)
    if draw["jitter"] < options["jitter"]:
        for which in list(permutations(range(4)))[int(24 * draw["order"])]:
            name = ("brightness", "contrast", "saturation", "hue")[which]
            wide = options[name]
            if name == "hue":
                patch = hue(patch, between("hue", -wide, wide))
            else:
                operation = {"brightness": brightness, "contrast": contrast}.get(name, saturation)
                patch = operation(patch, between(name, max(0, 1 - wide), 1 + wide))
    if draw["gray"] < options["gray"]:
        patch = gray(patch)
    if draw["blur"] < options["blur"]:
        patch = blur(patch, between("sigma", *options["sigma"]))
    if draw["solarize"] < options["solarize"]:
        patch = solarize(patch)
    values = np.asarray(patch).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    normal: np.ndarray = (values - np.float32(options["mean"])) / np.float32(options["std"])
    return normal
