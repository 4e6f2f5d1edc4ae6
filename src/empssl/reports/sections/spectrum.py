"""How many directions the embeddings use, at each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from empssl.metrics.embeddings import effective_rank, eigenvalues
from empssl.models import Layer
from empssl.reports.charts import Axis, Chart, Line, Note, Tick, numeral, path, power_of_ten, tick
from empssl.types import Embeddings

_WIDTH, _HEIGHT = 440.0, 200.0
_DECADES = 6  # below a millionth of the largest, variances are rounding
_MARGIN = 60.0  # right of the lines, for their names
_APART = 13.0  # of two names, one above the other


@dataclass(frozen=True)
class Rank:
    """The effective rank of a layer's embeddings, and the most that it could be."""

    layer: Layer
    rank: float
    most: int
    dim: int


@dataclass(frozen=True)
class Spectrum:
    """Ranks, and the variances along the principal directions as a chart."""

    ranks: Sequence[Rank]
    chart: Chart


@dataclass(frozen=True)
class SpectrumOverTime:
    """A line for the variance along the 1st, 2nd, 4th, ... direction, on logarithmic axes.

    Attributes:
        first, last: directions that share the variance at the first and last step, written out.
        steps: how many of the run's steps are drawn.
    """

    first: str
    last: str
    steps: int
    chart: Chart


def spectrum(embeddings: Mapping[Layer, Embeddings]) -> Spectrum:
    """Ranks and variances of the embeddings of the same images at each layer."""
    ranks, falls = [], {}
    for layer, values in embeddings.items():
        count, dim = values.shape
        ranks.append(Rank(layer, effective_rank(values), min(count, dim), dim))
        # Around their mean, n embeddings have n - 1 directions; the rest is rounding.
        variances = eigenvalues(values).numpy()[: max(1, count - 1)]
        largest = variances[0] or 1.0
        falls[layer] = np.log10(np.maximum(variances / largest, 10.0 ** -(_DECADES + 1)))
    longest = max(map(len, falls.values()))
    x = Axis(0.0, float(longest), _WIDTH)
    y = Axis(-float(_DECADES), 0.15, _HEIGHT, reverse=True)
    lines = [
        Line(path(x.place(np.arange(1, len(fall) + 1)), y.place(fall)), layer)
        for layer, fall in falls.items()
    ]
    # The shorter line ends where there is room; along the longest there is room above it.
    named = {layer: int((0.6 if len(f) == longest else 0.97) * (len(f) - 1))
             for layer, f in falls.items()}  # fmt: skip
    notes = [
        Note(float(x.place(at + 1)), float(y.place(falls[layer][at])), layer)
        for layer, at in named.items()
    ]
    marks = [Tick(float(y.place(-d)), power_of_ten(-d)) for d in range(0, _DECADES + 1, 2)]
    return Spectrum(ranks, Chart(x.ticks(5, whole=True), marks, lines, notes=notes, width=_WIDTH,
                                 height=_HEIGHT))  # fmt: skip


def spectrum_over_time(metrics: Sequence[dict[str, Any]]) -> SpectrumOverTime | None:
    """How the variances of the projections grew; None where fewer than two steps tell.

    Args:
        metrics: lines of metrics.jsonl, of which some have a `spectrum`.
    """
    kept = [entry for entry in metrics if entry.get("spectrum")]
    if len(kept) < 2 or not any(entry["spectrum"][0] > 0 for entry in kept):
        return None
    variances = np.array([entry["spectrum"] for entry in kept])
    seen = np.log10([entry["step"] + 1 for entry in kept])
    top = float(np.log10(variances.max()))
    falls = np.log10(np.maximum(variances, 10.0 ** (top - _DECADES - 1)))
    x = Axis(0.0, max(float(seen[-1]), 0.1), _WIDTH - _MARGIN)
    y = Axis(max(float(falls.min()), top - _DECADES), top + 0.15, _HEIGHT, reverse=True)
    lines: list[Line] = []
    notes: list[Note] = []
    for k in _powers(variances.shape[1]):
        fall = falls[:, k - 1]
        lines.append(Line(path(x.place(seen), y.place(fall)), "smooth", f"direction {k}"))
        end = float(y.place(fall[-1]))
        if end <= _HEIGHT and all(abs(end - note.y) >= _APART for note in notes):
            notes.append(Note(_WIDTH - _MARGIN - 2, end + 10, _ordinal(k)))
    x_ticks = [Tick(float(x.place(d)), tick(10.0**d)) for d in range(int(seen[-1]) + 1)]
    decades = range(int(np.ceil(y.low)), int(np.floor(y.high)) + 1)
    y_ticks = [Tick(float(y.place(d)), power_of_ten(d)) for d in decades]
    return SpectrumOverTime(
        numeral(_rank(variances[0])), numeral(_rank(variances[-1])), len(kept),
        Chart(x_ticks, y_ticks, lines, notes=notes, width=_WIDTH, height=_HEIGHT),
    )  # fmt: skip


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`.

    >>> _powers(9)
    [1, 2, 4, 8]
    """
    return [2**k for k in range(most.bit_length())]


def _ordinal(k: int) -> str:
    """A power of two as a rank.

    >>> [_ordinal(k) for k in (1, 2, 4, 32, 512)]
    ['1st', '2nd', '4th', '32nd', '512th']
    """
    return f"{k}{'st' if k == 1 else 'nd' if k % 10 == 2 and k % 100 != 12 else 'th'}"


def _rank(variances: np.ndarray) -> float:
    """(sum e)^2 / sum e^2, as `participation_ratio` in the metrics."""
    square = float((variances**2).sum())
    return float(variances.sum()) ** 2 / square if square else 1.0
