"""MMCR in NumPy, float64: the nuclear norm by the eigenvalues of the b x b Gram matrix."""

import math

import numpy as np

Array = np.ndarray


def objective(projections: Array) -> tuple[float, dict[str, float]]:
    views, batch, _ = projections.shape
    centers = []
    for k in range(batch):
        rows = [projections[i, k] / math.sqrt(projections[i, k] @ projections[i, k])
                for i in range(views)]  # fmt: skip
        centers.append(sum(rows) / views)
    gram = np.array([[float(a @ b) for b in centers] for a in centers])
    # Of the b eigenvalues no more than d are not zero, and rounding would have a root.
    largest = np.sort(np.linalg.eigvalsh(gram))[::-1][: projections.shape[2]]
    norm = sum(math.sqrt(value) for value in largest)
    return -norm, {"nuclear_norm": norm}
