"""Accuracy curves: against a number of labels for the probe or of patches of an image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from empssl.reports.charts import HEIGHT, Axis, Chart, Line, Panel, Tick, dot, path, tick
from empssl.reports.sections.scores import (
    OWN,
    PLAIN,
    RANDOM,
    WHITENED,
    ScoreProtocol,
    layer_index,
)

_WIDTH = 96.0  # small, so that two charts stand side by side on a phone
_APART = 16.0  # units between marks of an axis, or their numbers touch
LOOKS = {OWN: "smooth", RANDOM: "base d0", WHITENED: "base d2", PLAIN: "base d3"}


@dataclass(frozen=True)
class AccuracyPoint:
    """An accuracy in percent, and its standard deviation over draws, if there were several."""

    count: int
    accuracy: float
    deviation: float | None = None


@dataclass(frozen=True)
class Series:
    """The accuracies of one encoder at one layer under one probe."""

    encoder: str
    probe: str
    layer: str
    crops: str
    points: Sequence[AccuracyPoint]

    def at(self, count: int) -> AccuracyPoint | None:
        return next((point for point in self.points if point.count == count), None)


@dataclass(frozen=True)
class AccuracyCurves:
    """All accuracies of one protocol.

    Attributes:
        counts: labels or patches, growing.
        panels: by probe a chart for each layer, all with the same axes.
        encoders: whose lines they have.
        series: the same as numbers, best first.
        draws: over which deviations are taken; 1 where nothing was drawn again.
    """

    protocol: ScoreProtocol
    counts: Sequence[int]
    panels: dict[str, list[Panel]]
    encoders: Sequence[str]
    series: Sequence[Series]
    draws: int = 1


def few_labels(protocol: ScoreProtocol) -> AccuracyCurves | None:
    """Accuracy against labels of each class; None where that was not measured."""
    draws = max((len(row["accuracies"]) for row in protocol.few_shot), default=1)
    return _accuracy_curves(
        protocol,
        (
            (row, [AccuracyPoint(row["shots"], row["mean"], row["deviation"])])
            for row in protocol.few_shot
        ),
        draws,
    )


def few_patches(protocol: ScoreProtocol) -> AccuracyCurves | None:
    """Accuracy against patches of a test image; None where that was not measured."""
    rows = (
        (
            row,
            [AccuracyPoint(*pair) for pair in zip(row["patches"], row["accuracies"], strict=True)],
        )
        for row in protocol.curves
    )
    return _accuracy_curves(protocol, rows)


def _accuracy_curves(
    protocol: ScoreProtocol,
    rows: Iterable[tuple[dict[str, Any], Sequence[AccuracyPoint]]],
    draws: int = 1,
) -> AccuracyCurves | None:
    found: dict[tuple[str, str, str, str], dict[int, AccuracyPoint]] = {}
    for row, points in rows:
        key = (row["encoder"], row["probe"], row["layer"], row["crops"])
        found.setdefault(key, {}).update({point.count: point for point in points})
    series = [Series(*key, [points[n] for n in sorted(points)]) for key, points in found.items()]
    if not any(one.encoder == OWN for one in series):
        return None
    counts = sorted({point.count for one in series for point in one.points})
    panels = _panels(series, counts)
    series.sort(key=lambda one: -one.points[-1].accuracy)
    encoders = list(dict.fromkeys(one.encoder for one in series))
    shown = [encoder for encoder in LOOKS if encoder in encoders]
    return AccuracyCurves(protocol, counts, panels, shown, series, draws)


def _panels(series: Sequence[Series], counts: Sequence[int]) -> dict[str, list[Panel]]:
    own = [one for one in series if one.encoder == OWN]
    own.sort(key=lambda one: (one.crops, layer_index(one.layer)))
    several = len({one.crops for one in own}) > 1
    ends = np.log([counts[0], max(counts[-1], counts[0] + 1)])
    x = Axis.around(ends[0], ends[1], _WIDTH, margin=0.05)
    y = _y_axis(series)
    panels: dict[str, list[Panel]] = {one.probe: [] for one in series if one.encoder == OWN}
    for one in own:
        others = [
            other for other in series
            if other.probe == one.probe and other.encoder != OWN
            and ((other.layer, other.crops) == (one.layer, one.crops) or other.layer == "none")
        ]  # fmt: skip
        lines = [line for other in others for line in _lines(other, x, y)] + _lines(one, x, y)
        chart = Chart(_ticks(x, counts), y.ticks(4), lines, width=_WIDTH, height=HEIGHT)
        words = "; ".join(f"{e.encoder} {_words(e.points)}" for e in (one, *others))
        title = one.layer + (f", {one.crops}" if several else "")
        about = f"{title} under the {one.probe} probe: {words}"
        panels[one.probe].append(Panel(title, about, chart, f"{one.points[-1].accuracy:.1f}"))
    return panels


def _lines(series: Series, x: Axis, y: Axis) -> list[Line]:
    points, look = series.points, LOOKS.get(series.encoder, LOOKS[RANDOM])
    at = x.place(np.log([point.count for point in points]))
    value = y.place(np.array([point.accuracy for point in points]))
    lines = [Line(path(at, value), look)]
    if series.encoder != OWN:
        return lines
    for right, down, point in zip(at, value, points, strict=True):
        if point.deviation:
            ends = [point.accuracy - point.deviation, point.accuracy + point.deviation]
            lines.append(Line(path(np.full(2, right), y.place(np.array(ends))), "spread"))
        title = f"{point.count}: {written(point)} %"
        lines.append(dot(right, down, "point", title))
    return lines


def written(point: AccuracyPoint) -> str:
    """An accuracy, and its deviation where there is one.

    >>> written(AccuracyPoint(5, 81.25, 2.5)), written(AccuracyPoint(5, 81.25))
    ('81.25 ± 2.50', '81.25')
    """
    spread = "" if point.deviation is None else f" ± {point.deviation:.2f}"
    return f"{point.accuracy:.2f}{spread}"


def _words(points: Sequence[AccuracyPoint]) -> str:
    return ", ".join(f"{point.count}: {written(point)} %" for point in points)


def _y_axis(series: Sequence[Series]) -> Axis:
    """From the lowest to the highest accuracy of all panels, deviations included."""
    points = [point for one in series for point in one.points]
    low = min(p.accuracy - (p.deviation or 0.0) for p in points)
    high = max(p.accuracy + (p.deviation or 0.0) for p in points)
    return Axis.around(low, high, HEIGHT, margin=0.06, reverse=True)


def _ticks(x: Axis, counts: Sequence[int]) -> list[Tick]:
    """The counts themselves; where they are close, the largest are marked first."""
    kept: list[Tick] = []
    for count in reversed(counts):
        at = float(x.place(np.log(count)))
        if not kept or kept[-1].at - at > _APART:
            kept.append(Tick(at, tick(count)))
    return kept[::-1]
