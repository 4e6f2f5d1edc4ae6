"""A set decoded once and kept, where it fits."""

import copy
from collections.abc import Callable

import torch

from empssl.data.base import BadSample, ImageSet, MemoryImages
from empssl.device import has_room, send


def in_memory(
    images: ImageSet,
    *,
    limit_bytes: int = 2**31,
    progress: Callable[[int], object] | None = None,
    chunk: int = 1024,
) -> ImageSet:
    """The same images, decoded; or the set itself, if it is in memory already or would not fit.

    Row i stays image i: one that cannot be read is kept as not valid, with its reason.

    Args:
        images: any set.
        limit_bytes: of pixels, 3 side^2 for an image.
        progress: called with the number of images done.
        chunk: images read at a time.
    """
    total = len(images)
    if isinstance(images, MemoryImages) or total * 3 * images.side**2 > limit_bytes:
        return images
    pixels = torch.empty(total, 3, images.side, images.side, dtype=torch.uint8)
    valid = torch.empty(total, dtype=torch.bool)
    bad: list[BadSample] = []
    for start in range(0, total, chunk):
        rows = range(start, min(start + chunk, total))
        batch = images.read(rows)
        pixels[rows.start : rows.stop] = batch.pixels
        valid[rows.start : rows.stop] = batch.valid
        bad += batch.bad
        if progress is not None:
            progress(rows.stop)
    kept = MemoryImages(
        pixels,
        name=images.name,
        split=images.split,
        fingerprint=images.fingerprint,
        labels=images.labels,
        class_names=images.class_names,
        names=[images.sample_name(i) for i in range(total)],
        valid=valid,
        bad=bad,
    )
    kept.decoding, kept.notices, kept.reported = images.decoding, images.notices, images.reported
    return kept


def resident(images: ImageSet, device: torch.device) -> ImageSet:
    """The same images with their pixels on the GPU that computes, where they fit.

    As bytes, CIFAR-10 takes 154 MB. The set itself, if it is not in memory or too large for the
    device, or if the device is the CPU.
    """
    if not isinstance(images, MemoryImages) or not has_room(images.pixels.nbytes, device):
        return images
    moved = copy.copy(images)
    moved.pixels = send(images.pixels, device)
    return moved
