"""A power law: how fast the variances of embeddings fall."""

import torch

from empssl.errors import DataError
from empssl.quality.rows import alike, check_rows
from empssl.shapes import Embeddings
from empssl.spectrum import eigenvalues

LEAST = 4  # rows, and features: three ranks have a slope that is more than two points
_FLOOR = 1e-10  # of the largest variance; below it there is only rounding


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
