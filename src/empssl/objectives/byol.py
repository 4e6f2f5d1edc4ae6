"""BYOL (Grill et al., 2020)."""

import math
from typing import ClassVar, Literal

from empssl.models.predictor import Predictor
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import others, unit_rows
from empssl.types import Projections, Targets


class BYOL(Objective):
    """Each view predicts a slow copy of the network's projection of every other.

    loss = 2 mean_{i != j} ||q(z_i) / ||q(z_i)|| - t_j / ||t_j|| ||^2 = 4 - 4 similarity,  eq. 2
    with both directions of two views added, as published.

    z the network's projections, t the momentum target's, q the predictor; the pairs are of any
    view i and another j of the first `target_views`. The target's weights move by
    1 - m(t), m(t) = 1 - (1 - momentum) (cos(pi t) + 1) / 2, t the share of the run that is done.
    All views pass the predictor's BatchNorm together, not one after the other.

    The loss does not prevent collapse: that is left to predictor and target.

    Any n: exact, the mean over all pairs at O(n), as the cosine is linear in the unit target.

    Args:
        dim: coordinates of a projection.
        hidden: width of the predictor; 4096 in the paper and in solo-learn's CIFAR-10 settings.
        momentum: of the target at the start; 0.99 in solo-learn's CIFAR-10 settings, 0.996 in the
            paper's for ImageNet.
        target_views: how many leading views the target projects.

    Raises:
        ValueError: a momentum that is no share, a width or a number of views that is not positive.
    """

    prevents_collapse: ClassVar[bool] = False
    target: ClassVar[Literal["momentum"]] = "momentum"

    def __init__(
        self, *, dim: int, hidden: int = 4096, momentum: float = 0.99, target_views: int = 4
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}, expected a share, from 0 to 1")
        if target_views < 1:
            raise ValueError(f"target_views is {target_views}, expected 1 or more")
        self.predictor = Predictor(dim, hidden)
        self.momentum, self.target_views = momentum, target_views

    def forward(self, projections: Projections, *, targets: Targets) -> Loss:
        q = unit_rows(self.predictor(projections))
        t = unit_rows(targets)
        similarity = (q * others(t, len(q))).sum((0, 2)).mean()
        return Loss(4 - 4 * similarity, {"similarity": similarity})

    def momentum_at(self, progress: float) -> float:
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
