"""Charts as numbers: ticks, lines, labels, and how values are written. The page draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
WIDTH, HEIGHT = 210.0, 84.0
_COLUMNS = 300  # what a line is reduced to, so that long runs stay small files
_GAP = 12.0  # units that a name needs above the next
_LETTER = 5.4  # mean width of one
_MOST = 16  # letters of it; the legend has the rest


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

    @classmethod
    def around(
        cls, low: float, high: float, length: float, *, margin: float, reverse: bool = False
    ) -> "Axis":
        """With a margin at both ends, a share of what lies between; 1 where these are equal.

        >>> Axis.around(0.0, 10.0, 100.0, margin=0.1)
        Axis(low=-1.0, high=11.0, length=100.0, reverse=False)
        >>> Axis.around(3.0, 3.0, 100.0, margin=0.1)
        Axis(low=2.0, high=4.0, length=100.0, reverse=False)
        """
        beyond = margin * (high - low) or 1.0
        return cls(low - beyond, high + beyond, length, reverse)

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
class LineEnd:
    """Where the line of a name ends, and how it looks."""

    name: str
    look: str
    x: float
    y: float


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
class Chart:
    """Lines over two axes; `left` is the room for what stands beside the ticks of y."""

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    mark: Tick | None = field(default=None)  # a horizontal line that means something
    notes: Sequence[Note] = ()
    width: float = WIDTH
    height: float = HEIGHT
    left: float = 38.0


@dataclass(frozen=True)
class Panel:
    """A chart among others beside it.

    Attributes:
        title: what sets it apart from those.
        words: all that it shows.
        note: what stands beside its title.
    """

    title: str
    words: str
    chart: Chart
    note: str = ""


def numeral(value: int | float | None) -> str:
    """Three significant digits, or every digit of a whole number, with thousands marked.

    >>> [numeral(x) for x in (1437, 62.9275, 1234.5, 0.00167, 9.4e-06, -257.28, None)]
    ['1,437', '62.9', '1,234', '0.00167', '9.4 × 10⁻⁶', '−257', '–']
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    if value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}"
    else:
        exponent = math.floor(math.log10(abs(value)))
        if exponent < -4:
            text = f"{value / 10**exponent:.3g} × {power_of_ten(exponent)}"
        else:
            text = f"{value:,.{max(0, 2 - exponent)}f}"
    return text.replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """Ten to a whole number.

    >>> [power_of_ten(d) for d in (0, -3, -12)]
    ['1', '10⁻³', '10⁻¹²']
    """
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}" if exponent else "1"


def tick(value: int | float) -> str:
    """A round value of an axis, with no more digits than it has.

    >>> [tick(x) for x in (0.5, 2000.0, -240.0, 0.30000000000000004)]
    ['0.5', '2,000', '−240', '0.3']
    """
    return f"{value:,.10g}".replace("-", "−")


def duration(seconds: int | float) -> str:
    """Seconds as people say them.

    >>> [duration(x) for x in (4.25, 41.93, 200, 5432)]
    ['4.2 s', '42 s', '3 min 20 s', '1 h 30 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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


def dot(x: float, y: float, kind: str, title: str) -> Line:
    """A single point, as a line without length."""
    return Line(path(np.array([x]), np.array([y])), kind, title)


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


def room(names: Sequence[str], width: float) -> float:
    """The share of a drawing's width that names take at its right."""
    return (min(max(map(len, names), default=0), _MOST) * _LETTER + 14) / width


def named(ends: Sequence[LineEnd], height: float) -> tuple[list[Note], list[Line]]:
    """Names beside the ends, moved apart where they would cover each other.

    A name that had to move has a thin line to its end.

    Returns:
        Nothing, if there is no room for all of them.
    """
    if len(ends) * _GAP > height + _GAP:
        return [], []
    order = sorted(ends, key=lambda end: end.y)
    places = apart([end.y for end in order], height)
    x = max((end.x for end in order), default=0.0)
    notes, lines = [], []
    for end, y in zip(order, places, strict=True):
        short = end.name if len(end.name) <= _MOST else end.name[: _MOST - 1] + "…"
        notes.append(Note(x, y, short, "end"))
        if abs(y - end.y) > 2 or x - end.x > 2:
            ways = np.array([[end.x, end.y], [x + 5, y]])
            lines.append(Line(path(*ways.T), f"leader {end.look}"))
    return notes, lines


def apart(wanted: Sequence[float], height: float) -> list[float]:
    """Ascending places at least a name's height apart, near those that are wanted.

    >>> apart([10.0, 12.0, 50.0], 100.0)
    [5.0, 17.0, 50.0]
    >>> apart([95.0, 99.0], 100.0)
    [88.0, 100.0]
    """
    # Groups of names that touch are placed as one, around the mean of what its members want.
    groups: list[list[float]] = []  # each the offsets at which its first name is wanted
    tops: list[float] = []
    for y in wanted:
        groups.append([y])
        tops.append(min(max(y, 0.0), height))
        while len(groups) > 1 and tops[-2] + _GAP * len(groups[-2]) > tops[-1]:
            last, above = groups.pop(), groups.pop()
            tops = tops[:-2]
            merged = above + [value - _GAP * len(above) for value in last]
            top = sum(merged) / len(merged)
            groups.append(merged)
            tops.append(min(max(top, 0.0), height - _GAP * (len(merged) - 1)))
    return [
        top + _GAP * at
        for top, group in zip(tops, groups, strict=True) for at in range(len(group))
    ]  # fmt: skip
