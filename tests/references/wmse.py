"""W-MSE in NumPy, float64: one slice, one row, one pair of views at a time."""

import math

import numpy as np

Array = np.ndarray


def whiten(rows: Array, shrinkage: float, epsilon: float) -> list[Array]:
    size, dim = rows.shape
    mean = sum(rows) / size
    covariance = np.zeros((dim, dim))
    for row in rows:
        covariance += np.outer(row - mean, row - mean) / (size - 1)
    variance = sum(covariance[m, m] for m in range(dim)) / dim
    target = (1 - shrinkage) * covariance + (shrinkage * variance + epsilon) * np.eye(dim)
    inverse = np.linalg.inv(np.linalg.cholesky(target))
    return [inverse @ (row - mean) for row in rows]


def objective(
    projections: Array, *, slice_size: int | None, shrinkage: float, epsilon: float
) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    size = batch if slice_size is None else slice_size
    w = []
    for view in projections:
        rows = []
        for start in range(0, batch, size):
            rows += whiten(view[start : start + size], shrinkage, epsilon)
        w.append([row / max(0.1, math.sqrt(float(row @ row))) for row in rows])
    distances = [2 - 2 * float(w[i][k] @ w[j][k])
                 for i in range(views) for j in range(i) for k in range(batch)]  # fmt: skip
    distance = sum(distances) / len(distances)
    return distance, {"distance_loss": distance}
