"""A predictor in NumPy, float64, from its weights: one row, one unit at a time."""

import math
from collections.abc import Mapping

import numpy as np

Array = np.ndarray


def predictions(projections: Array, state: Mapping[str, Array]) -> Array:
    """Linear, batch norm over the rows of all views, ReLU, Linear."""
    rows = projections.reshape(-1, projections.shape[-1])
    hidden = np.array([state["predictor.hidden.weight"] @ row for row in rows])
    for unit in range(hidden.shape[1]):
        mean = sum(hidden[:, unit]) / len(rows)
        variance = sum((value - mean) ** 2 for value in hidden[:, unit]) / len(rows)
        normal = (hidden[:, unit] - mean) / math.sqrt(variance + 1e-5)
        scaled = state["predictor.norm.weight"][unit] * normal + state["predictor.norm.bias"][unit]
        hidden[:, unit] = np.maximum(scaled, 0)
    found = [state["predictor.out.weight"] @ row + state["predictor.out.bias"] for row in hidden]
    return np.array(found).reshape(projections.shape)
