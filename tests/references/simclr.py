"""NT-Xent in NumPy, float64: one row and one exponential at a time."""

import math

import numpy as np

Array = np.ndarray


def unit(row: Array) -> Array:
    return row / math.sqrt(float(row @ row))


def row_terms(i: int, k: int, z: Array, partners: Array, temperature: float) -> tuple[float, float]:
    """Row k of view i among the other rows of its view and the partners of all images."""
    batch = z.shape[1]
    powers = 0.0
    for m in range(batch):
        if m != k:
            powers += math.exp(float(z[i, k] @ z[i, m]) / temperature)
        powers += math.exp(float(z[i, k] @ partners[m]) / temperature)
    return float(z[i, k] @ partners[k]), math.log(powers)


def objective(
    projections: Array, *, temperature: float, partners: str
) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    z = np.array([[unit(row) for row in rows] for rows in projections])
    similarity, contrast, rows = 0.0, 0.0, 0
    for i in range(views):
        others = [z[j] for j in range(views) if j != i]
        if partners == "mean":
            others = [np.array([unit(sum(view[k] for view in others)) for k in range(batch)])]
        for other in others:
            for k in range(batch):
                agreement, logarithm = row_terms(i, k, z, other, temperature)
                similarity, contrast, rows = similarity + agreement, contrast + logarithm, rows + 1
    similarity, contrast = similarity / rows, contrast / rows
    total = contrast - similarity / temperature
    return total, {"similarity": similarity, "contrast_loss": contrast}
