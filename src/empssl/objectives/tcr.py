"""Total coding rate (Li et al., 2022): the first stage of NMCE, and EMP-SSL's predecessor."""

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.coding_rate import coding_rate
from empssl.objectives.functional import check_positive, mean_product, unit_rows
from empssl.types import Projections


class TCR(Objective):
    """All projections together spread out, views of an image alike.

    loss = -(coding_rate + invariance_weight * similarity),

    with the coding rate of all n b unit rows at once, which prevents collapse, and the mean cosine
    over pairs of views. EMP-SSL takes the coding rate of each view instead, and so does the code of
    the NMCE authors; `pooled` chooses. Where views agree the two are the same.

    Any n: not exact, views that disagree add to the rate of all. With pooled=False exact, the mean
    over pairs of views.

    Args:
        invariance_weight: lambda; 30 in the authors' CIFAR-10 command.
        distortion: eps^2, already squared; 0.2 there.
        pooled: the coding rate of all views together, or else the mean over views.

    Raises:
        ValueError: distortion is not positive.
    """

    def __init__(
        self, *, invariance_weight: float = 30.0, distortion: float = 0.2, pooled: bool = True
    ) -> None:
        super().__init__()
        check_positive(distortion=distortion)
        self.invariance_weight = invariance_weight
        self.distortion = distortion
        self.pooled = pooled
        self.sums_views = not pooled

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        z = unit_rows(projections)
        if self.pooled:
            rate = coding_rate(z.flatten(0, 1)[None], self.distortion)
        else:
            rate = coding_rate(z, self.distortion, views)
        similarity = mean_product(z, views)
        total = -(rate + self.invariance_weight * similarity)
        return Loss(total, {"coding_rate": rate, "similarity": similarity})
