"""Barlow Twins (Zbontar et al., 2021), eq. 1."""

import torch

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import check_positive, mean_of_others
from empssl.types import Projections


class BarlowTwins(Objective):
    """Cross-correlation of two views near the identity: coordinates agree, and repeat nothing.

    loss = scale * (sum_k (1 - C_kk)^2 + redundancy_weight * sum_{k != l} C_kl^2),  eq. 1,

    with C the correlations between the coordinates of a view and those of the mean of all other
    views, the loss averaged over views. A coordinate in which all images are alike correlates with
    nothing, which costs 1: collapse is prevented.

    Any n: not exact, the mean of squared correlations is not the square with the mean view.

    Args:
        redundancy_weight: lambda in eq. 1; 0.005 in the paper, 0.0051 in its code.
        epsilon: added to variances, as in the authors' BatchNorm.
        scale: of the whole; 1 in the paper, 0.024 in its code, 0.1 in solo-learn's CIFAR settings.
            Steps of LARS have the same length whatever it is, those of biases and normalization
            do not.
    """

    sums_views = True

    def __init__(
        self, *, redundancy_weight: float = 0.0051, epsilon: float = 1e-5, scale: float = 1.0
    ) -> None:
        super().__init__()
        check_positive(epsilon=epsilon, scale=scale)
        self.redundancy_weight = redundancy_weight
        self.epsilon = epsilon
        self.scale = scale

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        own = self._standardize(projections)
        others = self._standardize(mean_of_others(projections, views))
        C = own.mT @ others / projections.shape[1]  # view dim dim
        agreement = C.diagonal(dim1=-2, dim2=-1)
        invariance_loss = views.mean((1 - agreement).square().sum(-1))
        redundancy_loss = views.mean(C.square().sum((-2, -1)) - agreement.square().sum(-1))
        total = self.scale * (invariance_loss + self.redundancy_weight * redundancy_loss)
        return Loss(total, {"invariance_loss": invariance_loss, "redundancy_loss": redundancy_loss})

    def _standardize(self, projections: Projections) -> Projections:
        centered = projections - projections.mean(1, keepdim=True)
        variance = centered.square().mean(1, keepdim=True)
        return centered * torch.rsqrt(variance + self.epsilon)
