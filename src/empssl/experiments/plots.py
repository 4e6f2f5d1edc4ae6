"""Plots of a comparison: accuracy against n and against what it took, a panel for each layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from empssl.errors import EmpsslError
from empssl.experiments.results import Comparison
from empssl.experiments.table import EFFORTS, ComparisonTable, Spread, TableRow, percent
from empssl.models import LAYERS
from empssl.reports.charts import (
    Axis,
    Chart,
    Line,
    LineEnd,
    Note,
    Panel,
    Tick,
    dot,
    envelope,
    named,
    numeral,
    path,
    room,
    tick,
)
from empssl.reports.sections.training_curves import ABOUT, moving_mean

WIDTH, HEIGHT = 300.0, 200.0
COLORS, DASHES = 10, 4  # of the style sheet; after so many labels, marks change their shape
_ALIKE = 1.02  # efforts within 2 % are called equal
_LOG_FROM = 3.0  # times the least, the axis becomes logarithmic
_NEAR = 13.0  # units within which a second note would cover the first
_AXES = {"n": "patches of an image in a step, n", "patches": "patches seen", "pflop": "PFLOP",
         "seconds": "seconds of training"}  # fmt: skip

PlotPoint = tuple[Spread, TableRow]
CONVERGENCE_WIDTH, CONVERGENCE_HEIGHT = 300.0, 150.0
# Those that mean the same for every objective; losses and their terms do not.
QUANTITIES = ("coding_rate_ratio", "alignment", "uniformity")


@dataclass(frozen=True)
class ScorePlots:
    """The plots of one score.

    Attributes:
        column: of the table.
        plots: against n, patches, PFLOP and seconds, but for those that are the same for all.
        same: those, in words.
    """

    column: str
    plots: Sequence[Panel]
    same: Sequence[str]


@dataclass(frozen=True)
class _Course:
    """What one run measured."""

    label: str
    n: int
    patches: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Convergence:
    """The runs of one n, a panel a quantity; the axes of a quantity are the same for all n."""

    n: int
    panels: Sequence[Panel]


def marks(table: ComparisonTable) -> dict[str, str]:
    """How the marks of each label look: classes of the style sheet."""
    labels = list(dict.fromkeys(row.label for row in table.rows))
    shapes = ("", " square")
    return {x: f"c{at % COLORS}{shapes[at // COLORS % 2]}" for at, x in enumerate(labels)}


def dashes(table: ComparisonTable) -> dict[str, str]:
    """How the line of each baseline looks."""
    return {row.label: f"base d{at % DASHES}" for at, row in enumerate(table.baselines)}


def panels(table: ComparisonTable) -> list[ScorePlots]:
    """A panel for each layer that is always probed, under the first probe."""
    probe = table.columns[0].split()[0]
    shown = [column for column in table.columns if column.split()[0] == probe]
    return [_panel(table, column) for column in shown if column.split()[1] in LAYERS]


def _panel(table: ComparisonTable, column: str) -> ScorePlots:
    plots, same = [], []
    for axis, words in _AXES.items():
        points = [
            (x, row) for row in table.rows
            if row.scores[column] and (x := _effort(row, axis)) is not None
        ]  # fmt: skip
        if not points:
            continue
        low, high = min(x.low for x, _ in points), max(x.high for x, _ in points)
        if high > _ALIKE * low:
            plots.append(_plot(table, column, axis, points))
        else:
            same.append(f"{numeral(points[0][0].mean)} {words}")
    return ScorePlots(column, plots, same)


def _effort(row: TableRow, axis: str) -> Spread | None:
    return row.efforts[axis] if axis in EFFORTS else Spread.of([row.n or 0])


def _plot(table: ComparisonTable, column: str, axis: str, points: Sequence[PlotPoint]) -> Panel:
    styles = marks(table) if axis == "n" else {}  # named at the ends of their lines
    x, log = _x_axis(points, room(list(styles), WIDTH))
    bases = {row.label: row.scores[column] for row in table.baselines}
    y = _y_axis([row.scores[column] for _, row in points] + [*bases.values()])
    at = {id(row): _place(x, effort.mean, log) for effort, row in points}
    lines = [
        Line(path(np.array([0.0, WIDTH]), np.full(2, float(y.place(base.mean)))), style)
        for style, base in zip(dashes(table).values(), bases.values(), strict=True) if base
    ]  # fmt: skip
    spots: list[Note] = []
    ends: list[LineEnd] = []
    for label, style in marks(table).items():
        own = [(effort, row) for effort, row in points if row.label == label]
        places = [(at[id(row)], float(y.place(_score(row, column).mean))) for _, row in own]
        if places and label in styles:
            ends.append(LineEnd(label, style, *places[-1]))
        if len(places) > 1:
            lines.append(Line(path(*np.array(places).T), f"join {style}"))
        for (effort, row), (right, down) in zip(own, places, strict=True):
            score = _score(row, column)
            up = y.place(np.array([score.low, score.high]))
            across = [_place(x, end, log) for end in (effort.low, effort.high)]
            if score.low < score.high:
                lines.append(Line(path(np.full(2, right), up), f"spread {style}"))
            if across[1] - across[0] > 1:
                lines.append(Line(path(np.array(across), np.full(2, down)), f"spread {style}"))
            lines.append(dot(right, down, f"spot {style}", _words(effort, row, column, axis)))
            spots.append(Note(right, down, str(row.n)))
    names, leaders = named(ends, HEIGHT)
    lines = leaders + lines
    notes = names + (_readable(spots) if axis != "n" else [])
    about = "; ".join(_words(effort, row, column, axis) for effort, row in points)
    ticks = _x_ticks(x, axis, points, log)
    chart = Chart(ticks, y.ticks(5), lines, notes=notes, width=WIDTH, height=HEIGHT)
    return Panel(_AXES[axis], f"{column} against {_AXES[axis]}: {about}", chart)


def _readable(spots: Sequence[Note]) -> list[Note]:
    """Those notes that cover neither a mark nor another note."""
    notes: list[Note] = []
    for spot in spots:
        free = all(abs(spot.x - n.x) + abs(spot.y - n.y) > _NEAR for n in notes)
        if free and not any(0 < s.x - spot.x < 20 and 0 < spot.y - s.y < 18 for s in spots):
            notes.append(spot)
    return notes


def _score(row: TableRow, column: str) -> Spread:
    score = row.scores[column]
    assert score is not None
    return score


def _words(effort: Spread, row: TableRow, column: str, axis: str) -> str:
    found = f"{row.label}, n = {row.n}: {_score(row, column).text(percent)} %"
    return found if axis == "n" else f"{found} at {effort.text()} {_AXES[axis]}"


def _x_axis(points: Sequence[PlotPoint], names: float) -> tuple[Axis, bool]:
    """With room at both ends, and for names at the right; and whether it is logarithmic."""
    low, high = min(x.low for x, _ in points), max(x.high for x, _ in points)
    log = high > _LOG_FROM * low > 0
    if log:
        low, high = float(np.log10(low)), float(np.log10(high))
    margin = 0.06 * (high - low) or 1.0
    span = (high - low + 2 * margin) / (1 - names)
    return Axis(low - margin, low - margin + span, WIDTH), log


def _y_axis(scores: Sequence[Spread | None]) -> Axis:
    known = [score for score in scores if score]
    low, high = min(s.low for s in known), max(s.high for s in known)
    return Axis.around(low, high, HEIGHT, margin=0.08, reverse=True)


def _place(x: Axis, value: float, log: bool) -> float:
    return float(x.place(np.log10(value) if log else value))


def _x_ticks(x: Axis, axis: str, points: Sequence[PlotPoint], log: bool) -> list[Tick]:
    """Round values; of n, the values that there are."""
    if axis == "n":
        values = sorted({float(effort.mean) for effort, _ in points})
    elif not log:
        return x.ticks(4)
    else:
        decades = range(int(np.floor(x.low)), int(np.ceil(x.high)) + 1)
        values = [d * 10.0**power for power in decades for d in (1, 2, 5)]
        values = [v for v in values if x.low <= np.log10(v) <= x.high]
    return [Tick(_place(x, value, log), tick(value)) for value in values]


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
    labels = {spec: row.label for row in comparison.rows.rows for spec in row.specs}
    courses = []
    for status in comparison.statuses:
        spec = status.spec
        try:
            metrics = spec.run.metrics() if spec.run else []
        except EmpsslError:  # damaged, which the table says
            continue
        entries = [entry for entry in metrics if isinstance(entry.get(name), int | float)]
        if entries:
            values = np.array([entry[name] for entry in entries], float)
            patches = np.array([entry["patches"] for entry in entries], float)
            smooth = moving_mean(values, max(1, len(values) // 25) | 1)
            courses.append(_Course(labels.get(spec.name, spec.label), spec.n, patches, smooth))
    return [course for course in courses if np.isfinite(course.values).any()]


def _panels(
    name: str, courses: Sequence[_Course], comparison: Comparison
) -> list[tuple[int, Panel]]:
    """A panel for each n."""
    styles = marks(comparison.rows)
    all_values = np.concatenate([course.values for course in courses])
    low, high = np.nanmin(all_values), np.nanmax(all_values)
    y = Axis.around(low, high, CONVERGENCE_HEIGHT, margin=0.06, reverse=True)
    share = room(sorted({course.label for course in courses}), CONVERGENCE_WIDTH)
    most = max(course.patches[-1] for course in courses)
    x = Axis(0.0, most / (1 - share), CONVERGENCE_WIDTH)
    ticks = [tick for tick in x.ticks(4, whole=True) if tick.at <= float(x.place(most)) + 1]
    panels: list[tuple[int, Panel]] = []
    for n in sorted({course.n for course in courses}):
        own = [course for course in courses if course.n == n]
        lines: list[Line] = []
        ends: dict[str, LineEnd] = {}
        for course in own:
            style = styles.get(course.label, "c7")
            at, value = envelope(course.patches, course.values)
            title = f"{course.label}, n = {n}"
            lines.append(Line(path(x.place(at), y.place(value)), f"run {style}", title))
            last = np.flatnonzero(np.isfinite(course.values))[-1]
            places = float(x.place(course.patches[last])), float(y.place(course.values[last]))
            ends.setdefault(course.label, LineEnd(course.label, style, *places))
        names, leaders = named(list(ends.values()), CONVERGENCE_HEIGHT)
        words = "; ".join(f"{c.label} {numeral(_last(c))}" for c in own)
        about = f"{name} against patches seen, n = {n}; at the end: {words}"
        chart = Chart(
            ticks,
            y.ticks(4),
            leaders + lines,
            notes=names,
            width=CONVERGENCE_WIDTH,
            height=CONVERGENCE_HEIGHT,
        )
        panels.append((n, Panel(name, about, chart, ABOUT[name])))
    return panels


def _last(course: _Course) -> float:
    return float(course.values[np.isfinite(course.values)][-1])
