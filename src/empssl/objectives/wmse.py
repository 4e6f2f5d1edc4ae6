"""W-MSE (Ermolov et al., 2021), with the distance of unit vectors."""

import torch
import torch.nn.functional as F

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.errors import UsageError
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import cholesky, mean_product
from empssl.types import Projections

SHORTEST = 0.1  # whitened rows have length sqrt(dim) on average; below this they have no direction


class WMSE(Objective):
    """Views near each other once the batch of each is whitened.

    loss = distance_loss = 2 - 2 cos(w_ik, w_jk), the mean over pairs of views and images, with

        w = L^-1 (z - mean),  L L^T = (1 - shrinkage) C + (shrinkage tr(C) / d + epsilon) I,

    mean and covariance C those of a slice of one view's batch. Whitened batches are spread
    however little varied before, so that views cannot agree by collapse. Where nothing varies,
    nothing agrees: the loss is 2.

    b images vary in b - 1 directions at most, and where dim is as large C has no inverse: as
    published, slices must be larger, in the authors' CIFAR settings 128 for dim 64. Their code can
    shrink C towards I, and does not by default. Here it is shrunk a little towards the mean
    variance, whatever the scale of projections, so that any batch will do. The cost grows
    with the cube of dim for every view and slice.

    Any n: exact, the mean over pairs of views, as published for four.

    Args:
        slice_size: images that are whitened together, consecutive ones: batches are shuffled
            anyway. The whole batch by default.
        shrinkage: between 0 and 1.
        epsilon: added to variances, for where all images are alike.

    Raises:
        ValueError: slice_size is below 2, or shrinkage not between 0 and 1.
    """

    sums_views = True

    def __init__(
        self, *, slice_size: int | None = None, shrinkage: float = 1e-3, epsilon: float = 1e-8
    ) -> None:
        super().__init__()
        if slice_size is not None and slice_size < 2:
            raise ValueError(f"slice_size is {slice_size}, expected 2 or more")
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}, expected a number between 0 and 1")
        if not epsilon >= 0:
            raise ValueError(f"epsilon is {epsilon}, expected 0 or more")
        self.slice_size = slice_size
        self.shrinkage = shrinkage
        self.epsilon = epsilon

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        _, batch, _ = projections.shape
        size = self.slice_size or batch
        if batch % size:
            raise UsageError(
                f"a batch of {batch} cannot be cut into slices of {size}; choose a batch that is a "
                "multiple of the objective's slice_size, or leave slice_size out"
            )
        slices = projections.unflatten(1, (-1, size)).flatten(0, 1)  # view*slice size dim
        w = self._whiten(slices).reshape(projections.shape)
        distance_loss = 2 - 2 * mean_product(F.normalize(w, dim=-1, eps=SHORTEST), views)
        return Loss(distance_loss, {"distance_loss": distance_loss})

    def _whiten(self, z: Projections) -> Projections:
        _, size, dim = z.shape
        x = z - z.mean(1, keepdim=True)
        C = x.mT @ x / (size - 1)
        variance = C.diagonal(dim1=-2, dim2=-1).mean(-1)
        floor = (self.shrinkage * variance + self.epsilon)[:, None, None]
        eye = torch.eye(dim, dtype=z.dtype, device=z.device)
        L = cholesky((1 - self.shrinkage) * C + floor * eye)
        w: Projections = torch.linalg.solve_triangular(L, x.mT, upper=False).mT
        return w
