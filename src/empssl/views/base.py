"""The contract of every policy: how views are drawn from images."""

import copy
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from empssl.types import MOST_SIDE, Images, Views
from empssl.views import crop
from empssl.views.augmentation import Augmentation


class Policy(ABC):
    """Views of images, a pure function of the images and of random numbers.

    Attributes:
        draws: how many numbers a view needs.
        augmentation: what happens to a patch once it is cut.
    """

    draws: ClassVar[int]
    augmentation: Augmentation

    @abstractmethod
    def patch_side(self, image_side: int) -> int:
        """Pixels of the image that a patch covers, along each axis."""

    @abstractmethod
    def view_side(self, image_side: int) -> int:
        """Pixels that the backbone sees, along each axis."""

    @abstractmethod
    def __call__(
        self, images: Images, u: Float[Tensor, "view batch draw"], first: int = 0
    ) -> Views:
        """Augmented views.

        Args:
            images: square.
            u: `draws` numbers in [0, 1) for each view of each image.
            first: how many views of these images come before, such as those of other processes.
        """

    def weak(self) -> "Policy":
        """The same views, only cropped and mirrored."""
        weak = copy.copy(self)
        weak.augmentation = self.augmentation.weak()
        return weak

    def clean(
        self,
        images: Images,
        top: Tensor,
        left: Tensor,
        *,
        mirror: bool,
        patch: int | None = None,
        view: int | None = None,
    ) -> Views:
        """The same patches of every image, with nothing done to their colors.

        Args:
            images: square.
            top: int64 (view,), first rows of the patches, as `crop.grid` gives them.
            left: first columns.
            mirror: also the mirrored patches, after the others.
            patch: pixels along a patch; None for those of training.
            view: pixels that the backbone sees; None for those of training.
        """
        size = patch or self.patch_side(images.shape[-1])
        top, left = (corner[:, None].expand(-1, len(images)) for corner in (top, left))
        patches = crop.cut(images, top, left, size).float().div_(255)
        patches = crop.resize(patches, view or self.view_side(images.shape[-1]))
        patches = torch.cat([patches, patches.flip(-1)]) if mirror else patches
        return self.augmentation.normalize(patches)


def check_side(side: int | None) -> None:
    """Refuse a view of no pixels, or of so many that one takes gigabytes.

    Raises:
        ValueError: as said.
    """
    if side is not None and not 1 <= side <= MOST_SIDE:
        raise ValueError(f"side is {side}, expected 1 to {MOST_SIDE:,} pixels, or none")
