"""A plan: which runs some exhibits need, each once, and how their networks are to be scored."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl.data import ImageSet, open_images
from empssl.distributed.launch import launch
from empssl.errors import DataError, UsageError
from empssl.evaluation.evaluate import Probe
from empssl.evaluation.pooling import Crops
from empssl.experiments.folder import Folder
from empssl.experiments.grid import decisive
from empssl.experiments.paper.base import Claim, Exhibit, Experiment, Number
from empssl.experiments.paper.claims import EQUAL, SameCrops
from empssl.experiments.paper.scale import Scale
from empssl.experiments.run_spec import RunSpec
from empssl.runs.files import short_hash
from empssl.training.setup import build_trainer

Runtime = dict[str, Any]
Read = Callable[..., ImageSet]


@dataclass(frozen=True)
class EvalRequest:
    """One way to look at a run's network.

    Attributes:
        on: the data, as `evaluate` takes them.
        epoch: None for the last, 0 for how it began.
        crops: as in `evaluate`.
        probe: as in `evaluate`; None for a map of the projections.
        train_size: images that the probe learns from; None for all.
    """

    on: str
    epoch: float | None
    crops: str
    probe: Probe | None
    train_size: int | None = None

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
        size = "" if self.train_size is None else f"-{self.train_size}"
        return f"{self.data}-{epoch}-{self.crops}{size}" + ("-map" if self.probe is None else "")

    def views(self, mirrored: bool) -> int:
        """Views of an image that it embeds."""
        crops = Crops.parse(self.crops)
        return crops.count**2 * (1 + mirrored) if crops.kind == "grid" else crops.count


@dataclass(frozen=True)
class PaperPlan:
    """What is to be done, and what cannot be.

    Attributes:
        exhibits: by name.
        scale: of all.
        specs: an experiment's runs, by seed. Experiments with the same settings share them.
        left_out: why an experiment is not run, or a data set not scored on.
        sizes: images of each data set, train and test, as `evaluate` takes it.
    """

    exhibits: Mapping[str, Exhibit]
    scale: Scale
    data: Mapping[str, str]
    seeds: int | None
    specs: Mapping[Experiment, tuple[RunSpec, ...]]
    left_out: Mapping[Experiment | str, str]
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def of(
        cls, exhibits: Mapping[str, Exhibit], scale: Scale, *, data: Mapping[str, str],
        seeds: int | None, runtime: Runtime, folder: Folder, read: Read = open_images,
    ) -> "PaperPlan":  # fmt: skip
        """Nothing is trained, and nothing written.

        Args:
            exhibits: by name.
            scale: of all.
            data: where a data set of the paper is, by its name; itself where that is known.
            seeds: of every experiment; None for as many as each exhibit has.
            runtime: where the data are and where to compute, as `train` takes it.
            folder: of the reproduction.
            read: a data set by name; of its images only the number and the side are asked for.
        """
        data_sets = _DataSets(data, runtime, read)
        specs: dict[Experiment, tuple[RunSpec, ...]] = {}
        left_out: dict[Experiment | str, str] = {}
        counts: dict[Experiment, int] = {}
        for exhibit in exhibits.values():
            count = seeds or exhibit.seeds
            for number in exhibit.numbers:
                counts[number.experiment] = max(count, counts.get(number.experiment, 0))
                if why := data_sets.lacking(number.on):
                    left_out[number.on] = why
        for experiment, count in counts.items():
            why = scale.left_out(experiment) or data_sets.lacking(experiment.data)
            if why is None:
                try:
                    specs[experiment] = data_sets.specs(experiment, scale, count, folder)
                except UsageError as error:
                    why = str(error)
            if why is not None:
                left_out[experiment] = why
        return cls(exhibits, scale, data, seeds, specs, left_out, data_sets.sizes)

    def runs(self) -> list[RunSpec]:
        """Every run once: seed by seed and EMP-SSL first, for what is cut short."""
        found = {spec.name: spec for specs in self.specs.values() for spec in specs}
        return sorted(
            found.values(),
            key=lambda spec: (spec.seed, spec.settings["objective"]["name"] != "emp"),
        )

    def wanted(self, exhibit: Exhibit, number: Number) -> tuple[RunSpec, ...]:
        """The runs that a number is the mean of; none where it is left out."""
        return () if number.on in self.left_out else self.runs_of(exhibit, number.experiment)

    def runs_of(self, exhibit: Exhibit, experiment: Experiment) -> tuple[RunSpec, ...]:
        """An experiment's runs that an exhibit takes; none where it is left out."""
        return self.specs.get(experiment, ())[: self.seeds or exhibit.seeds]

    def why_not(self, number: Number) -> str | None:
        """Why a number is left out."""
        return self.left_out.get(number.experiment) or self.left_out.get(number.on)

    def reasons(self) -> dict[str, list[str]]:
        """What is left out, by the reason."""
        found: dict[str, list[str]] = {}
        for key, why in self.left_out.items():
            name = (
                f"scores on {key}" if isinstance(key, str)
                else f"{self.scale.label(key)} on {key.data}"
            )  # fmt: skip
            found.setdefault(why, []).append(name)
        return found

    def name(self, number: Number) -> str:
        """What a row is called: by what was run here."""
        return number.label or self.scale.label(number.experiment)

    def requests(self, number: Number) -> list[EvalRequest]:
        """What a number needs of each of its runs, in the order of epochs."""
        scale, experiment = self.scale, number.experiment
        on = self.data.get(number.on, number.on)
        crops = scale.crops_of(experiment, number.crops)
        probe = None if number.what == "map" else number.probe
        if number.what in ("curve", "minutes", "epochs"):
            epochs: list[float | None] = [*scale.looked_at(experiment), None]
        else:
            epochs = [self.epoch(number)]
        size = self.train_size(number)
        return [EvalRequest(on, epoch, crops, probe, size) for epoch in epochs]

    def claim_looks(self, claim: Claim, experiment: Experiment) -> dict[float, list[EvalRequest]]:
        """What a claim needs of each run of an experiment: both crops, by epoch.

        Of each pair at equal epochs the last that both have; at equal compute the end of the
        cheaper, and of the other its own end if that takes as much, or else the epochs before and
        after. More would only cost time.
        """
        if claim.data in self.left_out:
            return {}
        on, size = self.data.get(claim.data, claim.data), self.train_size(claim)
        epochs: set[float] = set()
        for pair in claim.pairs:
            if experiment in pair and all(self.specs.get(each) for each in pair):
                ours, other = pair if pair[0] == experiment else pair[::-1]
                common = self._epochs(ours) & self._epochs(other)
                if common and "epochs" in claim.equal:
                    epochs.add(max(common))
                if "compute" in claim.equal:
                    epochs |= self._at_equal_compute(ours, other)
        end = self.scale.length(experiment)
        return {
            epoch: [
                EvalRequest(on, None if epoch == end else epoch, crops, "linear", size)
                for crops in self.claim_crops.values()
            ]
            for epoch in sorted(epochs)
        }  # fmt: skip

    @property
    def claim_crops(self) -> dict[SameCrops, str]:
        """What both sides of a claim are looked at through."""
        return {"bag": self.scale.bag, "whole": "whole"}

    def pflop(self, spec: RunSpec, epoch: float) -> float:
        """Of a run's training up to an epoch, by the count of today: steps times their FLOP.

        What a run wrote down itself is by the count of the version that trained it.
        """
        end = epoch >= float(spec.settings["epochs"])
        steps = spec.steps if end else round(epoch * spec.steps_per_epoch)
        return (steps or 0) * spec.patches_per_step * spec.gflop_per_patch / 1e6

    def _epochs(self, experiment: Experiment) -> set[float]:
        """Epochs of which a run has a network."""
        return {*self.scale.looked_at(experiment), self.scale.length(experiment)}

    def _at_equal_compute(self, ours: Experiment, other: Experiment) -> set[float]:
        """Epochs of the first at which it has to be looked at to be compared with the second."""
        spec, rival = self.specs[ours][0], self.specs[other][0]
        ends = [self.pflop(run, self.scale.length(e)) for run, e in ((spec, ours), (rival, other))]
        length = self.scale.length(ours)
        if ends[0] <= ends[1] * EQUAL:
            return {length}
        places = {epoch: self.pflop(spec, epoch) for epoch in self._epochs(ours)}
        before = [epoch for epoch, at in places.items() if at <= ends[1]]
        after = [epoch for epoch, at in places.items() if at >= ends[1]]
        # The end, too: it says how much a run takes in all.
        return {max(before), min(after), length} if before else {length}

    def train_size(self, of: Number | Claim) -> int | None:
        """Images that a probe learns from; None for all, also where the data have no more."""
        name = of.on if isinstance(of, Number) else of.data
        there = self.sizes.get(self.data.get(name, name), (0, 0))[0]
        return None if of.train_size is None or there <= of.train_size else of.train_size

    def epoch(self, number: Number) -> float | None:
        """At which epoch of ours a number is; None for the last."""
        if number.epoch is None:
            return None
        epoch = self.scale.epoch(number.epoch)
        return None if epoch >= self.scale.length(number.experiment) else epoch

    def looks_at(self, spec: RunSpec) -> list[EvalRequest]:
        """All that every exhibit needs of a run, each once."""
        found = dict.fromkeys(request for _, request in self._all_looks(spec))
        return list(found)

    def used_by(self, spec: RunSpec) -> list[str]:
        """The exhibits that a run feeds."""
        return list(dict.fromkeys(name for name, _ in self._all_looks(spec)))

    def _all_looks(self, spec: RunSpec) -> Iterator[tuple[str, EvalRequest]]:
        for name, exhibit in self.exhibits.items():
            for number in exhibit.numbers:
                if spec.name in (other.name for other in self.wanted(exhibit, number)):
                    yield from ((name, request) for request in self.requests(number))
            for claim in exhibit.claims:
                for experiment in claim.experiments:
                    if spec.name in (other.name for other in self.runs_of(exhibit, experiment)):
                        for requests in self.claim_looks(claim, experiment).values():
                            yield from ((name, request) for request in requests)


