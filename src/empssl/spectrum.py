"""How many directions embeddings use."""

import torch
from jaxtyping import Float
from torch import Tensor

from empssl.finite import check_finite
from empssl.shapes import Embeddings

_ROWS = 4096  # converted to float64 at a time


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
