"""Measures of embeddings: rank, spread, alignment, uniformity, separation, spectrum."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.errors import DataError
from empssl.metrics.projections import DISTORTION, UNIFORMITY_SCALE
from empssl.types import Embeddings

_ROWS = 4096  # converted to float64 at a time
_ROUNDING = 1e-12  # of the mean square: what float32 leaves of rows that are all the same
_PAIR_ROWS = 1024  # whose distances to all others are in memory at once
LEAST = (
    4  # rows, and features, of a power law: three ranks have a slope that is more than two points
)
_FLOOR = 1e-10  # of the largest variance; below it there is only rounding
DELTA = 1e-4  # the LiDAR paper's, but of the mean variance within images
_EIGENVALUE_ROUNDING = 1e-12  # of the variance between images


def check_finite(embeddings: Tensor, part: str) -> None:
    """Refuse embeddings that hold no row, NaN or infinity.

    Raises:
        DataError: as said.
    """
    if len(embeddings) == 0:
        raise DataError(f"{part}: no embeddings; give at least one image")
    finite = embeddings.isfinite()
    if not finite.all():
        bad = (~finite.all(1)).nonzero().flatten()
        raise DataError(
            f"{part}: {len(bad)} of {len(embeddings)} embeddings hold NaN or infinity "
            f"(first in row {int(bad[0])}); use an earlier checkpoint, or embed in float32"
        )


def eigenvalues(embeddings: Embeddings) -> Float[Tensor, " feature"]:
    """Variances along the principal directions, largest first, in float64.

    The eigenvalues of C = 1/n sum_i (h_i - mean)(h_i - mean)^T.

    Raises:
        DataError: an embedding is not finite, or there is none.

    >>> eigenvalues(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).tolist()
    [2.0, 0.5]
    """
    check_finite(embeddings, "embeddings")
    mean = embeddings.double().mean(0)
    return _principal(embeddings, mean) / len(embeddings)


def effective_rank(embeddings: Embeddings) -> float:
    """RankMe (Garrido et al. 2023), eq. 1: between 1 (collapse) and the number of features.

    exp(-sum_k p_k log p_k) with p_k = sigma_k / sum_j sigma_j and sigma the singular values of
    the embeddings, not centered. Larger means more directions are used. The 1e-7 that the paper
    adds to p is left out: zero contributes zero. All-zero embeddings have rank 0.

    Raises:
        DataError: an embedding is not finite, or there is none.

    >>> round(effective_rank(torch.eye(3).repeat(5, 1)), 6)
    3.0
    """
    check_finite(embeddings, "embeddings")
    sigma = _principal(embeddings, torch.zeros(()).to(embeddings)).sqrt()
    if not sigma.any():
        return 0.0
    return float(torch.special.entr(sigma / sigma.sum()).sum().exp())


def _principal(embeddings: Tensor, origin: Tensor) -> Tensor:
    """Squared singular values about `origin`, largest first. float64 keeps the small ones."""
    gram = torch.zeros(embeddings.shape[1], embeddings.shape[1], dtype=torch.float64)
    gram = gram.to(embeddings.device)
    for rows in embeddings.detach().split(_ROWS):
        centered = rows.double() - origin
        gram.addmm_(centered.T, centered)
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.flip(0).clamp(min=0)


def check_rows(embeddings: Tensor, least: int = 2) -> None:
    """Refuse what is too few or not finite.

    Args:
        embeddings: (sample, feature), or (view, sample, feature).
        least: rows that it takes.

    Raises:
        DataError: as said.
    """
    for rows in embeddings.flatten(0, -3) if embeddings.ndim > 2 else [embeddings]:
        check_finite(rows, "embeddings")
    if embeddings.shape[-2] < least:
        raise DataError(
            f"embeddings of {embeddings.shape[-2]} images were given, expected {least} or more; "
            "embed more images"
        )


def check_views(views: Tensor) -> None:
    """Refuse views that cannot be compared, or rows as `check_rows` does.

    Raises:
        DataError: as said.
    """
    if len(views) < 2:
        raise DataError(
            f"{len(views)} view of each image was given, expected 2 or more; embed more patches"
        )
    check_rows(views)


def alike(embeddings: Tensor) -> bool:
    """Whether all rows are the same but for rounding: collapse, where variances are noise."""
    rows = embeddings.detach().flatten(0, -2).double()
    variance = rows.var(0, correction=0).sum()
    return bool(variance <= _ROUNDING * rows.square().sum(-1).mean())


def rankme(embeddings: Embeddings) -> float:
    """RankMe (Garrido et al. 2023), eq. 1: directions that the embeddings use, mean included.

    As `effective_rank`, between 1 (collapse) and min(sample, feature). Larger is
    healthier.

    Raises:
        DataError: fewer than two rows, or a row is not finite.
    """
    check_rows(embeddings)
    return effective_rank(embeddings)


def covariance_rank(embeddings: Embeddings) -> float:
    """Effective rank (Roy & Vetterli 2007) of the covariance: directions that share the variance.

    exp(-sum_k p_k log p_k) with p_k = e_k / sum_j e_j and e the eigenvalues of the covariance.
    RankMe takes their roots and leaves the mean in, so that weak directions count more there and
    what all images have in common counts too. Between 1 (collapse) and min(sample - 1, feature).
    Larger is healthier.

    Raises:
        DataError: fewer than two rows, or a row is not finite.

    >>> corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(covariance_rank(corners + 5), 6)
    2.0
    """
    check_rows(embeddings)
    if alike(embeddings):
        return 1.0
    e = eigenvalues(embeddings)
    return float(torch.special.entr(e / e.sum()).sum().exp())


def alignment(views: Float[Tensor, "view sample feature"]) -> float:
    """Alignment (Wang & Isola 2020): mean square distance of two views of an image, unit rows.

    Between 0 (all views of an image alike) and 4. Smaller is healthier as long as images stay
    apart: it is also 0 where everything is alike.

    Raises:
        DataError: fewer than two views or images, or a row is not finite.
    """
    check_views(views)
    z = F.normalize(views.detach().double(), dim=-1)
    count = len(z)
    # The mean over pairs, from the length of the means.
    apart = 2 * (z.square().sum(-1).mean() - z.mean(0).square().sum(-1).mean())
    return float(apart * count / (count - 1))


def uniformity(embeddings: Embeddings) -> float:
    """Uniformity (Wang & Isola 2020): log of the mean of exp(-2 ||z_j - z_k||^2) over pairs.

    Of unit rows. 0 where all images are alike, near -4 where they lie evenly. Smaller is
    healthier.

    Raises:
        DataError: fewer than two rows, or a row is not finite.
    """
    check_rows(embeddings)
    z = F.normalize(embeddings.detach().double(), dim=-1)
    count, total = len(z), torch.zeros((), dtype=torch.float64, device=z.device)
    for rows in z.split(_PAIR_ROWS):
        square = rows.square().sum(-1)[:, None] + z.square().sum(-1) - 2 * rows @ z.T
        total += (-UNIFORMITY_SCALE * square.clamp(min=0)).exp().sum()
    return float(((total - count) / (count * (count - 1))).log())  # not of a row with itself


def alpha_req(embeddings: Embeddings) -> float:
    """alpha-ReQ (Agrawal et al. 2022): alpha where the k-th largest variance falls as k^-alpha.

    Near 1 is healthy: well above, a few directions hold nearly all of the variance; well below,
    the variance is spread so evenly that much of it is noise. The slope is that of the weighted
    least squares line through (log k, log e_k), weights 1/k, as Stringer et al. (2019) fit it;
    over the upper half of the ranks that there can be, because a finite sample bends the rest.

    Raises:
        DataError: fewer than 4 rows or features, or a row is not finite.
    """
    check_rows(embeddings, LEAST)
    count, dim = embeddings.shape
    if dim < LEAST:
        raise DataError(f"embeddings have {dim} features, expected {LEAST} or more for a slope")
    e = eigenvalues(embeddings)
    e = torch.eye(dim).to(e)[0] if alike(embeddings) else e / e[0]
    last = max(LEAST - 1, min(count - 1, dim) // 2)
    k = torch.arange(1, last + 1).to(e)
    x, y, w = k.log(), e[:last].clamp(min=_FLOOR).log(), 1 / k / (1 / k).sum()
    x, y = x - w @ x, y - w @ y
    return -float((w * x) @ y / ((w * x) @ x))


def coding_rate_ratio(embeddings: Embeddings) -> float:
    """Coding rate (Yu et al. 2020; EMP-SSL eq. 1) of unit rows about their mean, 0 to 1.

    1/2 sum_k log(1 + d / eps^2 e_k), e the eigenvalues of their covariance, over the same where
    all e_k that there can be are equal. 0 where all are alike, 1 where they are spread evenly.
    Larger is healthier. As `coding_rate_ratio` of a training step, in another precision.

    Raises:
        DataError: fewer than two rows, or a row is not finite.
    """
    check_rows(embeddings)
    count, dim = embeddings.shape
    e = eigenvalues(F.normalize(embeddings.detach().double(), dim=-1))
    rank = min(count - 1, dim)
    most = rank / 2 * math.log1p(dim / (rank * DISTORTION))
    return float((dim / DISTORTION * e).log1p().sum() / 2) / most


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
    floor = DELTA * within.trace() / len(within) + _EIGENVALUE_ROUNDING * between.trace()
    within = within + floor * torch.eye(len(within)).to(within)
    # The same eigenvalues as with the symmetric root: L^-1 B L^-T with W = L L^T.
    root = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    values: Tensor = torch.linalg.eigvalsh(torch.linalg.solve_triangular(root, half.T, upper=False))
    return values.clamp(min=0)


def _covariance(centered: Tensor) -> Tensor:
    return centered.T @ centered / len(centered)
