"""A scale: how an experiment of the paper becomes a run that fits a machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from empssl.config import build, merge
from empssl.evaluation.pooling import Crops
from empssl.experiments.paper.base import Experiment
from empssl.experiments.paper.published import FEW, GOALS, MANY
from empssl.training.recipes import FORMS, resolve
from empssl.views import POLICIES

Settings = dict[str, Any]
# On crops the form that `laptop` has for patches lets the projections fall on a line (docs/log.md).
ON_CROPS: dict[str, Settings] = {
    "barlow_twins": {"objective": {"scale": 1.0}},
    "ressl": {"objective": {"queue": 4096}},
    "swav": {"objective": {"prototypes": 100, "epsilon": 0.03, "temperature": 0.2}},
    "vicreg": {"objective": {"invariance_weight": 10.0, "variance_weight": 25.0}},
}
SPECS = ("views", "backbone", "projector", "objective", "optimizer", "schedule")


@dataclass(frozen=True)
class Scale:
    """What stands for what.

    Attributes:
        name: as it is asked for.
        differs: what this scale changes, in sentences.
        epochs: ours by theirs, of schedules and of the epochs that are looked at; those that are
            not named stay as they are.
        patches: ours by theirs, of EMP-SSL.
        batches: the same, of a batch that is named.
        kept: epochs of ours at which a run is looked at, besides its end.
        goals: percent that a run is to reach, by data set.
        bags: crops of ours by theirs.
        crops: of EMP-SSL, where an exhibit names none.
        bag: the same patches for every method, with their share of the image spelled out.
        small: laid over the recipe's settings.
        heads: the projector's sizes, by its name, and those of rivals.
        own: the recipe of EMP-SSL where the reading does not matter.
        left_out: why an experiment does not fit; None where it does.
    """

    name: str
    differs: tuple[str, ...]
    epochs: Mapping[int, float]
    patches: Mapping[int, int]
    batches: Mapping[int, int]
    kept: tuple[float, ...]
    goals: Mapping[str, float]
    bags: Mapping[str, str]
    crops: str
    bag: str
    small: Callable[[Experiment], Settings]
    heads: Mapping[str, Mapping[str, int]]
    own: str
    left_out: Callable[[Experiment], str | None] = field(default=lambda _: None)

    def length(self, experiment: Experiment) -> float:
        """Epochs of the run."""
        return self.epoch(experiment.epochs)

    def epoch(self, theirs: int) -> float:
        return float(self.epochs.get(theirs, theirs))

    def looked_at(self, experiment: Experiment) -> tuple[float, ...]:
        """Epochs at which a run's network is kept: all that any exhibit may ask for."""
        return tuple(epoch for epoch in self.kept if epoch < self.length(experiment))

    def crops_of(self, experiment: Experiment, crops: str | None) -> str:
        """Which crops embed an image: the whole one for a rival, as in the paper.

        Where EMP-SSL's own grid has the patches of the bag that every method is given, it is
        called by that name: one look is enough for both.
        """
        if crops == "bag":
            return self.bag
        if crops is not None:
            return self.bags.get(crops, crops)
        if not experiment.ours:
            return "whole"
        own, bag = Crops.parse(self.crops), Crops.parse(self.bag)
        settings = self.settings(experiment)
        policy, side = build(POLICIES, settings["views"]), settings["image_side"] or 64
        same = own.count == bag.count and own.sides(policy, side) == bag.sides(policy, side)
        return self.bag if same else self.crops

    def label(self, experiment: Experiment) -> str:
        """What a run of it is called."""
        settings = self.settings(experiment)
        return experiment.name(
            patches=settings["patches"], batch=settings["batch"], epochs=self.length(experiment)
        )

    def settings(self, experiment: Experiment) -> Settings:
        """What `train` records of the run, seed and data apart.

        Raises:
            UsageError: a change that `train` does not know.
        """
        ours = experiment.ours
        recipe = (experiment.reading or self.own) if ours else experiment.method
        given: Settings = dict(self.small(experiment))
        if ours:
            given["patches"] = self.patches.get(experiment.n, experiment.n)
        if experiment.batch is not None:
            given["batch"] = self.batches.get(experiment.batch, experiment.batch)
        given |= {"epochs": self.length(experiment)}
        base = resolve(recipe, given)
        for key, value in (yaml.safe_load(experiment.changes) or {}).items():
            given[key] = merge(base[key], value) if key in SPECS else value
        settings = resolve(recipe, given)
        head = settings["projector"]["name"] if ours else "rival"
        return settings | {"projector": settings["projector"] | dict(self.heads.get(head, {}))}


