"""An experiment in the paper's terms: method, data set and length. A scale makes a run of it."""

from dataclasses import dataclass
from typing import Any, Literal

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
    def name(self) -> str:
        """As a table calls it.

        >>> Experiment("emp", "cifar10", 30).name, Experiment("byol", "cifar10", 1000, n=2).name
        ('EMP-SSL (200 patches)', 'BYOL')
        """
        short = self.method != "emp" and self.epochs < 400
        parts = [f"{self.n} patches"] if self.method == "emp" else []
        parts += [f"all of its {self.epochs} epochs"] if short else []
        parts += [f"batch {self.batch}"] if self.batch else []
        parts += [f"`{self.reading}`"] if self.reading else []
        parts += [f"`{self.changes}`"] if self.changes else []
        return NAMES[self.method] + (f" ({', '.join(parts)})" if parts else "")


def emp(data: str, epochs: int, n: int = MANY, **rest: Any) -> Experiment:
    """EMP-SSL with a schedule of so many epochs."""
    return Experiment("emp", data, epochs, n, **rest)


def rival(method: str, data: str, epochs: int | None = None) -> Experiment:
    """A rival to its end: 400 epochs of ImageNet-100, 1,000 of the others, if none are named."""
    return Experiment(method, data, epochs or (400 if data == "imagenet100" else 1000), n=2)
