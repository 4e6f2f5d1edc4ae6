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
    traces, squares = [], []
    for i in range(views):
        for j in range(i):
            a, b = projections[i], projections[j]
            between = covariance(a, b) + covariance(b, a)
            within = covariance(a, a) + covariance(b, b)
            traces.append(sum(between[k, k] for k in range(dim)))
            squares.append(sum(within[k, m] ** 2 for k in range(dim) for m in range(dim)))
    trace, square = float(np.mean(traces)), float(np.mean(squares))
    return square - 2 * trace, {"covariance": trace, "variance_loss": square}
