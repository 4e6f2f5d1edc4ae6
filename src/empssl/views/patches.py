"""Fixed-size patches, the views of EMP-SSL."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from empssl.types import Images, Views
from empssl.views import augmentation, crop
from empssl.views.augmentation import Augmentation, Colors
from empssl.views.base import Policy, check_side

# What each of a patch's draws decides. Their order is part of what a seed means.
DRAWS = ("top", "left", *augmentation.DRAWS)


class Patches(Policy):
    """Fixed-size patches, each augmented on its own, as EMP-SSL trains on them.

    In order: crop, resize, flip, color jitter (its four parts in random order), gray, blur,
    solarize, normalize. The defaults are those of the paper's section 4 and its authors' code;
    they are not VICReg's, which the paper says they are.

    Args:
        crop: side of a patch as a fraction of the image's side.
        side: what the backbone sees, in pixels; None leaves patches at their native size, and
            `image` enlarges them to that of the image, as the paper does.
        flip: probability of a mirrored patch.
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
        colors: `faithful` clips after each operation and turns the hue in HSV, as Pillow does;
            `fast` makes one affine map of all four and of gray, with the hue turned in YIQ, and
            applies it before resizing. On photographs it is 5 of 255 levels away on average, by
            the hue; without it 0.2.

    Raises:
        ValueError: a value out of its range.
    """

    draws = len(DRAWS)

    def __init__(
        self,
        *,
        crop: float = 0.5,
        side: int | Literal["image"] | None = None,
        flip: float = 0.5,
        jitter: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.2,
        gray: float = 0.2,
        blur: float = 0.1,
        sigma: Sequence[float] = (0.1, 2.0),
        solarize: float = 0.1,
        mean: float = 0.5,
        std: float = 0.5,
        colors: Colors = "faithful",
    ) -> None:
        if not 0 < crop <= 1:
            raise ValueError(f"crop is {crop}, expected a fraction of the image's side")
        if isinstance(side, str) and side != "image":
            raise ValueError(f"side is '{side}', expected a number of pixels, 'image' or none")
        check_side(None if side == "image" else side)
        self.crop, self.side = crop, side
        self.augmentation = Augmentation(
            flip=flip, jitter=jitter, brightness=brightness, contrast=contrast,
            saturation=saturation, hue=hue, gray=gray, blur=blur, sigma=sigma, solarize=solarize,
            mean=mean, std=std, colors=colors,
        )  # fmt: skip

    def patch_side(self, image_side: int) -> int:
        return max(1, round(self.crop * image_side))

    def view_side(self, image_side: int) -> int:
        if isinstance(self.side, str):
            return image_side
        return self.side or self.patch_side(image_side)

    def __call__(
        self, images: Images, u: Float[Tensor, "view batch draw"], first: int = 0
    ) -> Views:
        draw = dict(zip(DRAWS, u.unbind(-1), strict=True))
        size = self.patch_side(images.shape[-1])
        room = images.shape[-1] - size
        patches = crop.cut(
            images, crop.corners(draw["top"], room), crop.corners(draw["left"], room), size
        )
        patches = patches.flatten(0, 1).float().div_(255)  # view*batch 3 size size
        flat = {name: value.flatten() for name, value in draw.items()}
        side = self.view_side(images.shape[-1])
        views: Tensor = self.augmentation(patches, flat, side).unflatten(0, u.shape[:2])
        return views
