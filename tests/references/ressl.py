"""ReSSL's eqs. 4 to 6 in NumPy, float64: a loop per sum."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def relation(row: Array, queue: Array, temperature: float) -> list[float]:
    """Softmax of what a row, made a unit vector, has in common with all rows of the queue."""
    unit = row / math.sqrt(float(row @ row))
    powers = [math.exp(float(unit @ other) / temperature) for other in queue]
    total = sum(powers)
    return [power / total for power in powers]


def objective(
    projections: Array,
    *,
    targets: Array,
    state: Mapping[str, Array],
    student_temperature: float,
    teacher_temperature: float,
    **_: Any,
) -> tuple[float, dict[str, float]]:
    """The loss and its term: the mean over pairs of a weak view and another."""
    losses = []
    for k in range(projections.shape[1]):
        taught = [relation(row, state["queue"], teacher_temperature) for row in targets[:, k]]
        found = [relation(row, state["queue"], student_temperature) for row in projections[:, k]]
        for teacher in taught:
            for student in found:
                losses.append(-sum(p * math.log(q) for p, q in zip(teacher, student, strict=True)))
    total = sum(losses) / len(losses)
    return total, {"relation_loss": total}
