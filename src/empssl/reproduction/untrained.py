"""What needs no training, scored as the numbers of an exhibit are: what these have to beat."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from empssl.bag import Crops
from empssl.comparison.cell import Cell
from empssl.evaluation import Probe
from empssl.reproduction.exhibit import Exhibit
from empssl.reproduction.plan import Look, Plan
from empssl.short_hash import short_hash


@dataclass(frozen=True)
class Untrained:
    """A network with the weights that it began with, and whitened patches without a network.

    Attributes:
        on: the data set that is scored on, by the paper's name.
        cell: a run of that network.
        look: at epoch 0, by the probe of the rows that it stands below.
    """

    on: str
    cell: Cell
    look: Look

    @property
    def name(self) -> str:
        """Alike for all that give the same scores at the same layers."""
        settings = self.cell.settings
        network: list[Any] = [settings[part] for part in ("seed", "image_side", "backbone")]
        network.append(settings["projector"].get("hidden"))  # of which the head's width is one
        crops, views = Crops.parse(self.look.crops), settings["views"]
        if crops.kind == "whole" or crops.share is not None:  # whatever training's views were
            views = [views["flip"] > 0, views["mean"], views["std"]]
        return f"untrained-{self.look.key}-{self.look.probe}-{short_hash([network, views])}"

    @property
    def whitened(self) -> str:
        """Alike for all that have the same whitened patches under the same probe."""
        size = "" if self.look.train_size is None else f"-{self.look.train_size}"
        side = self.cell.settings["image_side"]
        return f"whitened-{self.look.data}-{side or 'own'}-{self.look.probe}{size}"


@dataclass(frozen=True)
class Baseline:
    """Both of them by one probe, as they stand below the numbers that were taken in the same way.

    Attributes:
        on: the data set that is scored on, by the paper's name.
        probe: as in `evaluate`.
        layer: of the random weights; whitened patches have none.
        crops: the same.
        train_size: images that the probe learns from; None for all.
        random: percent; None where it was not measured.
        whitened: percent by the same probe; None where it was not measured.
    """

    on: str
    probe: Probe
    layer: str
    crops: str
    train_size: int | None
    random: float | None
    whitened: float | None


def untrained(plan: Plan, exhibits: Iterable[Exhibit]) -> list[Untrained]:
    """What stands below the accuracies of some exhibits, each once."""
    found: dict[str, Untrained] = {}
    for exhibit in exhibits:
        for each in _below(plan, exhibit) if exhibit.baselines else ():
            found.setdefault(each.name, each)
    return list(found.values())


def _below(plan: Plan, exhibit: Exhibit) -> Iterator[Untrained]:
    for number in exhibit.numbers:
        if number.what in ("accuracy", "curve"):
            for cell in plan.wanted(exhibit, number)[:1]:
                yield Untrained(number.on, cell, replace(plan.looks(number)[-1], epoch=0.0))
    for claim in exhibit.claims:
        for experiment in claim.experiments:
            for cell in plan.runs_of(exhibit, experiment)[:1]:
                for looks in list(plan.claim_looks(claim, experiment).values())[-1:]:
                    yield from (Untrained(claim.data, cell, replace(k, epoch=0.0)) for k in looks)
