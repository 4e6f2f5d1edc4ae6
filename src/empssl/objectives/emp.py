"""EMP-SSL (Tong et al., 2023), eq. 2."""

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.coding_rate import coding_rate
from empssl.objectives.functional import check_positive, unit_rows
from empssl.types import Projections


class EMP(Objective):
    """Every view near the mean view, every view's batch spread out.

    loss = -(coding_rate + invariance_weight * similarity),  eq. 2.

    The similarity is the mean cosine between a projection and its image's mean projection. For
    unit rows that is the mean length of the means, (1/b) sum_k ||zbar_k||: the same number at
    O(n). The paper writes the distance as an un-normalised trace; its authors' code uses the
    cosine, as here: with lambda = 200 only the mean cosine is of the coding rate's size.

    Args:
        invariance_weight: lambda in eq. 2.
        distortion: eps^2 in eq. 1, already squared.

    Raises:
        ValueError: distortion is not positive.
    """

    sums_views = True

    def __init__(self, *, invariance_weight: float = 200.0, distortion: float = 0.2) -> None:
        super().__init__()
        check_positive(distortion=distortion)
        self.invariance_weight = invariance_weight
        self.distortion = distortion

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        z = unit_rows(projections)
        rate = coding_rate(z, self.distortion, views)
        similarity = views.mean(z).norm(dim=-1).mean()
        total = -(rate + self.invariance_weight * similarity)
        return Loss(total, {"coding_rate": rate, "similarity": similarity})
