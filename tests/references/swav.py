"""SwAV's eqs. 2 to 5 in NumPy, float64: a loop per sum, powers instead of logarithms."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def unit(row: Array) -> Array:
    return row / math.sqrt(float(row @ row))


def codes(scores: Array, epsilon: float, iterations: int) -> Array:
    """Scaled so that columns sum to b / K, then rows to 1, in turn."""
    batch, count = scores.shape
    Q = np.exp(scores / epsilon)
    for _ in range(iterations):
        for column in range(count):
            Q[:, column] *= batch / count / sum(Q[:, column])
        for row in range(batch):
            Q[row] /= sum(Q[row])
    return Q


def objective(
    projections: Array,
    *,
    targets: Array,
    state: Mapping[str, Array],
    temperature: float,
    epsilon: float,
    iterations: int,
    **_: Any,
) -> tuple[float, dict[str, float]]:
    """The loss and its term: the mean over pairs of a view and another that has codes."""
    prototypes = state["prototypes"]
    losses = []
    for j, rows in enumerate(targets):
        assigned = codes(np.array([prototypes @ unit(row) for row in rows]), epsilon, iterations)
        for i, Z in enumerate(projections):
            for k, row in enumerate(Z):
                if i != j:
                    logits = prototypes @ unit(row) / temperature
                    logarithm = math.log(float(np.exp(logits).sum()))
                    losses.append(float(assigned[k] @ (logarithm - logits)))
    total = sum(losses) / len(losses)
    return total, {"code_loss": total}