def _small(experiment: Experiment) -> Settings:
    """The `laptop` recipe at half its width; its optimizer too, but where a reading has one.

    A rival's batch makes a step as much work as one of 16 patches of each of 40 images: 80 images
    of two views of four times the area. So equal work is an equal number of updates.
    """
    settings: Settings = {"backbone": {"name": "resnet10", "width": 16}, "whitened": 0, "batch": 40}
    if experiment.data in ("cifar10", "cifar100"):
        settings["image_side"] = 32  # of a part of it in a file, too
    if not experiment.ours:
        form = FORMS["laptop"].get(experiment.method, {}) | ON_CROPS.get(experiment.method, {})
        optimizer = {"name": "muon_lars"} | form.get("optimizer", {})
        objective = {"objective": form["objective"]} if "objective" in form else {}
        return settings | objective | {"batch": 80, "optimizer": optimizer}
    return settings if experiment.reading is None else settings | {"views": {"side": None}}


def _real(experiment: Experiment) -> Settings:
    """The paper's sizes; views get the images' side, as the recipes have it."""
    if experiment.data == "imagenet100":
        return {"image_side": 224, "backbone": {"stem": "imagenet"}}
    return {"image_side": 64} if experiment.data == "tiny-imagenet" else {}


def _left_out(experiment: Experiment) -> str | None:
    if experiment.data == "imagenet100":
        return "224-pixel images are too much work for two cores; it takes --scale paper"
    if experiment.data == "tiny-imagenet" and experiment.method != "emp":
        return "an hour a method on two cores, for numbers that the paper took from elsewhere"
    return None


LAPTOP = Scale(
    name="laptop",
    differs=(
        "ResNet-10 of width 16 on patches at their native 16 pixels, not ResNet-18 on patches "
        "enlarged to 32.",
        "1, 10, 20 and 30 epochs of the paper are 0.1, 0.3, 0.6 and 1 pass over the data; 2, 20, "
        "50 and 200 patches are 2, 4, 8 and 16; batches of 50, 100 and 200 are 20, 40 and 80.",
        "The rivals' 400 and 1,000 epochs are 2 passes, the work of EMP-SSL's longest run with 16 "
        "patches: what is compared there is equal compute, and nothing has converged.",
        "The rivals keep their views of the whole image and schedule; network, optimizer (Muon "
        "and LARS) and the work of a step are EMP-SSL's, and their objectives' settings those "
        "found for `laptop` or on crops, on a part of train (docs/log.md), where the published "
        "ones learn less.",
        "The classifier is solved, its strength chosen on a part of train; the bag is a clean 2 x "
        "2 grid and its mirror images; 128 augmented patches are 32.",
        "The goals are 55 % on CIFAR-10 and 25 % on CIFAR-100.",
    ),
    epochs={1: 0.1, 10: 0.3, 20: 0.6, 30: 1.0, 400: 2.0, 1000: 2.0},
    patches={2: 2, FEW: 4, 50: 8, MANY: 16},
    batches={50: 20, 100: 40, 200: 80},
    kept=(0.1, 0.3, 0.6, 1.0),
    goals={"cifar10": 55.0, "cifar100": 25.0},
    bags={"random128": "random32"},
    crops="grid2",
    bag="grid2@0.5",
    small=_small,
    heads={
        "paper": {"hidden": 1024, "dim": 256}, "official": {"hidden": 1024, "dim": 512},
        "rival": {"hidden": 1024},
    },
    own="laptop",
    left_out=_left_out,
)  # fmt: skip

PAPER = Scale(
    name="paper",
    differs=(
        "EMP-SSL is the authors' code (recipe `official`) where the reading is not named.",
        "The classifier is solved, its strength chosen on a part of train, and EMP-SSL's bag is a "
        "clean 3 x 3 grid and its mirror images; the exhibit `readings` has the authors' probe.",
        "Rivals run with solo-learn's settings as the recipes of their names have them, which say "
        "where they differ; Tiny ImageNet and ImageNet-100 with those of CIFAR-10.",
    ),
    epochs={},
    patches={},
    batches={},
    kept=tuple(map(float, (*range(1, 11), 12, 15, 20, 25, 30, *range(50, 1000, 50)))),
    goals=GOALS,
    bags={},
    crops="grid3",
    bag="grid3@0.5x2",
    small=_real,
    heads={},
    own="official",
)

SCALES = {"laptop": LAPTOP, "paper": PAPER}
