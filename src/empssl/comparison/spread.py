"""A number over seeds: its mean and its range."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from empssl.reporting.numerals import numeral


@dataclass(frozen=True)
class Spread:
    """The mean of `count` values, and the least and the greatest of them."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[int | float]) -> "Spread | None":
        """None if there is no value."""
        if not values:
            return None
        return cls(statistics.fmean(values), float(min(values)), float(max(values)), len(values))

    def text(self, write: Callable[[float], str] = numeral) -> str:
        """The mean, and the range where it has one.

        >>> Spread.of([60.0, 61.0]).text(percent)
        '60.5 (60.0 to 61.0)'
        >>> Spread.of([216000, 216000]).text()
        '216,000'
        """
        low, high = write(self.low), write(self.high)
        return write(self.mean) + (f" ({low} to {high})" if low != high else "")


def percent(value: float) -> str:
    """Percent with one digit: test sets here deserve no more."""
    return f"{value:.1f}"


def share(value: float) -> str:
    """Of 1, with two digits."""
    return f"{value:.2f}"
