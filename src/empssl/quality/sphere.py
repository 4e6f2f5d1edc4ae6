"""Embeddings on the unit sphere: how well views agree there, and how evenly images lie."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.gauge import UNIFORMITY_SCALE
from empssl.quality.rows import check_rows, check_views
from empssl.shapes import Embeddings

_ROWS = 1024  # whose distances to all others are in memory at once


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
    for rows in z.split(_ROWS):
        square = rows.square().sum(-1)[:, None] + z.square().sum(-1) - 2 * rows @ z.T
        total += (-UNIFORMITY_SCALE * square.clamp(min=0)).exp().sum()
    return float(((total - count) / (count * (count - 1))).log())  # not of a row with itself
