"""Discriminants: how images differ, by the measure of how the patches of one image differ."""

import torch
from jaxtyping import Float
from torch import Tensor

from empssl.quality.rows import alike, check_views

DELTA = 1e-4  # the LiDAR paper's, but of the mean variance within images
_ROUNDING = 1e-12  # of the variance between images


def lidar(views: Float[Tensor, "view sample feature"]) -> float:
    """LiDAR (Thilak et al. 2023), eqs. 1-3: directions by which images differ and views do not.

    exp(-sum_k p_k log p_k), p_k = lambda_k / sum_j lambda_j, with lambda the eigenvalues of
    W^-1/2 B W^-1/2: B is the covariance of the images' means, W that of views about their image's
    mean plus delta I. Between 1 (collapse) and min(sample - 1, feature). Larger is healthier, as
    the paper has it; but lambda are compared with each other only, so that a network that tells
    images apart equally badly in every direction, as with random weights, has many.

    The paper's delta of 1e-4 is absolute; here it is a share of the mean variance within images,
    so that the length of embeddings does not matter. The 1e-7 that it adds to p is left out.
    With fewer than feature / (view - 1) images W has no full rank, and the value says little.

    Raises:
        DataError: fewer than two views or images, or a row is not finite.

    >>> images = torch.tensor([[3.0, 3.0], [3.0, -3.0], [-3.0, 3.0], [-3.0, -3.0]])
    >>> round(lidar(torch.stack([images + 0.1, images - 0.1])), 3)  # views differ along one axis
    1.001
    """
    e = _eigenvalues(views)
    return float(torch.special.entr(e / e.sum()).sum().exp()) if e.any() else 1.0


def separation(views: Float[Tensor, "view sample feature"]) -> float:
    """Fisher's criterion (Fukunaga 1990) with images as classes: how far they stand apart.

    tr(W^-1 B) / d, the mean of those eigenvalues whose evenness `lidar` counts: the variance
    between images over that between views of an image, mean over directions. 0 is collapse; views
    that have nothing in common reach 1 / (view - 1). Larger is healthier.

    Raises:
        DataError: fewer than two views or images, or a row is not finite.
    """
    return float(_eigenvalues(views).mean())


def _eigenvalues(views: Tensor) -> Tensor:
    """Of W^-1 B, in no order; all 0 where images are alike."""
    check_views(views)
    rows = views.detach().double()
    means = rows.mean(0)
    if alike(views) or alike(means):
        return torch.zeros_like(means[0])
    between, within = _covariance(means - means.mean(0)), _covariance((rows - means).flatten(0, 1))
    # Where views are all the same, the second term leaves the rank of the means alone.
    floor = DELTA * within.trace() / len(within) + _ROUNDING * between.trace()
    within = within + floor * torch.eye(len(within)).to(within)
    # The same eigenvalues as with the symmetric root: L^-1 B L^-T with W = L L^T.
    root = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    values: Tensor = torch.linalg.eigvalsh(torch.linalg.solve_triangular(root, half.T, upper=False))
    return values.clamp(min=0)


def _covariance(centered: Tensor) -> Tensor:
    return centered.T @ centered / len(centered)
