"""Ranks: how many directions embeddings use, counted by the entropy of their spectrum."""

import torch

from empssl import spectrum
from empssl.quality.rows import alike, check_rows
from empssl.shapes import Embeddings


def rankme(embeddings: Embeddings) -> float:
    """RankMe (Garrido et al. 2023), eq. 1: directions that the embeddings use, mean included.

    As `empssl.spectrum.effective_rank`, between 1 (collapse) and min(sample, feature). Larger is
    healthier.

    Raises:
        DataError: fewer than two rows, or a row is not finite.
    """
    check_rows(embeddings)
    return spectrum.effective_rank(embeddings)


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
    e = spectrum.eigenvalues(embeddings)
    return float(torch.special.entr(e / e.sum()).sum().exp())
