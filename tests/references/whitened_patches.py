"""Whitened patch features in NumPy, float64, one patch at a time."""

import math

import numpy as np

Array = np.ndarray


def features(
    image: Array, mean: Array, whitening: Array, dictionary: Array, patch: int, stride: int,
    *, from_right: bool = False,
) -> Array:  # fmt: skip
    """`image` is (3, height, width) in 0..255; a patch is cut channel by channel, row by row.

    With `from_right` the positions are those of the mirrored image.
    """
    rows, columns = (list(range(0, size - patch + 1, stride)) for size in image.shape[1:])
    if from_right:
        columns = [image.shape[2] - patch - column for column in reversed(columns)]
    shrunk = np.zeros((len(dictionary), len(rows), len(columns)))
    for a, row in enumerate(rows):
        for b, column in enumerate(columns):
            p = image[:, row : row + patch, column : column + patch].astype(float).flatten()
            q = (p - p.mean()) / math.sqrt(p.var() + 10)
            for f, entry in enumerate(dictionary):
                r = entry @ (whitening @ (q - mean))
                shrunk[f, a, b] = math.copysign(max(abs(r) - 0.25, 0), r)
    answer = []
    for s in shrunk:
        for response in (s, abs(s)):
            top, left = (math.ceil(n / 2) for n in s.shape)
            for part in (response[:top], response[-top:]):
                answer += [part[:, :left].mean(), part[:, -left:].mean()]
    return np.array(answer)
