"""A chart as numbers: where its ticks are and how its lines run. The page draws it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from empssl.reporting.numerals import tick

WIDTH, HEIGHT = 210.0, 84.0
_COLUMNS = 300  # what a line is reduced to, so that long runs stay small files


@dataclass(frozen=True)
class Tick:
    """A marked value of an axis, at a distance from the plot's top or left."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, over `length` units of the drawing.

    Attributes:
        reverse: upwards, as y axes go: SVG counts from the top.
    """

    low: float
    high: float
    length: float
    reverse: bool = False

    def place(self, values: np.ndarray | int | float) -> np.ndarray:
        """Where values lie, from the top or left."""
        share = (np.asarray(values, float) - self.low) / (self.high - self.low)
        return np.asarray(self.length * (1 - share if self.reverse else share))

    def ticks(self, count: int = 3, *, whole: bool = False) -> list[Tick]:
        """About `count` round values."""
        locator = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=whole)
        inside = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [Tick(float(self.place(v)), tick(v)) for v in inside]


@dataclass(frozen=True)
class Line:
    """A drawn line.

    Attributes:
        path: SVG path data.
        kind: how it looks, classes of the style sheet.
        title: what it is, shown where it is pointed at.
    """

    path: str
    kind: str
    title: str = ""


@dataclass(frozen=True)
class Note:
    """Words beside a point of the drawing.

    Attributes:
        kind: `beside` the point, above it; or at the `end` of a line, to its right.
    """

    x: float
    y: float
    text: str
    kind: Literal["beside", "end"] = "beside"


@dataclass(frozen=True)
class Chart:
    """Lines over two axes."""

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    mark: Tick | None = field(default=None)  # a horizontal line that means something
    notes: Sequence[Note] = ()
    width: float = WIDTH
    height: float = HEIGHT


def path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path data through the points; broken where y is not finite.

    A single point becomes a dot, which is a line of no length with round ends.

    >>> path(np.array([0.0, 5.0, 7.0]), np.array([1.0, 2.0, np.nan]))
    'M0 1L5 2'
    """
    parts, pen = [], "M"
    for a, b in zip(np.round(x, 1), np.round(y, 1), strict=True):
        if np.isfinite(b):
            parts.append(f"{pen}{a:g} {b:g}")
            pen = "L"
        else:
            pen = "M"
    dots = [f"{p}h0" if p[0] == "M" and (n is None or n[0] == "M") else p
            for p, n in zip(parts, [*parts[1:], None], strict=True)]  # fmt: skip
    return "".join(dots)


def envelope(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A long line reduced to the lowest and highest point of each column of the drawing."""
    if len(x) <= 2 * _COLUMNS:
        return x, y
    kept: list[int] = []
    for rows in np.array_split(np.arange(len(x)), _COLUMNS):
        finite = rows[np.isfinite(y[rows])]
        if len(finite):
            kept += sorted({int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])})
    return x[kept], y[kept]
