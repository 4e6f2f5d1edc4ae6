"""A plan: which runs some exhibits need, each once, and how their networks are to be looked at."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl.bag import Crops
from empssl.comparison.cell import Cell
from empssl.comparison.folder import Folder
from empssl.comparison.settings import decisive
from empssl.data import ImageSet, open_images
from empssl.engine import launch
from empssl.errors import DataError, UsageError
from empssl.evaluation import Probe
from empssl.reproduction.exhibit import Exhibit, Number
from empssl.reproduction.experiment import Experiment
from empssl.reproduction.scale import Scale
from empssl.short_hash import short_hash
from empssl.training import Training

Place = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """One way to look at a run's network.

    Attributes:
        on: the data, as `evaluate` takes them.
        epoch: None for the last, 0 for how it began.
        crops: as in `evaluate`.
        probe: as in `evaluate`; None for a map of the projections.
    """

    on: str
    epoch: float | None
    crops: str
    probe: Probe | None

    @property
    def data(self) -> str:
        """A name for what is looked at."""
        name = Path(self.on).name
        if name == self.on:
            return name
        return f"{name}-{hashlib.sha256(self.on.encode()).hexdigest()[:6]}"  # many end in `data`

    @property
    def key(self) -> str:
        """What distinguishes it from others with the same features."""
        epoch = "last" if self.epoch is None else f"{self.epoch:g}"
        return f"{self.data}-{epoch}-{self.crops}" + ("-map" if self.probe is None else "")

    def views(self, mirrored: bool) -> int:
        """Views of an image that it embeds."""
        crops = Crops.parse(self.crops)
        return crops.count**2 * (1 + mirrored) if crops.kind == "grid" else crops.count


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what cannot be.

    Attributes:
        exhibits: by name.
        scale: of all.
        cells: an experiment's runs, by seed. Experiments with the same settings share them.
        left_out: why an experiment is not run, or a data set not scored on.
        sizes: images of each data set, train and test.
    """

    exhibits: Mapping[str, Exhibit]
    scale: Scale
    data: Mapping[str, str]
    seeds: int | None
    cells: Mapping[Experiment, tuple[Cell, ...]]
    left_out: Mapping[Experiment | str, str]
    sizes: Mapping[str, int]

    @classmethod
    def of(
        cls, exhibits: Mapping[str, Exhibit], scale: Scale, *, data: Mapping[str, str],
        seeds: int | None, place: Place, folder: Folder,
    ) -> "Plan":  # fmt: skip
        """Nothing is trained, and nothing written.

        Args:
            exhibits: by name.
            scale: of all.
            data: where a data set of the paper is, by its name; itself where that is known.
            seeds: of every experiment; None for as many as each exhibit has.
            place: where the data are and where to compute, as `train` takes it.
            folder: of the reproduction.
        """
        grounds = _Grounds(data, place)
        cells: dict[Experiment, tuple[Cell, ...]] = {}
        left_out: dict[Experiment | str, str] = {}
        counts: dict[Experiment, int] = {}
        for exhibit in exhibits.values():
            for number in exhibit.numbers:
                count = seeds or exhibit.seeds
                counts[number.experiment] = max(count, counts.get(number.experiment, 0))
                if why := grounds.lacking(number.on):
                    left_out[number.on] = why
        for experiment, count in counts.items():
            why = scale.left_out(experiment) or grounds.lacking(experiment.data)
            if why is None:
                try:
                    cells[experiment] = grounds.cells(experiment, scale, count, folder)
                except UsageError as error:
                    why = str(error)
            if why is not None:
                left_out[experiment] = why
        return cls(exhibits, scale, data, seeds, cells, left_out, grounds.sizes)

    def runs(self) -> list[Cell]:
        """Every run once: seed by seed and EMP-SSL first, for what is cut short."""
        found = {cell.name: cell for cells in self.cells.values() for cell in cells}
        return sorted(
            found.values(),
            key=lambda cell: (cell.seed, cell.settings["objective"]["name"] != "emp"),
        )

    def wanted(self, exhibit: Exhibit, number: Number) -> tuple[Cell, ...]:
        """The runs that a number is the mean of; none where it is left out."""
        if number.on in self.left_out:
            return ()
        return self.cells.get(number.experiment, ())[: self.seeds or exhibit.seeds]

    def why_not(self, number: Number) -> str | None:
        """Why a number is left out."""
        return self.left_out.get(number.experiment) or self.left_out.get(number.on)

    def reasons(self) -> dict[str, list[str]]:
        """What is left out, by the reason."""
        found: dict[str, list[str]] = {}
        for key, why in self.left_out.items():
            name = f"scores on {key}" if isinstance(key, str) else f"{key.name} on {key.data}"
            found.setdefault(why, []).append(name)
        return found

    def looks(self, number: Number) -> list[Look]:
        """What a number needs of each of its runs, in the order of epochs."""
        scale, experiment = self.scale, number.experiment
        on = self.data.get(number.on, number.on)
        crops = scale.bag(experiment, number.crops)
        probe = None if number.what == "map" else number.probe
        if number.what in ("curve", "minutes", "epochs"):
            epochs: list[float | None] = [*scale.looked_at(experiment), None]
        else:
            epochs = [self.epoch(number)]
        return [Look(on, epoch, crops, probe) for epoch in epochs]

    def epoch(self, number: Number) -> float | None:
        """At which epoch of ours a number is; None for the last."""
        if number.epoch is None:
            return None
        epoch = self.scale.epoch(number.epoch)
        return None if epoch >= self.scale.length(number.experiment) else epoch

    def looks_at(self, cell: Cell) -> list[Look]:
        """All that every exhibit needs of a run, each once."""
        found = dict.fromkeys(look for _, look in self._all_looks(cell))
        return list(found)

    def used_by(self, cell: Cell) -> list[str]:
        """The exhibits that a run feeds."""
        return list(dict.fromkeys(name for name, _ in self._all_looks(cell)))

    def _all_looks(self, cell: Cell) -> Iterator[tuple[str, Look]]:
        for name, exhibit in self.exhibits.items():
            for number in exhibit.numbers:
                if cell.name in (other.name for other in self.wanted(exhibit, number)):
                    yield from ((name, look) for look in self.looks(number))


