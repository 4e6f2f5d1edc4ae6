"""VICReg in NumPy, float64: the authors' two-view terms, averaged over pairs of views."""

import math

import numpy as np

Array = np.ndarray


def covariance(rows: Array) -> Array:
    batch, dim = rows.shape
    mean = sum(rows) / batch
    total = np.zeros((dim, dim))
    for row in rows:
        total += np.outer(row - mean, row - mean) / (batch - 1)
    return total


def objective(
    projections: Array, *, invariance_weight: float, variance_weight: float,
    covariance_weight: float, epsilon: float,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    views, batch, dim = projections.shape
    hinge, repeated = [], []
    for rows in projections:
        C = covariance(rows)
        hinge.append(sum(max(0.0, 1 - math.sqrt(C[m, m] + epsilon)) for m in range(dim)) / dim)
        repeated.append(sum(C[m, p] ** 2 for m in range(dim) for p in range(dim) if p != m) / dim)
    pairs = [(i, j) for i in range(views) for j in range(i)]
    invariance = variance = redundancy = 0.0
    for i, j in pairs:
        for k in range(batch):
            for m in range(dim):
                square = (projections[i, k, m] - projections[j, k, m]) ** 2
                invariance += float(square) / (batch * dim * len(pairs))
        variance += (hinge[i] / 2 + hinge[j] / 2) / len(pairs)
        redundancy += float(repeated[i] + repeated[j]) / len(pairs)
    total = (
        invariance_weight * invariance + variance_weight * variance + covariance_weight * redundancy
    )
    return total, {
        "invariance_loss": invariance, "variance_loss": variance, "covariance_loss": redundancy,
    }  # fmt: skip
