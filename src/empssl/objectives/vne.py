"""I-VNE+ (Kim et al., 2023): von Neumann entropy beside the cosine of views."""

import torch

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import check_positive, mean_product, smaller_gram, unit_rows
from empssl.types import Projections


class VNE(Objective):
    """Every view's directions used evenly, views of an image alike.

    loss = -(invariance_weight * similarity + entropy_weight * entropy),

    with the mean cosine over pairs of views and, averaged over views, the von Neumann entropy
    S = -sum_j l_j log l_j of the eigenvalues l of Z^T Z / b, Z a view's unit rows. It is 0 for one
    direction and log r for r equally used: collapse is prevented.

    The gradient of S is -(log l + 1) along each eigenvector: it asks nothing of the gaps between
    eigenvalues, but without end at l = 0, hence epsilon.

    Any n: exact, the mean over pairs of views.

    Args:
        invariance_weight: alpha_1; log 64, as in the authors' code for ImageNet-100 and in the
            FroSSL authors' CIFAR settings.
        entropy_weight: alpha_2.
        epsilon: added to eigenvalues inside the logarithm.
    """

    sums_views = True

    def __init__(
        self, *, invariance_weight: float = 4.16, entropy_weight: float = 1.0, epsilon: float = 1e-7
    ) -> None:
        super().__init__()
        check_positive(epsilon=epsilon)
        self.invariance_weight = invariance_weight
        self.entropy_weight = entropy_weight
        self.epsilon = epsilon

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        z = unit_rows(projections)
        similarity = mean_product(z, views)
        shares = torch.linalg.eigvalsh(smaller_gram(z) / z.shape[1]).clamp(min=0)
        entropy = -views.mean((shares * (shares + self.epsilon).log()).sum(-1))
        total = -(self.invariance_weight * similarity + self.entropy_weight * entropy)
        return Loss(total, {"similarity": similarity, "entropy": entropy})
