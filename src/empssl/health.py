"""Warnings while a run trains, from what the step has computed anyway."""

WARN_STEPS, FIRST_STEP = 20, 20


class CollapseWatch:
    """Tells once when the projections have stayed nearly alike for too long.

    Healthy runs of EMP-SSL fill most of the room between collapse and full spread within some
    twenty steps; with the sign of the coding rate flipped, the term dropped or its weight lost,
    `fill` stays under 0.2. Other objectives use fewer directions.

    Args:
        low: the objective's `low_fill`.
    """

    def __init__(self, low: float) -> None:
        self._below = low
        self._low = 0
        self._told = False

    def update(self, step: int, fill: float) -> str | None:
        """A warning to print, the first time that there is reason for one."""
        self._low = self._low + 1 if step >= FIRST_STEP and fill < self._below else 0
        if self._told or self._low < WARN_STEPS:
            return None
        self._told = True
        return (
            f"step {step}: the projections are collapsing: they fill {fill:.0%} of the room "
            f"between all alike and fully spread, and have stayed under {self._below:.0%} for "
            f"{WARN_STEPS} steps. Lower the learning rate, or give what spreads them more weight "
            "(in emp, lower invariance_weight)."
        )
