"""What happens to a patch's pixels, for many patches at once, each with its own parameters.

Every function takes RGB patches (patch, 3, side, side) as floats in [0, 1] and one parameter a
patch, and returns values in [0, 1]. The definitions are Pillow's, without its rounding to 8 bits;
only the blur is a Gaussian, where Pillow's is three boxes in its place.
"""

import math

import torch
from torch import Tensor

# ITU-R 601-2, as Pillow converts to "L".
LUMA = (0.299, 0.587, 0.114)
BLUR_SIGMAS = 3.0  # the half width of the widest kernel; further out it has 0.3 % of its weight


def luma(patches: Tensor) -> Tensor:
    """Grey value of each pixel: (patch, 1, side, side)."""
    r, g, b = patches.unbind(1)  # einsum would copy to channels last, at four times the cost
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b)[:, None]


def blend(patches: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """`factor` of the patch and 1 - `factor` of the other, clipped to [0, 1]."""
    f = factor[:, None, None, None]
    return (f * patches + (1 - f) * other).clamp_(0, 1)


def brightness(patches: Tensor, factor: Tensor) -> Tensor:
    """Scale towards black."""
    return (patches * factor[:, None, None, None]).clamp_(0, 1)


def contrast(patches: Tensor, factor: Tensor) -> Tensor:
    """Scale towards the patch's mean grey."""
    return blend(patches, luma(patches).mean((2, 3), keepdim=True), factor)


def saturation(patches: Tensor, factor: Tensor) -> Tensor:
    """Scale towards the patch's own grey picture."""
    return blend(patches, luma(patches), factor)


def hue(patches: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue in HSV by a fraction of the circle, in [-0.5, 0.5].

    Value and saturation stay, so only the middle channel has to be found anew: with h the turned
    hue in sixths, channel c is v - chroma * clip(min(k, 4 - k), 0, 1), k = (offset_c + h) mod 6,
    offsets 5, 3, 1 (Smith, 1978).
    """
    value, which = patches.max(1)
    chroma = value - patches.amin(1)
    r, g, b = patches.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        which == 0, (g - b) / safe, torch.where(which == 1, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    h = sixths + 6 * turn[:, None, None]
    offsets = torch.arange(5, 0, -2, device=patches.device, dtype=patches.dtype)[:, None, None]
    k = (h[:, None] + offsets) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def gray(patches: Tensor) -> Tensor:
    """The grey picture in all three channels."""
    return luma(patches).expand_as(patches)


def solarize(patches: Tensor) -> Tensor:
    """Invert the upper half of the range: Pillow's threshold 128 of 255."""
    return torch.minimum(patches, 1 - patches)


def blur(patches: Tensor, sigma: Tensor, widest: float) -> Tensor:
    """Gaussian blur, the edge pixels repeated outwards.

    Along each axis it is one matrix a patch, so that sigma can differ between patches.

    Args:
        patches: as everywhere in this file.
        sigma: (patch,), in pixels.
        widest: the largest sigma there can be. It sets the kernel's length, which must not depend
            on the other patches.
    """
    side = patches.shape[-1]
    at = torch.arange(side, device=patches.device, dtype=patches.dtype)
    reach = math.ceil(BLUR_SIGMAS * widest)
    offsets = torch.arange(-reach, reach + 1, device=patches.device, dtype=patches.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    source = (at[:, None] + offsets).clamp_(0, side - 1).long()  # side tap
    matrix = kernel.new_zeros(len(sigma), side, side)
    for tap, weight in enumerate(kernel.unbind(1)):  # scatter_add has no fixed order on a GPU
        lands = (source[:, tap, None] == at).to(kernel.dtype)  # side side
        matrix = matrix.addcmul_(weight[:, None, None], lands)
    return matrix[:, None] @ patches @ matrix[:, None].mT
