"""FroSSL in NumPy, float64: the d x d covariance of each view, the distance of each pair."""

import math

import numpy as np

Array = np.ndarray


def normalize(rows: Array, epsilon: float) -> Array:
    """Coordinates centered and of length 1 over the batch."""
    columns = []
    for column in rows.T:
        centered = column - sum(column) / len(column)
        columns.append(centered / math.sqrt(float(centered @ centered) + epsilon))
    return np.array(columns).T


def entropy(z: Array, epsilon: float) -> float:
    dim = z.shape[1]
    covariance = np.zeros((dim, dim))
    for row in z:
        covariance += np.outer(row, row)
    trace = sum(covariance[k, k] for k in range(dim))
    squares = sum(covariance[k, m] ** 2 for k in range(dim) for m in range(dim))
    return -math.log((squares + epsilon) / (trace**2 + epsilon))


def objective(
    projections: Array, *, invariance_weight: float, epsilon: float
) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    z = [normalize(rows, epsilon) for rows in projections]
    entropies, invariance, pairs = 0.0, 0.0, views * (views - 1)
    for i in range(views):
        for j in range(views):
            if i != j:
                entropies += (entropy(z[i], epsilon) + entropy(z[j], epsilon)) / pairs
                for k in range(batch):
                    apart = z[i][k] - z[j][k]
                    invariance += float(apart @ apart) / (batch * pairs)
    total = invariance_weight * invariance - entropies
    return total, {"entropy": entropies, "invariance_loss": invariance}
