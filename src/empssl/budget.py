"""Training for a given time: the steps are planned again while the machine's speed changes."""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

BLOCK_SECONDS = 0.01  # of the budget, after which the speed is looked at
BLOCK_STEPS = 0.05  # of the steps that were left, where these are done sooner
BLOCKS = 5  # whose median is the speed: one long pause is none
TOLERANCE = 0.02  # of the steps left; a plan that is off by less is kept


class Budget:
    """How many steps a run takes, so that it ends when its time is used up.

    A plan says how many steps there are in all, from a step on. Each step has a position on the
    learning rate's schedule, which was made for the steps of the first plan: the step's own number
    until there is another plan, then evenly from there to where a run of that many steps ends. So
    it never turns back, and its last step is at the schedule's end whatever the speed did.

    Args:
        seconds: of training, with all that comes before the first step.
        planned: (step, steps): from this step on, so many steps in all. The first is from step 0.
        step: the next one.
        spent: seconds of the budget until now.
        each: seconds that a step takes, where that has been measured.
    """

    def __init__(
        self,
        seconds: float,
        planned: Sequence[Sequence[int]],
        *,
        step: int = 0,
        spent: float = 0.0,
        each: float | None = None,
    ) -> None:
        self.seconds = seconds
        self.planned: list[tuple[int, int]] = []
        self._lines: list[tuple[int, float, float]] = []  # first step, position before it, slope
        for start, steps in planned:
            self.plan(start, steps)
        self._each = deque([] if each is None else [each] * 2, maxlen=BLOCKS)
        self._begin(step, spent)

    @property
    def steps(self) -> int:
        """Of the whole run, as it is planned now."""
        return self.planned[-1][1]

    def position(self, step: int) -> float:
        """Where on the schedule of the first plan's steps a step is."""
        first, before, slope = next(line for line in reversed(self._lines) if line[0] <= step)
        return float(step) if first == 0 else before + slope * (step - first + 1)

    def replan(self, step: int, spent: float) -> bool:
        """Plan the rest again if it is time to; whether the number of steps is another now.

        Args:
            step: the next one.
            spent: seconds of the budget until now.
        """
        begun, at, enough = self._block
        steps, seconds = step - begun, spent - at
        if not steps or (steps < enough and seconds < BLOCK_SECONDS * self.seconds):
            return False
        self._each.append(seconds / steps)
        left = self.steps - step
        # A clock that stood still says nothing of the speed.
        fits = (self.seconds - spent) / each if (each := median(self._each)) > 0 else left
        found = max(1, math.floor(fits))
        changed = left > 0 and abs(found - left) > TOLERANCE * left
        if changed:
            self.plan(step, step + found)
        self._begin(step, spent)
        return changed

    def plan(self, step: int, steps: int) -> None:
        """From this step on there are so many in all."""
        if self.planned:
            before = self.position(step - 1)
            end = self.planned[0][1] * (1 - 1 / steps)  # where the last of so many steps is
            self._lines.append((step, before, max(0.0, end - before) / (steps - step)))
        else:
            self._lines.append((step, -1.0, 1.0))
        self.planned.append((step, steps))

    def _begin(self, step: int, spent: float) -> None:
        self._block = (step, spent, BLOCK_STEPS * (self.steps - step))
