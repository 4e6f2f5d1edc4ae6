"""SimSiam's eqs. 2 to 4 in NumPy, float64: a loop per sum, over all ordered pairs of views."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from references.emp import cosine
from references.predictor import predictions

Array = np.ndarray


def objective(
    projections: Array, *, targets: Array, state: Mapping[str, Array], **_: Any
) -> tuple[float, dict[str, float]]:
    """The loss and its term."""
    q = predictions(projections, state)
    views, batch, _dim = q.shape
    total = 0.0
    for i in range(views):
        for j in range(views):
            for k in range(batch):
                if i != j:
                    total -= cosine(q[i, k], targets[j, k]) / (views * (views - 1) * batch)
    return total, {"similarity": -total}
