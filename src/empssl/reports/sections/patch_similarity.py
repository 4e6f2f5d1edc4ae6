"""Patch similarity: which patches of an image the network takes to be like the image as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib import colormaps
from torch import Tensor

from empssl.evaluation.encoder import Encoder
from empssl.models import Layer
from empssl.progress import progress
from empssl.reports.html import Picture, picture
from empssl.reports.sample import Sample, spread
from empssl.types import Images
from empssl.views.crop import cut, grid, resize

IMAGES, STEPS = 6, 11
_COLORS = colormaps["viridis"]  # even in lightness, and the same to color-blind eyes
_SHADE = 0.3  # how far the image darkens the colors of its cells
_SIDE = 224  # pixels of a picture


@dataclass(frozen=True)
class Patch:
    """A patch of an image, and its cosine to the image's mean."""

    picture: Picture
    cosine: float


@dataclass(frozen=True)
class PatchSimilarity:
    """An image, and how its patches agree with it.

    Attributes:
        steps: patches along each side.
        heat: a cell a patch, in the patches' order, over the image in gray.
        most, least: the patches that agree most and least.
        where: in words, the places of these two.
    """

    name: str
    label: str
    original: Picture
    heat: Picture
    steps: int
    most: Patch
    least: Patch
    where: str


@dataclass(frozen=True)
class PatchSimilarities:
    """Some images, with one scale of colors.

    Attributes:
        low, high: the least and the greatest cosine, the ends of the scale.
        scale: colors from `low` to `high`, as CSS has them.
        patch_side: pixels of the image in a patch, along each side.
    """

    items: Sequence[PatchSimilarity]
    low: float
    high: float
    scale: str
    patch_side: int


def patch_similarities(sample: Sample, encoder: Encoder, layer: Layer) -> PatchSimilarities:
    """Heat maps of a few images, evenly spread over the sample."""
    chosen = spread(len(sample), IMAGES)
    images = sample.pixels[chosen]
    side = images.shape[-1]
    size = encoder.policy.patch_side(side)
    steps = min(STEPS, side - size + 1)  # closer than a pixel there is no other patch
    cosines = patch_similarity(encoder, images, layer, steps)
    low, high = float(cosines.min()), float(cosines.max())
    top, left = grid(side, size, steps)
    items, originals = [], sample.thumbnails(chosen.tolist())
    for k, index in enumerate(chosen.tolist()):
        own = cosines[k].flatten()
        most, least = int(own.argmax()), int(own.argmin())
        patches = {
            at: Patch(picture(cut(images[k : k + 1], top[at, None, None], left[at, None, None],
                                  size)[0, 0]), float(own[at]))
            for at in (most, least)
        }  # fmt: skip
        items.append(
            PatchSimilarity(
                name=sample.names[index],
                label=sample.label(index),
                original=picture(originals[k]),
                heat=_heat(images[k], cosines[k], low, high),
                steps=steps,
                most=patches[most],
                least=patches[least],
                where=f"from {own[least]:.2f} in {_place(least, steps)} to {own[most]:.2f} in "
                f"{_place(most, steps)}",
            )
        )
    stops = [_COLORS(at, bytes=True)[:3] for at in np.linspace(0, 1, 9)]
    scale = ", ".join(f"rgb({r} {g} {b})" for r, g, b in stops)
    return PatchSimilarities(items, low, high, scale, size)


@torch.inference_mode()
def patch_similarity(
    encoder: Encoder, images: Images, layer: Layer, steps: int
) -> Float[Tensor, "batch row column"]:
    """Cosine of each patch's embedding to the mean over the patches of its image.

    Args:
        encoder: of the run.
        images: square, of its `image_side`.
        layer: where embeddings are taken.
        steps: patches along each side: clean ones, evenly spread, edges included, not mirrored.
    """
    device = next(encoder.network.parameters()).device
    policy, side = encoder.policy, images.shape[-1]
    top, left = (at.to(device) for at in grid(side, policy.patch_side(side), steps))
    found = []
    with progress("embedding patches of the heat maps", len(images)) as advance:
        for done, image in enumerate(images.to(device)):
            views = policy.clean(image[None], top, left, mirror=False)[:, 0]  # view 3 side side
            embedded = encoder.network.embed(views.contiguous())[layer].float()
            found.append(F.cosine_similarity(embedded, embedded.mean(0, keepdim=True)).cpu())
            advance(done + 1)
    cosines: Tensor = torch.stack(found).unflatten(1, (steps, steps))
    return cosines


def _heat(image: Tensor, cosines: Float[Tensor, "row column"], low: float, high: float) -> Picture:
    """Colored cells over the whole picture, shaded by the image in gray."""
    share = ((cosines - low) / max(high - low, 1e-9)).numpy()
    at = np.minimum(np.arange(_SIDE) * len(share) // _SIDE, len(share) - 1)
    colors = torch.tensor(_COLORS(share)[..., :3][at][:, at]).permute(2, 0, 1)  # 3 side side
    gray = resize(image.float().mean(0).expand(3, -1, -1)[None], _SIDE)[0] / 255
    shaded = colors * (1 - _SHADE * (1 - gray))
    return picture(shaded.mul(255).round().clamp(0, 255).byte(), largest=_SIDE)


def _place(at: int, steps: int) -> str:
    return f"row {at // steps + 1}, column {at % steps + 1}"
