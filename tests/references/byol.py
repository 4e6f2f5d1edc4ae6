"""BYOL's eq. 2 in NumPy, float64: a loop per sum, over all pairs of a view and another's target."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from references.emp import cosine
from references.predictor import predictions

Array = np.ndarray


def objective(
    projections: Array, *, targets: Array, state: Mapping[str, Array], **_: Any
) -> tuple[float, dict[str, float]]:
    """The loss and its terms; both directions of a pair of views are added."""
    q = predictions(projections, state)
    views, batch, _dim = q.shape
    cosines, distances = [], []
    for i in range(views):
        for j in range(len(targets)):
            for k in range(batch):
                if i != j:
                    a = q[i, k] / np.linalg.norm(q[i, k])
                    b = targets[j, k] / np.linalg.norm(targets[j, k])
                    distances.append(float(((a - b) ** 2).sum()))
                    cosines.append(cosine(q[i, k], targets[j, k]))
    return 2 * sum(distances) / len(distances), {"similarity": sum(cosines) / len(cosines)}
