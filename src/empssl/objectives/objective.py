"""The contract of every objective: projections in, a loss and its named terms out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from empssl.shapes import Projections, Scalar


@dataclass(frozen=True)
class Loss:
    """What an objective makes of one step's projections.

    Attributes:
        total: to be minimised; carries the gradient.
        terms: in their natural direction, as their names say.
    """

    total: Scalar
    terms: dict[str, Scalar] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """What training minimises.

    Sees the projections of all views of the whole global batch, in float32 with autocast off,
    whatever number of processes computed them.
    """

    prevents_collapse: ClassVar[bool] = True

    @abstractmethod
    def forward(self, projections: Projections) -> Loss: ...
