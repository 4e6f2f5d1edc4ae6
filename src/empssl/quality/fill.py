"""Fill: the coding rate of embeddings, as a share of the most there can be."""

import math

import torch.nn.functional as F

from empssl.gauge import DISTORTION
from empssl.quality.rows import check_rows
from empssl.shapes import Embeddings
from empssl.spectrum import eigenvalues


def fill(embeddings: Embeddings) -> float:
    """Coding rate (Yu et al. 2020; EMP-SSL eq. 1) of unit rows about their mean, 0 to 1.

    1/2 sum_k log(1 + d / eps^2 e_k), e the eigenvalues of their covariance, over the same where
    all e_k that there can be are equal. 0 where all are alike, 1 where they are spread evenly.
    Larger is healthier. As `fill` of a training step, in another precision.

    Raises:
        DataError: fewer than two rows, or a row is not finite.
    """
    check_rows(embeddings)
    count, dim = embeddings.shape
    e = eigenvalues(F.normalize(embeddings.detach().double(), dim=-1))
    rank = min(count - 1, dim)
    most = rank / 2 * math.log1p(dim / (rank * DISTORTION))
    return float((dim / DISTORTION * e).log1p().sum() / 2) / most
