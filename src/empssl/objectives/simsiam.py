"""SimSiam (Chen and He, 2021)."""

from typing import ClassVar, Literal

from empssl.models.predictor import Predictor
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import others, unit_rows
from empssl.types import Projections, Targets


class SimSiam(Objective):
    """Each view predicts the projection of every other, which is held fixed.

    loss = -mean_{i != j} cos(q(z_i), stopgrad(z_j)),  eqs. 2 to 4: half of each direction.

    q is the predictor. The loss does not prevent collapse: that is left to the predictor and the
    stopped gradient. All views pass the predictor's BatchNorm together, not one after the other.
    The paper keeps the predictor's learning rate constant; here it falls with the others.

    Any n: exact, the mean over all pairs at O(n), as the cosine is linear in the unit target.

    Args:
        dim: coordinates of a projection.
        hidden: width of the predictor; 512 in the paper, of 2048 coordinates, and in solo-learn's
            CIFAR-10 settings.

    Raises:
        ValueError: a width that is not positive.
    """

    prevents_collapse: ClassVar[bool] = False
    target: ClassVar[Literal["itself"]] = "itself"

    def __init__(self, *, dim: int, hidden: int = 512) -> None:
        super().__init__()
        self.predictor = Predictor(dim, hidden)

    def forward(self, projections: Projections, *, targets: Targets) -> Loss:
        q = unit_rows(self.predictor(projections))
        t = unit_rows(targets)
        similarity = (q * others(t, len(q))).sum((0, 2)).mean()
        return Loss(-similarity, {"similarity": similarity})
