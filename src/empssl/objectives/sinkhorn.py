"""Soft assignments of equal size: the Sinkhorn-Knopp algorithm, in logarithms."""

import torch
from torch import Tensor

from empssl.shapes import Targets


@torch.no_grad()
def codes(scores: Targets, *, epsilon: float, iterations: int) -> Tensor:
    """Distributions over prototypes, of which each prototype gets an equal share of the batch.

    argmax_Q tr(Q^T scores) + epsilon H(Q) among the Q whose rows sum to 1 and whose columns sum to
    b / K, SwAV eqs. 3 to 5, for each view apart: exp(scores / epsilon), scaled by columns and rows
    in turn, the rows last. Logarithms cannot overflow, as exp(scores / epsilon) does in half
    precision.

    Args:
        scores: of each row with each of K prototypes; float32 or float64.
        epsilon: how soft the assignments are.
        iterations: how often columns and rows are scaled.

    Returns:
        Rows that sum to 1, of the shape of `scores`, without gradient.

    >>> even = codes(torch.tensor([[[0.9, 0.0], [1.0, 0.0]]]), epsilon=0.05, iterations=50)
    >>> even.sum(1).round(decimals=2).tolist()
    [[1.0, 1.0]]
    """
    logarithms = scores / epsilon  # target batch prototype
    for _ in range(iterations):
        logarithms = logarithms.log_softmax(1).log_softmax(2)
    return logarithms.exp()
