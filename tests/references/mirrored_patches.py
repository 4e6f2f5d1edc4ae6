"""Mirrored patch features in NumPy, float64, one patch at a time, from a mirrored image."""

import math

import numpy as np
from references import whitened_patches

Array = np.ndarray


def features(
    image: Array, mean: Array, whitening: Array, dictionary: Array, patch: int, pairs: list[int]
) -> Array:
    """`image` is (3, height, width) in 0..255; the others are as `MirroredPatches` has them.

    Args:
        image: of the features.
        mean: (scale, pixel).
        whitening: (scale, component, pixel).
        dictionary: (pair, 2, component), of which only the first of a pair is used.
        patch: side in pixels.
        pairs: of each scale.
    """
    answer: list[float] = []
    scales = [image, halved(image)]
    filters = np.split(dictionary[:, 0], np.cumsum(pairs)[:-1])
    for i in range(len(pairs)):
        stride = math.ceil((max(scales[i].shape[1:]) - patch + 1) / 32)
        fitted = mean[i], whitening[i], filters[i], patch, stride
        own = whitened_patches.features(scales[i], *fitted)
        mirrored = whitened_patches.features(scales[i][:, :, ::-1], *fitted, from_right=True)
        answer += [*(own + mirrored) / 2]
    return np.array(answer)


def halved(image: Array) -> Array:
    """Each pixel the mean of the area that it covers; of an odd side, areas share a pixel."""
    channels, height, width = image.shape
    small = np.zeros((channels, height // 2, width // 2))
    for row in range(height // 2):
        for column in range(width // 2):
            top, bottom = row * height // (height // 2), -(-(row + 1) * height // (height // 2))
            left, right = column * width // (width // 2), -(-(column + 1) * width // (width // 2))
            small[:, row, column] = image[:, top:bottom, left:right].mean((1, 2))
    return small
