"""Crops of random size and shape, the views of most other methods."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from empssl.types import Images, Views
from empssl.views import augmentation
from empssl.views.augmentation import Augmentation, Colors
from empssl.views.base import Policy, check_side
from empssl.views.crop import corners, resized_crops

# What each of a crop's draws decides. Their order is part of what a seed means.
DRAWS = ("area", "ratio", "top", "left", *augmentation.DRAWS)


class RandomCrops(Policy):
    """Crops of random area and shape, resized to one side, as SimCLR trains on them.

    The area is a uniform share of the image; width over height is log-uniform among the ratios
    with which the crop fits (torchvision draws both anew until it does, which makes large crops
    rarer); the place is uniform. Then as in `Patches`. The defaults are SimCLR's for CIFAR-10
    (appendix B.9): no blur, no solarization.

    With `global_views` the first so many views take their area from `scale`, the others theirs
    from `local_scale`: multi-crop. All are resized to one side, where SwAV makes the small ones
    smaller in pixels, and so cheaper, too.

    Args:
        scale: range of the area, as a share of the image's.
        ratio: range of width over height.
        global_views: how many leading views are of `scale`; None for all.
        local_scale: range of the area of the other views.
        side: what the backbone sees, in pixels; None for the image's side.
        flip: probability of a mirrored view.
        jitter: probability of color jitter.
        brightness: factor from 1 - b to 1 + b.
        contrast: the same, of the distance from the mean gray.
        saturation: the same, of the distance from the gray picture.
        hue: turn of the color circle, from -h to h of a full turn.
        gray: probability.
        blur: probability.
        sigma: range of the blur's standard deviation, in pixels of the view.
        solarize: probability.
        mean: subtracted from values in [0, 1].
        std: divides the rest.
        colors: faithful or fast, as in `Patches`; here both work on the resized crop.

    Raises:
        ValueError: a value out of its range.
    """

    draws = len(DRAWS)

    def __init__(
        self,
        *,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        global_views: int | None = None,
        local_scale: Sequence[float] = (0.05, 0.14),
        side: int | None = None,
        flip: float = 0.5,
        jitter: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        gray: float = 0.2,
        blur: float = 0.0,
        sigma: Sequence[float] = (0.1, 2.0),
        solarize: float = 0.0,
        mean: float = 0.5,
        std: float = 0.5,
        colors: Colors = "faithful",
    ) -> None:
        for name, values in {"scale": scale, "local_scale": local_scale}.items():
            if len(values) != 2 or not 0 < values[0] <= values[1] <= 1:
                raise ValueError(f"{name} is {values}, expected a range of shares, from 0 to 1")
        if len(ratio) != 2 or not 0 < ratio[0] <= 1 <= ratio[1]:
            raise ValueError(f"ratio is {ratio}, expected a range of positive numbers around 1")
        check_side(side)
        if global_views is not None and global_views < 1:
            raise ValueError(f"global_views is {global_views}, expected 1 or more, or none for all")
        self.scale, self.local_scale, self.ratio = scale, local_scale, ratio
        self.global_views, self.side = global_views, side
        self.augmentation = Augmentation(
            flip=flip, jitter=jitter, brightness=brightness, contrast=contrast,
            saturation=saturation, hue=hue, gray=gray, blur=blur, sigma=sigma, solarize=solarize,
            mean=mean, std=std, colors=colors,
        )  # fmt: skip

    def patch_side(self, image_side: int) -> int:
        """That of a square crop of the mean area: such crops embed an image."""
        return max(1, round(math.sqrt(sum(self.scale) / 2) * image_side))

    def view_side(self, image_side: int) -> int:
        return self.side or image_side

    def __call__(
        self, images: Images, u: Float[Tensor, "view batch draw"], first: int = 0
    ) -> Views:
        draw = dict(zip(DRAWS, u.unbind(-1), strict=True))
        whole = images.shape[-1]
        height, width = self._sides(draw["area"], draw["ratio"], whole, first)
        top, left = corners(draw["top"], whole - height), corners(draw["left"], whole - width)
        side = self.view_side(whole)
        patches = resized_crops(images, top, left, height, width, side)
        flat = {name: value.flatten() for name, value in draw.items()}
        views: Tensor = self.augmentation(patches.flatten(0, 1), flat, side).unflatten(
            0, u.shape[:2]
        )
        return views

    def _sides(
        self, area: Tensor, ratio: Tensor, whole: int, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Height and width in whole pixels, int64 (view, batch) each."""
        stop = first + len(area)
        is_global = torch.arange(first, stop, device=area.device)[:, None] < (
            stop if self.global_views is None else self.global_views
        )
        low = torch.where(is_global, self.scale[0], self.local_scale[0])
        high = torch.where(is_global, self.scale[1], self.local_scale[1])
        share = low + (high - low) * area
        # A crop as wide as the image has a ratio of its share, one as high of its inverse.
        least = share.log().clamp(min=math.log(self.ratio[0]))
        most = (-share.log()).clamp(max=math.log(self.ratio[1]))
        shape = (least + (most - least) * ratio).exp()
        height, width = ((share * r).sqrt() * whole for r in (1 / shape, shape))
        return tuple(  # type: ignore[return-value]
            side.round().long().clamp(1, whole) for side in (height, width)
        )
