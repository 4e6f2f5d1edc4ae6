"""Accuracy layer by layer, from the network's input to its output."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from empssl.reports.charts import Axis, Chart, Line, Panel, Tick, dot, path
from empssl.reports.sections.accuracy_curves import LOOKS
from empssl.reports.sections.scores import OWN, RANDOM, WHITENED, ScoreProtocol, layer_index

_WIDTH, _ROW = 230.0, 17.0
_NAMES = 68.0  # units that the names of the layers take, at the left
LEAST = 3  # layers; fewer stand well enough in the table of scores


@dataclass(frozen=True)
class LayerAccuracy:
    """The charts of one protocol, with one scale."""

    protocol: ScoreProtocol
    panels: Sequence[Panel]


def layer_by_layer(protocol: ScoreProtocol) -> LayerAccuracy | None:
    """A chart for each probe and crops; None where fewer than three layers were scored."""
    scores: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in protocol.results:
        key = (row["probe"], row["crops"])
        scores.setdefault(key, {}).setdefault(row["encoder"], {})[row["layer"]] = row["accuracy"]
    charts = {key: own for key, found in scores.items() if len(own := found.get(OWN, {})) >= LEAST}
    if not charts:
        return None
    # Whitened patches have no layers and crops of their own: a line across all rows.
    white = {key[0]: next(iter(found[WHITENED].values())) for key, found in scores.items()
             if WHITENED in found}  # fmt: skip
    shown = [
        value for key, own in charts.items()
        for value in (*own.values(), *scores[key].get(RANDOM, {}).values(), white.get(key[0]))
        if value is not None
    ]  # fmt: skip
    x = Axis.around(min(shown), max(shown), _WIDTH, margin=0.04)
    several = len({crops for _, crops in charts}) > 1
    panels = [
        _panel(
            probe + (f", {crops}" if several else ""), x, own,
            scores[probe, crops].get(RANDOM, {}), white.get(probe),
        )
        for (probe, crops), own in charts.items()
    ]  # fmt: skip
    return LayerAccuracy(protocol, panels)


def _panel(
    title: str, x: Axis, own: dict[str, float], random: dict[str, float], white: float | None
) -> Panel:
    layers = sorted(own, key=layer_index)
    height = _ROW * len(layers)
    places = {layer: _ROW * (at + 0.5) for at, layer in enumerate(layers)}
    lines = []
    if white is not None:
        across = np.full(2, float(x.place(white)))
        lines.append(Line(path(across, np.array([0.0, height])), LOOKS[WHITENED]))
    for layer, down in places.items():
        ends = x.place(np.array([random[layer], own[layer]])) if layer in random else None
        if ends is not None:
            lines.append(Line(path(ends, np.full(2, down)), "gain"))
            lines.append(dot(ends[0], down, "point base", f"{RANDOM}: {random[layer]:.2f} %"))
        words = f"{OWN}, {layer}: {own[layer]:.2f} %"
        lines.append(dot(float(x.place(own[layer])), down, "point", words))
    words = "; ".join(
        f"{layer} {own[layer]:.2f} %"
        + (f", {RANDOM} {random[layer]:.2f} %" if layer in random else "")
        for layer in layers
    )
    words += "" if white is None else f"; {WHITENED} {white:.2f} %"
    rows = [Tick(down, layer) for layer, down in places.items()]
    chart = Chart(x.ticks(5), rows, lines, width=_WIDTH, height=height, left=_NAMES)
    return Panel(title, f"Accuracy by layer under the {title} probe: {words}", chart)