class _DataSets:
    """The data sets, each opened once, and the networks, each built once to be counted."""

    def __init__(self, data: Mapping[str, str], runtime: Runtime, read: Read) -> None:
        self.data, self.runtime, self.read = data, runtime, read
        self.sizes: dict[str, tuple[int, int]] = {}
        self._opened: dict[tuple[str, int | None], ImageSet | str] = {}
        self._counted: dict[str, tuple[int, int, float]] = {}

    def lacking(self, name: str) -> str | None:
        """Why a data set cannot be used; None if it can."""
        found = self.open(name, None)
        return found if isinstance(found, str) else None

    def open(self, name: str, side: int | None) -> ImageSet | str:
        """The training images, or why there are none."""
        if (name, side) not in self._opened:
            where = {key: self.runtime[key] for key in ("data_dir", "download")}
            data = self.data.get(name, name)
            try:
                train, test = (
                    self.read(data, split=split, side=side, **where) for split in ("train", "test")
                )
                self._opened[name, side] = train
                self.sizes[data] = len(train), len(test)
            except DataError as error:
                self._opened[name, side] = str(error)
        return self._opened[name, side]

    def specs(
        self, experiment: Experiment, scale: Scale, seeds: int, folder: Folder
    ) -> tuple[RunSpec, ...]:
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
            fabric = launch(device=self.runtime["device"], devices=1, precision="auto")
            whole = settings | {"seed": 0, "memory": "whole"}
            training = build_trainer(whole, fabric, images, time.monotonic())
            training.sampler.close()
            per_epoch = training.sampler.steps_per_epoch
            steps = max(1, round(settings["epochs"] * per_epoch))
            self._counted[identity] = steps, per_epoch, training.flops_per_view / 1e9
        label = f"{experiment.method}-{Path(chosen['data']).name}"
        size = f"n{settings['patches']}-b{settings['batch']}-e{settings['epochs']:g}"
        kept = list(scale.looked_at(experiment))
        return tuple(
            RunSpec(
                name := f"{label}-{size}-{identity}-seed{seed}", label, settings["patches"], seed,
                folder.runs / name, settings | {"seed": seed, "keep_epochs": kept},
                *self._counted[identity], self.runtime,
            )
            for seed in range(seeds)
        )  # fmt: skip
