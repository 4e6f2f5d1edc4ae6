"""Barlow Twins in NumPy, float64: one correlation at a time."""

import math

import numpy as np

Array = np.ndarray


def correlation(a: Array, b: Array, epsilon: float) -> float:
    batch = len(a)
    mean_a, mean_b = sum(a) / batch, sum(b) / batch
    covariance = variance_a = variance_b = 0.0
    for k in range(batch):
        covariance += (a[k] - mean_a) * (b[k] - mean_b) / batch
        variance_a += (a[k] - mean_a) ** 2 / batch
        variance_b += (b[k] - mean_b) ** 2 / batch
    return float(covariance / math.sqrt((variance_a + epsilon) * (variance_b + epsilon)))


def objective(
    projections: Array, *, redundancy_weight: float, epsilon: float, scale: float = 1.0
) -> tuple[float, dict[str, float]]:
    """Each view against the mean of the others."""
    views, _, dim = projections.shape
    invariance = redundancy = 0.0
    for i in range(views):
        others = sum(projections[j] for j in range(views) if j != i) / (views - 1)
        for k in range(dim):
            for m in range(dim):
                c = correlation(projections[i][:, k], others[:, m], epsilon)
                if k == m:
                    invariance += (1 - c) ** 2 / views
                else:
                    redundancy += c**2 / views
    total = scale * (invariance + redundancy_weight * redundancy)
    return total, {"invariance_loss": invariance, "redundancy_loss": redundancy}
