"""The spectral contrastive loss in NumPy, float64: every pair of rows."""

import math

import numpy as np

Array = np.ndarray


def objective(projections: Array, *, squared_radius: float) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    z = projections.copy()
    for i in range(views):
        for k in range(batch):
            length = math.sqrt(float(z[i, k] @ z[i, k]))
            if length > math.sqrt(squared_radius):
                z[i, k] *= math.sqrt(squared_radius) / length
    alike, crossed = [], []
    for i in range(views):
        for j in range(views):
            for k in range(batch):
                for m in range(batch):
                    if i != j and k == m:
                        alike.append(float(z[i, k] @ z[j, k]))
                    elif i != j:
                        crossed.append(float(z[i, k] @ z[j, m]) ** 2)
    similarity = sum(alike) / len(alike) / squared_radius
    overlap = sum(crossed) / len(crossed) / squared_radius
    return overlap - 2 * similarity, {"similarity": similarity, "overlap_loss": overlap}