class _Grounds:
    """The data sets, each opened once, and the networks, each built once to be counted."""

    def __init__(self, data: Mapping[str, str], place: Place) -> None:
        self.data, self.place = data, place
        self.sizes: dict[str, int] = {}
        self._opened: dict[tuple[str, int | None], ImageSet | str] = {}
        self._counted: dict[str, tuple[int, int, float]] = {}

    def lacking(self, name: str) -> str | None:
        """Why a data set cannot be used; None if it can."""
        found = self.open(name, None)
        return found if isinstance(found, str) else None

    def open(self, name: str, side: int | None) -> ImageSet | str:
        """The training images, or why there are none."""
        if (name, side) not in self._opened:
            where = {key: self.place[key] for key in ("data_dir", "download")}
            data = self.data.get(name, name)
            try:
                train, test = (
                    open_images(data, split=split, side=side, **where)
                    for split in ("train", "test")
                )
                self._opened[name, side] = train
                self.sizes[data] = len(train) + len(test)
            except DataError as error:
                self._opened[name, side] = str(error)
        return self._opened[name, side]

    def cells(
        self, experiment: Experiment, scale: Scale, seeds: int, folder: Folder
    ) -> tuple[Cell, ...]:
        """The runs of an experiment.

        Raises:
            UsageError: settings that cannot be carried out with these images.
        """
        chosen = {
            "data": self.data.get(experiment.data, experiment.data), "split": "train",
            "precision": "auto", "memory": "auto",
        }  # fmt: skip
        settings = scale.settings(experiment) | chosen
        identity = short_hash(decisive(settings))
        if identity not in self._counted:
            images = self.open(experiment.data, settings["image_side"])
            if isinstance(images, str):
                raise UsageError(images)
            fabric = launch(device=self.place["device"], devices=1, precision="auto")
            whole = settings | {"seed": 0, "memory": "whole"}
            training = Training.build(whole, fabric, images, time.monotonic())
            training.sampler.close()
            per_epoch = training.sampler.steps_per_epoch
            steps = max(1, round(settings["epochs"] * per_epoch))
            self._counted[identity] = steps, per_epoch, training.flops_per_view / 1e9
        label = f"{experiment.method}-{Path(chosen['data']).name}"
        size = f"n{settings['patches']}-b{settings['batch']}-e{settings['epochs']:g}"
        kept = list(scale.looked_at(experiment))
        return tuple(
            Cell(
                name := f"{label}-{size}-{identity}-seed{seed}", label, settings["patches"], seed,
                folder.runs / name, settings | {"seed": seed, "keep_epochs": kept},
                *self._counted[identity], self.place,
            )
            for seed in range(seeds)
        )  # fmt: skip
