"""The total coding rate in NumPy, float64: one determinant of all rows, every pair of views."""

import math

import numpy as np

Array = np.ndarray


def coding_rate(rows: list[Array], distortion: float) -> float:
    dim = len(rows[0])
    matrix = np.eye(dim)
    for row in rows:
        matrix += dim / (len(rows) * distortion) * np.outer(row, row)
    return float(np.log(np.linalg.eigvalsh(matrix)).sum()) / 2


def objective(
    projections: Array, *, invariance_weight: float, distortion: float, pooled: bool
) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    z = [[row / math.sqrt(float(row @ row)) for row in rows] for rows in projections]
    if pooled:
        rate = coding_rate([row for rows in z for row in rows], distortion)
    else:
        rate = sum(coding_rate(rows, distortion) for rows in z) / views
    cosines = [float(z[i][k] @ z[j][k])
               for i in range(views) for j in range(i) for k in range(batch)]  # fmt: skip
    similarity = sum(cosines) / len(cosines)
    total = -rate - invariance_weight * similarity
    return total, {"coding_rate": rate, "similarity": similarity}
