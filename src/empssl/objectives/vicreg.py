"""VICReg (Bardes et al., 2022), eq. 6."""

import torch
import torch.nn.functional as F

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import check_positive, mean_square_distance
from empssl.types import Projections


class VICReg(Objective):
    """Views near each other, every coordinate varying by 1 or more, no two of them together.

    loss = invariance_weight * s + variance_weight * v + covariance_weight * c,  eq. 6, with

        s  the mean over pairs of views of the mean square difference,
        v  the mean over views and coordinates of max(0, 1 - sqrt(variance + epsilon)),
        c  twice the mean over views of sum_{k != l} C_kl^2 / d, C the covariance of a view.

    The factors are those of the authors' code, where the two views' v are averaged and their c
    added; the paper adds both, and its s is not divided by d. v prevents collapse.

    Any n: exact, the mean over pairs of views.

    Args:
        invariance_weight: lambda; all weights as published for ImageNet.
        variance_weight: mu; solo-learn adds the two views' v, so its 25 for CIFAR are 50 here.
        covariance_weight: nu.
        epsilon: added to variances, so that equal rows have a gradient.
    """

    sums_views = True

    def __init__(
        self, *, invariance_weight: float = 25.0, variance_weight: float = 25.0,
        covariance_weight: float = 1.0, epsilon: float = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        check_positive(epsilon=epsilon)
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.epsilon = epsilon

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        _, batch, dim = projections.shape
        invariance_loss = mean_square_distance(projections, views) / dim
        centered = projections - projections.mean(1, keepdim=True)
        C = centered.mT @ centered / (batch - 1)  # view dim dim
        variance = C.diagonal(dim1=-2, dim2=-1)
        variance_loss = views.mean(F.relu(1 - torch.sqrt(variance + self.epsilon)).mean(-1))
        off_diagonal = C.square().sum((-2, -1)) - variance.square().sum(-1)  # view
        covariance_loss = 2 * views.mean(off_diagonal) / dim
        total = (
            self.invariance_weight * invariance_loss
            + self.variance_weight * variance_loss
            + self.covariance_weight * covariance_loss
        )
        return Loss(
            total,
            {
                "invariance_loss": invariance_loss,
                "variance_loss": variance_loss,
                "covariance_loss": covariance_loss,
            },
        )
