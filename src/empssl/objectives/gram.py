"""Gram matrices: the products of rows with rows, or of columns with columns."""

import torch
from jaxtyping import Float
from torch import Tensor


def smaller_gram(rows: Float[Tensor, "*stack row dim"]) -> Float[Tensor, "*stack small small"]:
    """Z Z^T or Z^T Z, whichever is smaller.

    Both have the same eigenvalues, but for zeros: the same trace, Frobenius norm and entropy.

    >>> wide = torch.tensor([[3.0, 4.0]])
    >>> smaller_gram(wide).tolist(), smaller_gram(wide.T).tolist()
    ([[25.0]], [[25.0]])
    """
    row, dim = rows.shape[-2:]
    return rows @ rows.mT if row <= dim else rows.mT @ rows


def cholesky(gram: Float[Tensor, "stack dim dim"]) -> Float[Tensor, "stack dim dim"]:
    """The lower factor; on a GPU NaN instead of an error, which the host would have to wait for.

    Raises:
        torch.linalg.LinAlgError: on the CPU, a matrix is not finite and positive definite.
    """
    if gram.device.type != "cuda":
        factor: Tensor = torch.linalg.cholesky(gram)
        return factor
    L, failed = torch.linalg.cholesky_ex(gram)
    return torch.where((failed == 0)[:, None, None], L, torch.nan)
