"""Training curves: what each step measured, as small charts side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from empssl.metrics.projections import LOW
from empssl.metrics.verdict import NAMES
from empssl.reports.charts import HEIGHT, WIDTH, Axis, Chart, Line, Tick, envelope, numeral, path

# How far the run is, rather than what it measured.
_PROGRESS = {"step", "epoch", "patches", "pflop", "seconds"}
# What a quantity is, in a sentence.
ABOUT = {
    "loss": "What training minimizes: the terms, weighted and with their signs turned.",
    "coding_rate": "How spread out the projections are; larger is better.",
    "similarity": "Mean cosine of a view to its image’s mean view; 1 is all alike.",
    "coding_rate_ratio": "Coding rate about the mean: 0 is collapse, 1 the most there can be.",
    "participation_ratio": "Directions that projections share evenly; 1 is collapse.",
    "embedding_std": "Standard deviation over images, 1 at most; 0 is collapse.",
    "alignment": "Mean square distance of two views of an image; 0 is the closest.",
    "uniformity": "How evenly images lie on the sphere: 0 is collapse, near −4 the best.",
    "gradient_norm": "Length of the gradient over all weights.",
    "lr": "Learning rate, as scheduled.",
    "clip_fraction": "Share of weight tensors whose LARS trust ratio was capped.",
    "patches_per_second": "Training speed; dips are other work on the machine.",
}
_FROM_ZERO = {
    "alignment", "participation_ratio", "embedding_std", "gradient_norm", "lr",
    "patches_per_second",
}  # fmt: skip
_FRACTIONS = {"coding_rate_ratio", "clip_fraction"}


@dataclass(frozen=True)
class Curve:
    """One measured quantity against the step.

    Attributes:
        name: in words.
        about: what it is, in a sentence.
        first, last, least, most: its values, written out.
        window: steps in the moving mean; 1 where there is none.
    """

    name: str
    about: str
    first: str
    last: str
    least: str
    most: str
    window: int
    chart: Chart


def curves(metrics: Sequence[dict[str, Any]]) -> list[Curve]:
    """A curve for each quantity in the metrics, in their order.

    Args:
        metrics: lines of metrics.jsonl.
    """
    names = list(dict.fromkeys(name for entry in metrics for name in entry))
    steps = np.array([entry["step"] for entry in metrics], float)
    found = []
    for name in names:
        values = np.array([_number(entry.get(name)) for entry in metrics])
        if name not in _PROGRESS and np.isfinite(values).any():
            found.append(_curve(name, steps, values))
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _curve(name: str, steps: np.ndarray, values: np.ndarray) -> Curve:
    window = max(1, len(values) // 25) | 1
    smooth = moving_mean(values, window)
    finite = values[np.isfinite(values)]
    x = Axis(steps[0], max(steps[-1], steps[0] + 1), WIDTH)
    y = _y_axis(name, finite, smooth)
    lines = []
    if window > 1:
        at, value = envelope(steps, values)
        lines.append(Line(path(x.place(at), y.place(value)), "raw"))
    at, value = envelope(steps, smooth)
    lines.append(Line(path(x.place(at), y.place(value)), "smooth"))
    mark = Tick(float(y.place(LOW[name])), "") if name in LOW else None
    chart = Chart(x.ticks(4, whole=True), y.ticks(4), lines, mark)
    return Curve(
        name=NAMES.get(name, name.replace("_", " ")),
        about=ABOUT.get(name, ""),
        first=numeral(finite[0]),
        last=numeral(finite[-1]),
        least=numeral(finite.min()),
        most=numeral(finite.max()),
        window=window,
        chart=chart,
    )


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values around each, fewer at the ends; gaps are left out.

    >>> moving_mean(np.array([0.0, 3.0, np.nan, 9.0]), 3).tolist()
    [1.5, 1.5, 6.0, 9.0]
    """
    finite = np.isfinite(values)
    half = window // 2
    sums = np.concatenate([[0.0], np.where(finite, values, 0.0).cumsum()])
    counts = np.concatenate([[0], finite.cumsum()])
    start = np.clip(np.arange(len(values)) - half, 0, None)
    stop = np.clip(np.arange(len(values)) + half + 1, None, len(values))
    number = counts[stop] - counts[start]
    return np.where(number > 0, (sums[stop] - sums[start]) / np.maximum(number, 1), np.nan)


def _y_axis(name: str, finite: np.ndarray, smooth: np.ndarray) -> Axis:
    """All of the smooth line and nearly all of the raw one: a few spikes may leave the chart."""
    if name in _FRACTIONS:
        return Axis(-0.02, 1.02, HEIGHT, reverse=True)
    low = min(np.percentile(finite, 1), np.nanmin(smooth))
    high = max(np.percentile(finite, 99), np.nanmax(smooth))
    if name in _FROM_ZERO:
        low = 0.0
    high = max(high, LOW.get(name, high))  # or its mark would lie outside
    room = 0.06 * (high - low) or abs(high) or 1.0
    return Axis(low if name in _FROM_ZERO else low - room, high + room, HEIGHT, reverse=True)
