"""I-VNE+ in NumPy, float64: the d x d autocorrelation of each view, the cosine of every pair."""

import math

import numpy as np

Array = np.ndarray


def entropy(rows: list[Array], epsilon: float) -> float:
    dim = len(rows[0])
    autocorrelation = np.zeros((dim, dim))
    for row in rows:
        autocorrelation += np.outer(row, row) / len(rows)
    total = 0.0
    for share in np.linalg.eigvalsh(autocorrelation):
        if share > 0:
            total -= share * math.log(share + epsilon)
    return float(total)


def objective(
    projections: Array, *, invariance_weight: float, entropy_weight: float, epsilon: float
) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    z = [[row / math.sqrt(float(row @ row)) for row in rows] for rows in projections]
    spread = sum(entropy(rows, epsilon) for rows in z) / views
    cosines = [float(z[i][k] @ z[j][k])
               for i in range(views) for j in range(i) for k in range(batch)]  # fmt: skip
    similarity = sum(cosines) / len(cosines)
    total = -invariance_weight * similarity - entropy_weight * spread
    return total, {"similarity": similarity, "entropy": spread}
