"""Measures: how healthy embeddings are without labels, beside the same network untrained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from empssl.evaluation.label_free import larger_is_better
from empssl.reports.sections.scores import layer_index


@dataclass(frozen=True)
class MeasureValue:
    """What was measured at a layer; `random` of the same network with random weights."""

    own: float
    random: float | None
    healthier: bool  # than with random weights


@dataclass(frozen=True)
class MeasureRow:
    """One measure, at each layer of the table; None where it was not measured there."""

    name: str
    healthy: str
    meaning: str
    source: str
    values: Sequence[MeasureValue | None]


@dataclass(frozen=True)
class MeasureTable:
    """All measures of one sample of images.

    Attributes:
        said: the protocol, in a sentence.
        stale: they are those of other weights than the run has now.
    """

    dataset: str
    said: str
    stale: bool
    layers: Sequence[str]
    rows: Sequence[MeasureRow]


def measures(qualities: Sequence[dict[str, Any]], identity: str | None) -> list[MeasureTable]:
    """A table for each data set that was examined.

    Args:
        qualities: as the run directory holds them.
        identity: of the weights that it holds now; None if that is not known.
    """
    return [_measures(quality, identity) for quality in qualities]


def _measures(quality: dict[str, Any], identity: str | None) -> MeasureTable:
    protocol, readings = quality["protocol"], quality["readings"]
    layers = sorted({reading["layer"] for reading in readings}, key=layer_index)
    rows = []
    for name in dict.fromkeys(reading["measure"] for reading in readings):
        own = {r["layer"]: r for r in readings if r["measure"] == name}
        first = next(iter(own.values()))
        values = [_value(own[layer]) if layer in own else None for layer in layers]
        rows.append(MeasureRow(name, first["healthy"], first["meaning"], first["source"], values))
    said = (
        f"{protocol['images']} {protocol['split']} images of {protocol['image_side']} pixels, no "
        f"labels; {protocol['crops']} crops, and {protocol['views']} random patches of each image; "
        f"seed {protocol['seed']}."
    )
    stale = identity is not None and protocol["model"] != identity
    return MeasureTable(quality["dataset"], said, stale, layers, rows)


def _value(reading: dict[str, Any]) -> MeasureValue:
    own, random = reading["value"], reading["random"]
    if random is None:
        return MeasureValue(own, None, False)
    direction = reading["healthy"]
    return MeasureValue(
        own, random, larger_is_better(own, direction) > larger_is_better(random, direction)
    )
