"""What needs no training, scored as the numbers of an exhibit are: what these have to beat."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from empssl.comparison.cell import Cell
from empssl.models import Layer
from empssl.reproduction.exhibit import Exhibit
from empssl.reproduction.plan import Look, Plan
from empssl.short_hash import short_hash


@dataclass(frozen=True)
class Untrained:
    """A network with the weights that it began with, and whitened patches without a network.

    Attributes:
        on: the data set that is scored on, by the paper's name.
        cell: a run of that network.
        look: at epoch 0.
        layer: of the network.
    """

    on: str
    cell: Cell
    look: Look
    layer: Layer

    @property
    def name(self) -> str:
        """Alike for all that give the same scores."""
        settings = self.cell.settings
        parts = ["seed", "image_side", "backbone"]
        parts += ["projector"] if self.layer != "backbone" else []
        parts += ["views"] if self.look.crops != "whole" else []
        network = short_hash([settings[part] for part in parts])
        return f"untrained-{self.look.key}-{self.look.probe}-{self.layer}-{network}"


def untrained(plan: Plan, exhibits: Iterable[Exhibit]) -> list[Untrained]:
    """What stands below the accuracies of some exhibits, each once."""
    found: dict[str, Untrained] = {}
    for exhibit in exhibits:
        for number in exhibit.numbers if exhibit.baselines else ():
            cells = plan.wanted(exhibit, number)
            if cells and number.what in ("accuracy", "curve"):
                look = replace(plan.looks(number)[-1], epoch=0.0)
                each = Untrained(number.on, cells[0], look, number.probed)
                found.setdefault(each.name, each)
    return list(found.values())
