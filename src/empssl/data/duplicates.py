"""Images that are there twice: to the last pixel, or nearly."""

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor

from empssl.data.checks import near_constant
from empssl.types import ContentHashes, Images, Valid

Others = UInt8[Tensor, "other 3 height width"]
Hashes = Int64[Tensor, " batch"]

# Bits by which the hashes of two near copies may differ. Of CIFAR-10's 10,000 test images, 78 come
# so near to one of the 50,000 for training; 70 of them show the same picture (cosine of pixels
# above 0.9), so that one in a thousand does by chance. Of 1,000 train images that were compressed
# anew as JPEG of quality 90, 75 and 50, 100, 99.8 and 98.3 % are found; of those scaled to half or
# twice their size and back, 99.6 and 100 %.
NEAR_BITS = 4
_SIDE, _BITS = 32, 64
_AT_ONCE = 512


def contents(images: Images) -> ContentHashes:
    """A digest and a perceptual hash of each image: what it shows, in 16 bytes."""
    return torch.stack([digests(images), perceptual_hashes(images)], 1)


def digests(images: Images) -> Hashes:
    """64 bits of BLAKE2b of each image's pixels: alike where all pixels are.

    Decoded and scaled, so that neither the format nor the name of a file hides a copy. By chance,
    one of 10,000 images agrees with one of a million others once in two billion times.
    """
    found = [
        hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=8).digest() for image in images
    ]
    return torch.from_numpy(np.frombuffer(b"".join(found), "<i8").astype(np.int64))


def perceptual_hashes(images: Images) -> Hashes:
    """64 bits that change little where an image is compressed anew or scaled.

    The signs of the lowest frequencies, but the mean, of the cosine transform of the image in gray
    and 32 pixels wide (pHash; Zauner, 2010, takes the median in place of zero).

    >>> ramp = torch.arange(3 * 24 * 24).view(1, 3, 24, 24).remainder(251).byte()
    >>> bool((perceptual_hashes(ramp) == perceptual_hashes(ramp + 1)).all())
    True
    """
    waves = _cosines().to(images.device)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)  # of Rec. 601
    rows, columns = _lowest()
    found = []
    for part in images.split(_AT_ONCE):
        gray = torch.einsum("bchw,c->bhw", part.float(), weights)[:, None]
        small = F.interpolate(gray, (_SIDE, _SIDE), mode="bilinear", antialias=True)[:, 0]
        # A value that rounding alone lifts from zero says nothing.
        positive = (waves @ small @ waves.T)[:, rows, columns] > 1e-3
        found.append(np.packbits(positive.cpu().numpy(), axis=1).view("<i8")[:, 0])
    return torch.from_numpy(np.concatenate(found or [np.empty(0)]).astype(np.int64))


def found_in(images: Images, others: Others) -> Valid:
    """Which of the images are, to the last pixel, among the others.

    What was compressed anew is not found.

    >>> pair = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).byte()
    >>> found_in(pair, pair[1:]).tolist()
    [False, True]
    """
    return torch.isin(digests(images), digests(others))


def near(images: Images, hashes: Int64[Tensor, " other"]) -> Valid:
    """Which of the images nearly equal one of those whose perceptual hashes are given.

    Images of one color never do: there is nothing to tell them by.
    """
    own, others = perceptual_hashes(images).numpy(), np.unique(hashes.numpy())
    found = np.zeros(len(own), bool)
    for start in range(0, len(own), 64):
        for part in np.array_split(others, max(1, len(others) // 2**16)):
            apart = np.bitwise_count(own[start : start + 64, None] ^ part)
            found[start : start + 64] |= (apart <= NEAR_BITS).any(1)
    return torch.from_numpy(found) & ~near_constant(images).cpu()


def listed(images: Images, rows: ContentHashes) -> Valid:
    """Which of the images are, to the last pixel, among those whose `contents` are given."""
    return torch.isin(digests(images), rows[:, 0])


def nearly_listed(images: Images, rows: ContentHashes) -> Valid:
    """Which of the images equal, or nearly equal, one of those whose `contents` are given."""
    return near(images, rows[:, 1]) | listed(images, rows)


def _cosines() -> Tensor:
    """The first rows of the cosine transform (DCT-II) of `_SIDE` values."""
    k, x = torch.arange(_SIDE)[:, None], torch.arange(_SIDE)
    return torch.cos(math.pi * (2 * x + 1) * k / (2 * _SIDE))


def _lowest() -> tuple[list[int], list[int]]:
    """Rows and columns of the `_BITS` lowest frequencies after the mean."""
    places = sorted((i + j, i, j) for i in range(_SIDE) for j in range(_SIDE))[1 : _BITS + 1]
    return [i for _, i, _ in places], [j for _, _, j in places]
