"""SSL-EY in NumPy, float64: the d x d covariances of every pair of views."""

import numpy as np

Array = np.ndarray


def covariance(a: Array, b: Array) -> Array:
    batch, dim = a.shape
    mean_a, mean_b = sum(a) / batch, sum(b) / batch
    total = np.zeros((dim, dim))
    for k in range(batch):
        total += np.outer(a[k] - mean_a, b[k] - mean_b) / (batch - 1)
    return total


def objective(projections: Array) -> tuple[float, dict[str, float]]:
    views, _, dim = projections.shape
    between, within = np.zeros((dim, dim)), np.zeros((dim, dim))
    for i in range(views):
        for j in range(views):
            if i == j:
                within += 2 / views * covariance(projections[i], projections[i])
            else:
                weight = 2 / (views * (views - 1))
                between += weight * covariance(projections[i], projections[j])
    trace = float(sum(between[k, k] for k in range(dim)))
    squares = float(sum(within[k, m] ** 2 for k in range(dim) for m in range(dim)))
    return squares - 2 * trace, {"covariance": trace, "variance_loss": squares}
