"""What the paper reports, as data: experiments, numbers, claims, tables and figures."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from empssl.evaluation.evaluate import Probe
from empssl.experiments.paper.published import MANY, NAMES
from empssl.models import Layer

Reading = Literal["paper", "official"]
NumberKind = Literal["accuracy", "curve", "minutes", "epochs", "map", "best"]
PlotKind = Literal["convergence", "maps"]
EqualIn = Literal["epochs", "compute"]
EQUALS: tuple[EqualIn, ...] = ("epochs", "compute")


@dataclass(frozen=True)
class Experiment:
    """What one run of the paper is, seeds apart. Equal experiments are one run.

    Attributes:
        method: an objective.
        data: what is trained on.
        epochs: that the learning rate's schedule spans.
        n: patches of each image in a step; two views for a rival.
        batch: images in a step; None for the method's own.
        reading: the paper's text or its authors' code; None where it does not matter, and the
            scale decides.
        changes: YAML of further settings of `train`, such as `{projector: {name: paper}}`.
    """

    method: str
    data: str
    epochs: int
    n: int = MANY
    batch: int | None = None
    reading: Reading | None = None
    changes: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is EMP-SSL, and not a rival of it."""
        return self.method == "emp"

    @property
    def own_layer(self) -> Layer:
        """The one that its authors probe."""
        return "head" if self.ours else "backbone"

    def name(self, *, patches: int, batch: int, epochs: float) -> str:
        """As a table calls a run of it: what was run first, then the paper's where it differs.

        Args:
            patches: of each image in a step of the run.
            batch: images in a step of the run, named where the experiment names one.
            epochs: of the run's schedule, named of a rival whose schedule is a short one.

        >>> emp("cifar10", 30).name(patches=16, batch=40, epochs=1.0)
        "EMP-SSL, 16 patches (the paper's 200)"
        >>> emp("cifar10", 30).name(patches=200, batch=100, epochs=30.0)
        'EMP-SSL, 200 patches'
        >>> rival("byol", "cifar10").name(patches=2, batch=80, epochs=2.0)
        'BYOL'
        """
        parts = [_both(f"{patches:,}", self.n, "patches")] if self.ours else []
        if not self.ours and self.epochs < 400:
            parts.append(_both(f"{epochs:g}", self.epochs, f"epoch{'s' * (epochs != 1)} in all"))
        if self.batch:
            parts.append(_both(f"{batch:,}", self.batch, "images a step"))
        parts += [f"`{self.reading}`"] if self.reading else []
        parts += [f"`{self.changes}`"] if self.changes else []
        return ", ".join([NAMES[self.method], *parts])


@dataclass(frozen=True)
class Number:
    """One number of an exhibit, theirs and what it takes to have ours.

    Attributes:
        experiment: which run.
        on: the data set that is scored on; another than that of training makes it a transfer.
        what: `accuracy` at an epoch; `curve`, the accuracies of all epochs that are kept;
            `minutes` and `epochs` to the goal of the data set; `map`, how far classes lie apart
            in the projections; `best`, the accuracy of the epoch of the probe that does best on
            test, which is chosen on test and shown to expose the habit.
        epoch: of the paper's; None for the last.
        theirs: None where the paper has no number.
        probe: as in `evaluate`.
        crops: as in `evaluate`; `bag` for the bag of patches that the scale gives to every method
            alike; None for the method's own, which is the whole image for a rival.
        layer: None for the head of EMP-SSL, which its authors' code probes, and for the backbone
            of a rival.
        label: what the row is called; empty for the experiment's name.
        source: of theirs, where it is not this paper.
        train_size: images that the probe learns from; None for all.
    """

    experiment: Experiment
    on: str
    what: NumberKind = "accuracy"
    epoch: int | None = None
    theirs: float | None = None
    probe: Probe = "linear"
    crops: str | None = None
    layer: Layer | None = None
    label: str = ""
    source: str = ""
    train_size: int | None = None

    @property
    def probed(self) -> Layer:
        return self.layer or self.experiment.own_layer

    def at(self, epoch: int | None, theirs: float | None) -> "Number":
        """The same at another epoch."""
        return replace(self, epoch=epoch, theirs=theirs)


@dataclass(frozen=True)
class Claim:
    """What an exhibit is to show, as something that can turn out to be false.

    Attributes:
        words: the claim.
        data: scored on.
        ahead: experiments that are said to do better, or as well.
        behind: than which.
        alike: points within which they are said to be alike; None where one is to be ahead.
        equal: what the two of a pair are given as much of.
        train_size: images that the probe learns from; None for all.
    """

    words: str
    data: str
    ahead: tuple[Experiment, ...]
    behind: tuple[Experiment, ...]
    alike: float | None = None
    equal: tuple[EqualIn, ...] = EQUALS
    train_size: int | None = None

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        return tuple(dict.fromkeys(self.ahead + self.behind))

    @property
    def of_one_method(self) -> bool:
        """Whether EMP-SSL is compared with itself, whose authors' way is one way for both."""
        return all(experiment.ours for experiment in self.experiments)

    @property
    def pairs(self) -> tuple[tuple[Experiment, Experiment], ...]:
        return tuple((one, other) for one in self.ahead for other in self.behind)


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure.

    Attributes:
        title: what it shows, by its caption.
        says: what the paper concludes from it.
        numbers: in the order of its rows.
        claims: what of it is tested here.
        plot: how it is drawn, if it is a figure.
        seeds: how many runs of each experiment, as in the paper where it says so.
        unread: what of it is in a picture only.
        baselines: whether what needs no training stands below it; an exhibit that sets runs of one
            method side by side does without.
        note: on how its numbers were taken.
    """

    title: str
    says: str
    numbers: tuple[Number, ...]
    claims: tuple[Claim, ...] = ()
    plot: PlotKind | None = None
    seeds: int = 1
    unread: str = ""
    baselines: bool = True
    note: str = ""


def _both(here: str, theirs: int, unit: str) -> str:
    """A count of ours, with theirs where that is another."""
    paper = f"{theirs:,}"
    return f"{here} {unit}" + ("" if here == paper else f" (the paper's {paper})")


def emp(data: str, epochs: int, n: int = MANY, **rest: Any) -> Experiment:
    """EMP-SSL with a schedule of so many epochs."""
    return Experiment("emp", data, epochs, n, **rest)


def rival(method: str, data: str, epochs: int | None = None) -> Experiment:
    """A rival to its end: 400 epochs of ImageNet-100, 1,000 of the others, if none are named."""
    return Experiment(method, data, epochs or (400 if data == "imagenet100" else 1000), n=2)
