"""Mirrored patch features in NumPy, float64, one patch at a time, from a mirrored image."""

import math

import numpy as np

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
        fitted = mean[i], whitening[i], filters[i], patch
        own = of_one_scale(scales[i], *fitted)
        mirrored = of_one_scale(scales[i][:, :, ::-1], *fitted, from_right=True)
        answer += [*(own + mirrored) / 2]
    return np.array(answer)


def of_one_scale(
    image: Array, mean: Array, whitening: Array, filters: Array, patch: int,
    from_right: bool = False,
) -> Array:  # fmt: skip
    """Averages of s and |s| over the quarters; of a mirrored image the positions are mirrored."""
    height, width = image.shape[1:]
    stride = math.ceil((max(height, width) - patch + 1) / 32)
    rows = list(range(0, height - patch + 1, stride))
    columns = list(range(0, width - patch + 1, stride))
    if from_right:
        columns = [width - patch - column for column in reversed(columns)]
    shrunk = np.zeros((len(filters), len(rows), len(columns)))
    for a, row in enumerate(rows):
        for b, column in enumerate(columns):
            p = image[:, row : row + patch, column : column + patch].astype(float).flatten()
            q = (p - p.mean()) / math.sqrt(p.var() + 10)
            for f, entry in enumerate(filters):
                r = entry @ (whitening @ (q - mean))
                shrunk[f, a, b] = math.copysign(max(abs(r) - 0.25, 0), r)
    answer = []
    for s in shrunk:
        for response in (s, abs(s)):
            top, left = (math.ceil(n / 2) for n in s.shape)
            for part in (response[:top], response[-top:]):
                answer += [part[:, :left].mean(), part[:, -left:].mean()]
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
