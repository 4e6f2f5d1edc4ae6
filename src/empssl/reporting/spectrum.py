"""How many directions the embeddings use, at each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from empssl.models import Layer
from empssl.reporting.chart import Axis, Chart, Line, Note, Tick, path
from empssl.shapes import Embeddings
from empssl.spectrum import effective_rank, eigenvalues

_WIDTH, _HEIGHT = 440.0, 200.0
_DECADES = 6  # below a millionth of the largest, variances are rounding


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
    marks = [Tick(float(y.place(-d)), "1" if d == 0 else f"10⁻{'⁰¹²³⁴⁵⁶'[d]}")
             for d in range(0, _DECADES + 1, 2)]  # fmt: skip
    return Spectrum(ranks, Chart(x.ticks(5, whole=True), marks, lines, notes=notes, width=_WIDTH,
                                 height=_HEIGHT))  # fmt: skip
