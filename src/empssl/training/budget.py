"""Durations, and training for a given time: steps are planned again as the speed changes."""

import math
import re
from collections import deque
from collections.abc import Sequence
from statistics import median

from empssl.errors import UsageError

_MOST = 1e10  # seconds, 300 years: steps have to be counted
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BLOCK_SECONDS = 0.01  # of the budget, after which the speed is looked at
BLOCK_STEPS = 0.05  # of the steps that were left, where these are done sooner
BLOCKS = 5  # whose median is the speed: one long pause is none
TOLERANCE = 0.02  # of the steps left; a plan that is off by less is kept


def parse_duration(text: str) -> float:
    """Seconds in `90s`, `10m`, `1h30m`, `1.5h` or `2d`.

    Raises:
        UsageError: it is none of these, zero, or centuries.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds < _MOST or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"'{text}' is no duration; write it as 90s, 10m, 1h30m or 2d")
    return float(seconds)


def format_duration(seconds: int | float) -> str:
    """A length of time as `parse_duration` reads it, in one or two of its units.

    >>> [format_duration(seconds) for seconds in (3.2, 90, 5400, 200_000)]
    ['3s', '1m30s', '1h30m', '2d7h']
    """
    left = max(1, round(seconds))
    words: list[str] = []
    for unit, size in reversed(_SECONDS.items()):
        number, left = divmod(left, size)
        if number or words:
            words.append(f"{number}{unit}" if number else "")
    return "".join(words[:2])


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
