"""SimCLR (Chen et al., 2020), eq. 1, NT-Xent."""

from typing import Literal

import torch

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.errors import nearest
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import (
    LEAST_TEMPERATURE,
    check_positive,
    mean_of_others,
    unit_rows,
)
from empssl.types import Projections, Scalar


class SimCLR(Objective):
    """Each view recognizes its image among all others of the batch.

    loss = contrast_loss - similarity / temperature,  the mean over rows z_ik (view i, image k) of

        -log exp(z_ik . p_ik / temperature) / sum_x exp(z_ik . x / temperature),  eq. 1,

    with p_ik the partner of the row and x all other rows of view i and all partners: 2b - 1 of
    them. Two views are each other's partners. Of more, the partner is the mean of the other views'
    unit projections, made a unit vector again: else it would be shorter the less they agree, and
    the temperature would mean something else for each n. `similarity` is the mean of
    z_ik . p_ik, `contrast_loss` that of the logarithm of the sum, which prevents collapse.

    Any n: not exact, a mean view is an easier partner than a view. With partners="each" exact, at
    the cost of all pairs.

    Args:
        temperature: 0.5 is the paper's best for CIFAR-10 (appendix B.9); solo-learn has 0.2.
        partners: mean, or each other view in turn.

    Raises:
        ValueError: temperature is not positive, or there are no such partners.
    """

    sums_views = True  # with mean partners

    def __init__(
        self, *, temperature: float = 0.5, partners: Literal["mean", "each"] = "mean"
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature, least=LEAST_TEMPERATURE)
        if partners not in ("mean", "each"):
            raise ValueError(f"no partners '{partners}': {nearest(partners, ['mean', 'each'])}")
        self.temperature = temperature
        self.partners = partners
        self.sums_views = partners == "mean"

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        z = unit_rows(projections)
        if self.partners == "mean":
            terms = [self._terms(z, unit_rows(mean_of_others(z, views)), views)]
        else:
            terms = [self._terms(z, z.roll(shift, 0), views) for shift in range(1, len(z))]
        similarity, contrast_loss = (torch.stack(term).mean() for term in zip(*terms, strict=True))
        total = contrast_loss - similarity / self.temperature
        return Loss(total, {"similarity": similarity, "contrast_loss": contrast_loss})

    def _terms(
        self, z: Projections, partner: Projections, views: ViewAxis
    ) -> tuple[Scalar, Scalar]:
        own = (z @ z.mT / self.temperature).diagonal_scatter(
            z.new_full(z.shape[:2], -torch.inf), dim1=-2, dim2=-1
        )  # view batch batch
        others = z @ partner.mT / self.temperature
        contrast_loss = views.mean(torch.cat([own, others], -1).logsumexp(-1).mean(-1))
        return views.mean((z * partner).sum(-1).mean(-1)), contrast_loss
