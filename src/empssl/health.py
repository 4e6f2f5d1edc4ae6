"""Warnings while a run trains, from what the step has computed anyway."""

from collections.abc import Mapping
from typing import Any

WARN_STEPS, FIRST_STEP = 20, 20
# Of the gauge's measures, what no healthy run stays under, whatever its objective. `fill` is not
# among them: where it is low depends on objective, batch and dim.
LOW = {"spread": 0.2, "participation": 1.5}
_LOOKS = {
    "spread": "are nearly all alike: their spread is {value:.2f}, where 0 is one point",
    "participation": "lie nearly on one line: they use {value:.1f} directions",
}


def collapse(measured: Mapping[str, Any]) -> str | None:
    """How the projections of a step have collapsed, in words; None where they have not.

    Args:
        measured: what the gauge measured, or a line of metrics. What it lacks is not low.

    >>> collapse({"spread": 0.05, "participation": 12.0})
    'are nearly all alike: their spread is 0.05, where 0 is one point'
    >>> collapse({"spread": 0.9, "participation": 4.0})
    """
    for name, low in LOW.items():
        if name in measured and measured[name] < low:
            return _LOOKS[name].format(value=measured[name])
    return None


class CollapseWatch:
    """Tells once when the projections have been collapsed for too long.

    A run collapses to a point, where `spread` falls, or to a line, where `participation` does and
    `spread` does not. What a measure stayed under for some 20 steps from step 20 on, with all 16
    objectives on digits (recipe `demo`, 4 patches, one seed; `benchmarks/alarm.py`): in healthy
    runs never less than 0.40 (ressl) and 2.5 (swav); with a fault planted, spread at most 0.16 or
    participation at most 1.45 in 20 of 21 runs.

    Not every fault collapses a run: with a temperature a hundred times too high it only learns
    slowly.
    """

    def __init__(self) -> None:
        self._low = 0
        self._told = False

    def update(self, step: int, measured: Mapping[str, Any]) -> str | None:
        """A warning to print, the first time that there is reason for one."""
        looks = collapse(measured) if step >= FIRST_STEP else None
        self._low = 0 if looks is None else self._low + 1
        if self._told or self._low < WARN_STEPS:
            return None
        self._told = True
        return (
            f"step {step}: the projections are collapsing: they {looks}, and have been as bad for "
            f"{WARN_STEPS} steps. Lower the learning rate, or strengthen what keeps images apart: "
            "a lower invariance_weight, a higher weight of the term that spreads, a temperature or "
            "momentum nearer the published one."
        )
