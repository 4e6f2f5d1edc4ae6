"""An experiment in the paper's terms: method, data set and length. A scale makes a run of it."""

from dataclasses import dataclass
from typing import Any, Literal

from empssl.models import Layer
from empssl.reproduction.paper import MANY, NAMES

Reading = Literal["paper", "official"]


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
