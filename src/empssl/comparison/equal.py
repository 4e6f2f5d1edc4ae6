"""What every cell of a grid gets the same of: patches, PFLOP or seconds."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from empssl.errors import UsageError, nearest
from empssl.reporting.numerals import tick

What = Literal["patches", "pflop", "seconds"]
UNITS: dict[What, str] = {"patches": "patches", "pflop": "PFLOP", "seconds": "seconds"}


@dataclass(frozen=True)
class Equal:
    """An amount that no cell gets more of than another.

    The batch is held fixed: with fewer patches of each image, the same number of patches is more
    images. Patches and PFLOP are equal to within half a step.
    """

    what: What
    amount: float

    @classmethod
    def parse(cls, text: str) -> "Equal":
        """The amount that `patches=216000`, `pflop=0.02` or `seconds=60` says.

        Raises:
            UsageError: it says something else.

        >>> Equal.parse("pflop=0.02")
        Equal(what='pflop', amount=0.02)
        """
        name, _, number = text.partition("=")
        if name not in get_args(What):
            raise UsageError(f"equal is '{text}', expected NAME=NUMBER: {nearest(name, UNITS)}")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            raise UsageError(f"equal is '{text}', expected a positive number after {name}=")
        return cls(name, amount)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.what}={self.amount:.15g}"

    @property
    def words(self) -> str:
        """The amount with its unit.

        >>> Equal("pflop", 0.02).words
        '0.02 PFLOP'
        """
        return f"{tick(self.amount)} {UNITS[self.what]}"

    def steps(self, *, patches_per_step: int, gflop_per_patch: float) -> int | None:
        """How many steps that is; None where the clock decides.

        Raises:
            UsageError: not even one.

        >>> Equal("patches", 216000.0).steps(patches_per_step=320, gflop_per_patch=0.1)
        675
        """
        if self.what == "seconds":
            return None
        patches = self.amount if self.what == "patches" else 1e6 * self.amount / gflop_per_patch
        steps = round(patches / patches_per_step)
        if steps < 1:
            raise UsageError(
                f"{self} is {patches:,.0f} patches, less than one step of {patches_per_step:,}; "
                "give more, or choose a smaller --batch"
            )
        return steps

    def length(self, steps: int | None, steps_per_epoch: int) -> dict[str, Any]:
        """The settings of `train` that make a run so long."""
        if steps is None:
            return {"budget": f"{self.amount:.15g}s"}
        return {"epochs": steps / steps_per_epoch, "budget": None}
