"""How strong a probe's penalty is: chosen on train images that were held out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from empssl.errors import UsageError


@dataclass(frozen=True)
class Strength:
    """A strength, and why it was chosen.

    Attributes:
        value: of the penalty.
        held_out: percent of the held-out images put in their class with each strength tried.
    """

    value: float
    held_out: dict[float, float]

    @classmethod
    def best(
        cls,
        strengths: Sequence[float],
        accuracy: Callable[[float], float],
        *,
        patience: int | None = None,
    ) -> "Strength":
        """The strength with most of the held-out images right; of equals, the strongest.

        A single strength is taken as it is.

        Args:
            strengths: to choose from. They are tried from strong to weak.
            accuracy: percent of the held-out images right with a strength.
            patience: stop when so many have done worse than the best before them.

        Raises:
            UsageError: no strength is given, or one is not a positive number.

        >>> Strength.best([0.01, 0.1, 1.0], {1.0: 80.0, 0.1: 90.0, 0.01: 90.0}.get)
        Strength(value=0.1, held_out={1.0: 80.0, 0.1: 90.0, 0.01: 90.0})
        """
        if not strengths or not all(0 < strength < math.inf for strength in strengths):
            raise UsageError(f"strengths are {list(strengths)}; give one or more positive numbers")
        ordered = sorted(set(strengths), reverse=True)
        best, worse = ordered[0], 0
        held_out: dict[float, float] = {}
        for strength in ordered if len(ordered) > 1 else []:
            held_out[strength] = accuracy(strength)
            if held_out[strength] > held_out[best]:
                best, worse = strength, 0
            worse += held_out[strength] < held_out[best]
            if worse == patience:
                break
        return cls(best, held_out)

    def details(self) -> dict[str, Any]:
        """For the details of a score."""
        held_out = {f"{strength:g}": accuracy for strength, accuracy in self.held_out.items()}
        return {"strength": self.value, "held_out": held_out}
