"""The quality of a run's embeddings, as a table and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from empssl.errors import CheckpointError
from empssl.models import Layer
from empssl.quality.embedded import Embedded
from empssl.quality.measures import MEASURES
from empssl.short_hash import short_hash


@dataclass(frozen=True)
class Reading:
    """The value of one measure at one layer.

    Attributes:
        measure: its name.
        layer: where the embeddings were taken.
        value: of the run's network.
        random: of the same network with random weights; None where it was not asked for.
        healthy: where good values lie.
        meaning: what the number is.
        source: who published it.
    """

    measure: str
    layer: Layer
    value: float
    random: float | None
    healthy: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Quality:
    """All measures of a run's network.

    Attributes:
        dataset: whose images were embedded.
        run: which run.
        protocol: what holds for every reading.
        readings: measure by measure, and of each layer by layer.
        unkept: why the run's directory does not have it; empty if it has.
    """

    dataset: str
    run: str
    protocol: dict[str, Any]
    readings: list[Reading] = field(default_factory=list)
    unkept: str = ""

    @property
    def exit_code(self) -> int:
        """4 where it could not be written to the run's directory, else 0."""
        return CheckpointError.exit_code if self.unkept else 0

    @property
    def name(self) -> str:
        """Unlike that of other data, or with another protocol."""
        return f"{Path(self.dataset).name}-{short_hash([self.dataset, self.protocol])}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def table(self) -> str:
        """A line for each reading, for a person."""
        lines = [f"{'measure':16} {'layer':9} {'run':>8} {'random':>8}  {'healthy':8} meaning"]
        for r in self.readings:
            random = "" if r.random is None else f"{r.random:.2f}"
            lines.append(
                f"{r.measure:16} {r.layer:9} {r.value:8.2f} {random:>8}  {r.healthy:8} "
                f"{r.meaning} ({r.source})"
            )
        p = self.protocol
        lines.append(
            f"{self.dataset}: {p['images']} images, {p['crops']} and {p['views']} random patches "
            "of each; no labels. Compare runs of one layer, width and data."
        )
        if self.unkept:
            lines.append(f"not kept: {self.unkept}")
        return "\n".join(lines)


def measured(embedded: Mapping[Layer, Embedded], *, seed: int) -> dict[tuple[str, Layer], float]:
    """Each measure of the embeddings at each layer.

    Raises:
        DataError: too few images, or embeddings that are not finite.
    """
    found = {}
    for name, measure in MEASURES.items():
        options = {"seed": seed} if measure.of == "turns" else {}
        for layer, values in embedded.items():
            found[name, layer] = measure.function(getattr(values, measure.of), **options)
    return found
