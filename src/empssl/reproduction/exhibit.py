"""An exhibit: a table or a figure of the paper, as a list of the numbers that it takes."""

from dataclasses import dataclass, replace
from typing import Literal

from empssl.evaluation import Probe
from empssl.models import Layer
from empssl.reproduction.experiment import Experiment

What = Literal["accuracy", "curve", "minutes", "epochs", "map", "best"]
Plot = Literal["convergence", "maps"]
Equal = Literal["epochs", "compute"]
EQUALS: tuple[Equal, ...] = ("epochs", "compute")


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
    what: What = "accuracy"
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
    equal: tuple[Equal, ...] = EQUALS
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
    plot: Plot | None = None
    seeds: int = 1
    unread: str = ""
    baselines: bool = True
    note: str = ""
