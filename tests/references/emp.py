"""EMP-SSL's eq. 2 in NumPy, float64: a loop per sum, the d x d determinant of eq. 1."""

import math

import numpy as np

Array = np.ndarray


def coding_rate(rows: Array, distortion: float) -> float:
    """1/2 log det(I + d / (b eps^2) Z^T Z) of one view's rows."""
    batch, dim = rows.shape
    second_moment = np.zeros((dim, dim))
    for row in rows:
        second_moment += np.outer(row, row)
    sign, logarithm = np.linalg.slogdet(np.eye(dim) + dim / (batch * distortion) * second_moment)
    assert sign == 1
    return float(logarithm) / 2


def cosine(a: Array, b: Array) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def objective(
    projections: Array, *, invariance_weight: float, distortion: float
) -> tuple[float, dict[str, float]]:
    """The loss and its terms, of projections (view, batch, dim)."""
    views, batch, _ = projections.shape
    z = np.array([[row / math.sqrt(float(row @ row)) for row in Z] for Z in projections])
    rate = sum(coding_rate(Z, distortion) for Z in z) / views
    similarity = 0.0
    for k in range(batch):
        center = sum(z[i, k] for i in range(views)) / views
        for i in range(views):
            similarity += cosine(z[i, k], center) / (views * batch)
    total = -rate - invariance_weight * similarity
    return total, {"coding_rate": rate, "similarity": similarity}
