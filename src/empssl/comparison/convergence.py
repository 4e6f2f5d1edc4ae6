"""Convergence: what every run measured on its way, on axes that all of them share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from empssl.comparison.comparison import Comparison
from empssl.comparison.ends import End, named, room
from empssl.comparison.plots import marks
from empssl.errors import EmpsslError
from empssl.reporting.chart import Axis, Chart, Line, envelope, path
from empssl.reporting.curves import ABOUT, moving_mean
from empssl.reporting.numerals import numeral

WIDTH, HEIGHT = 300.0, 150.0
# Those that mean the same for every objective; losses and their terms do not.
QUANTITIES = ("fill", "alignment", "uniformity")


@dataclass(frozen=True)
class Panel:
    """One quantity of the runs of one n.

    Attributes:
        name: as in metrics.jsonl.
        about: what it is, in a sentence.
        words: all that the chart shows.
    """

    name: str
    about: str
    words: str
    chart: Chart


@dataclass(frozen=True)
class Convergence:
    """The runs of one n, a panel a quantity; the axes of a quantity are the same for all n."""

    n: int
    panels: Sequence[Panel]


@dataclass(frozen=True)
class _Course:
    """What one run measured."""

    label: str
    n: int
    patches: np.ndarray
    values: np.ndarray


def convergence(comparison: Comparison) -> list[Convergence]:
    """The quantities that mean the same for every objective, against the patches seen.

    Runs that are not finished are drawn as far as they have come.
    """
    found: dict[int, list[Panel]] = {}
    for name in QUANTITIES:
        courses = _courses(comparison, name)
        for n, panel in _panels(name, courses, comparison) if courses else ():
            found.setdefault(n, []).append(panel)
    return [Convergence(n, found[n]) for n in sorted(found)]


def _courses(comparison: Comparison, name: str) -> list[_Course]:
    labels = {cell: row.label for row in comparison.rows.rows for cell in row.cells}
    courses = []
    for outcome in comparison.outcomes:
        cell = outcome.cell
        try:
            metrics = cell.run.metrics() if cell.run else []
        except EmpsslError:  # damaged, which the table says
            continue
        entries = [entry for entry in metrics if isinstance(entry.get(name), int | float)]
        if entries:
            values = np.array([entry[name] for entry in entries], float)
            patches = np.array([entry["patches"] for entry in entries], float)
            smooth = moving_mean(values, max(1, len(values) // 25) | 1)
            courses.append(_Course(labels.get(cell.name, cell.label), cell.n, patches, smooth))
    return [course for course in courses if np.isfinite(course.values).any()]


def _panels(
    name: str, courses: Sequence[_Course], comparison: Comparison
) -> list[tuple[int, Panel]]:
    """A panel for each n."""
    looks = marks(comparison.rows)
    all_values = np.concatenate([course.values for course in courses])
    low, high = np.nanmin(all_values), np.nanmax(all_values)
    margin = 0.06 * (high - low) or 1.0
    y = Axis(low - margin, high + margin, HEIGHT, reverse=True)
    share = room(sorted({course.label for course in courses}), WIDTH)
    most = max(course.patches[-1] for course in courses)
    x = Axis(0.0, most / (1 - share), WIDTH)
    ticks = [tick for tick in x.ticks(4, whole=True) if tick.at <= float(x.place(most)) + 1]
    panels: list[tuple[int, Panel]] = []
    for n in sorted({course.n for course in courses}):
        own = [course for course in courses if course.n == n]
        lines: list[Line] = []
        ends: dict[str, End] = {}
        for course in own:
            look = looks.get(course.label, "c7")
            at, value = envelope(course.patches, course.values)
            title = f"{course.label}, n = {n}"
            lines.append(Line(path(x.place(at), y.place(value)), f"run {look}", title))
            last = np.flatnonzero(np.isfinite(course.values))[-1]
            places = float(x.place(course.patches[last])), float(y.place(course.values[last]))
            ends.setdefault(course.label, End(course.label, look, *places))
        names, leaders = named(list(ends.values()), HEIGHT)
        words = "; ".join(f"{c.label} {numeral(_last(c))}" for c in own)
        about = f"{name} against patches seen, n = {n}; at the end: {words}"
        chart = Chart(ticks, y.ticks(4), leaders + lines, notes=names, width=WIDTH, height=HEIGHT)
        panels.append((n, Panel(name, ABOUT[name], about, chart)))
    return panels


def _last(course: _Course) -> float:
    return float(course.values[np.isfinite(course.values)][-1])
