"""MMCR (Yerxa et al., 2023): maximum manifold capacity representations."""

import torch

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import unit_rows
from empssl.types import Projections


class MMCR(Objective):
    """Mean views that are long and point in many directions.

    loss = -||Zbar||_*,  the sum of the singular values of the images' mean unit projections.

    Agreeing views make the rows of Zbar long, spread images make them independent: the same term
    does both, and prevents collapse. Its gradient, U V^T, stays finite where singular values vanish
    or coincide. The paper's second term, the size of each image's own cloud of views, has weight
    zero in its CIFAR settings, and is left out.

    Any n: as published for n views, which is not a mean over pairs.
    """

    sums_views = True

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        centers = views.mean(unit_rows(projections))
        nuclear_norm = torch.linalg.svdvals(centers).sum()
        return Loss(-nuclear_norm, {"nuclear_norm": nuclear_norm})
