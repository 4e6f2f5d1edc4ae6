"""What objectives share: unit rows, sums over pairs of views, Gram matrices, Sinkhorn."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.types import Projections, Scalar, Targets

LEAST_TEMPERATURE = 1e-6  # cosines over less have gradients whose squares float32 cannot hold
# Projections are about as long as sqrt(dim). A row of zeros, which a dead encoder makes of a blank
# image, had a gradient of 1e12, finite, so that one such view undid a network.
SHORTEST = 1e-3


def check_positive(*, least: float = 0.0, **options: float | int) -> None:
    """See that options are positive.

    Args:
        least: that they may be; 0 is not allowed in any case.
        options: by name.

    Raises:
        ValueError: one is not.
    """
    for name, value in options.items():
        if not (value > 0 and value >= least):
            more = f", {least:g} or more" if least else ""
            raise ValueError(f"{name} is {value}, expected a positive number{more}")


def unit_rows(rows: Float[Tensor, "*stack dim"]) -> Float[Tensor, "*stack dim"]:
    """The rows scaled to length 1; those shorter than `SHORTEST` are divided by it and stay short.

    The gradient of a row is at most 1 / SHORTEST times that of its unit row.

    >>> import torch
    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 5e-4], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.5], [0.0, 0.0]]
    """
    return F.normalize(rows, dim=-1, eps=SHORTEST)


def mean_product(projections: Projections, views: ViewAxis = LOCAL_VIEWS) -> Scalar:
    """z_i . z_j, averaged over pairs of views and over images; of unit rows, the mean cosine.

    >>> import torch
    >>> z = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])  # pairs: 1, 0, 0
    >>> round(float(mean_product(z)), 6)
    0.333333
    """
    view = views.count(projections)
    every = views.sum(projections).square().sum(-1).mean()
    same = views.sum(projections.square().sum(-1).mean(-1))
    return (every - same) / (view * (view - 1))


def mean_square_distance(projections: Projections, views: ViewAxis = LOCAL_VIEWS) -> Scalar:
    """||z_i - z_j||^2, averaged over pairs of views and over images.

    >>> import torch
    >>> z = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])  # pairs: 0, 2, 2
    >>> round(float(mean_square_distance(z)), 6)
    1.333333
    """
    apart = (projections - views.mean(projections)).square().sum(-1).mean(-1)  # view
    return views.sum(apart) * 2 / (views.count(projections) - 1)


def mean_of_others(projections: Projections, views: ViewAxis = LOCAL_VIEWS) -> Projections:
    """For each view, the mean of all other views; of two views, the other one.

    >>> import torch
    >>> mean_of_others(torch.tensor([[[1.0]], [[2.0]], [[6.0]]])).flatten().tolist()
    [4.0, 3.5, 1.5]
    """
    return (views.sum(projections) - projections) / (views.count(projections) - 1)


def others(targets: Targets, views: int) -> Tensor:
    """For each view, the sum of the other views' targets over the number of pairs.

    1/(m (n - 1)) sum_{j <= m, j != i} t_j,  for n views of which the first m have targets.

    What is linear in the target, as a dot product or a cross-entropy, and is summed over views
    with these in the target's place, is the mean over all m (n - 1) pairs: exactly, at O(n).

    Args:
        targets: of the first m views.
        views: n, 2 or more.

    Returns:
        (view, batch, dim)

    >>> import torch
    >>> others(torch.tensor([[[1.0]], [[3.0]]]), 2).flatten().tolist()
    [1.5, 0.5]
    """
    count = len(targets)
    total = targets.sum(0).expand(views, *targets.shape[1:])
    without_own = total.clone()
    without_own[:count] -= targets
    return without_own / (count * (views - 1))


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
