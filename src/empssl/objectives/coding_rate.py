"""The coding rate of a batch: how many directions its projections use."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.functional import check_positive, cholesky
from empssl.types import Projections, Scalar


def coding_rate(
    projections: Projections, distortion: float, views: ViewAxis = LOCAL_VIEWS
) -> Scalar:
    """Nats needed to code each view's batch, averaged over views.

    R(Z) = 1/2 log det(I + d / (b eps^2) Z^T Z),  EMP-SSL eq. 1, computed as the equal
    determinant of the smaller Gram matrix (Sylvester), b x b or d x d, by Cholesky.
    Larger means more directions are used; a collapsed batch scores lowest.

    The gradient is the closed form a (I + a Z Z^T)^-1 Z with a = d / (b eps^2), from the same
    factor. float32 or float64: a Gram matrix rounded to bfloat16 loses up to 15 nats and stops
    being positive definite near collapse, where the term matters most.

    Args:
        projections: unit rows. The value depends on their scale.
        distortion: eps^2, already squared.
        views: over which the mean is.

    Raises:
        ValueError: distortion is not positive.
        torch.linalg.LinAlgError: the projections are not finite.

    >>> one_direction = torch.eye(4)[:1].expand(1, 8, 4)
    >>> all_directions = torch.eye(4).repeat(2, 1)[None]
    >>> bool(coding_rate(one_direction, 0.2) < coding_rate(all_directions, 0.2))
    True
    """
    check_positive(distortion=distortion)
    rate: Tensor = _CodingRate.apply(projections, distortion)
    return views.mean(rate)


def coding_rate_bounds(batch: int, dim: int, distortion: float) -> tuple[float, float]:
    """Coding rate of unit rows that are all alike, and the most that unit rows can have.

    Alike: 1/2 log(1 + d/eps^2), whatever the batch. Most: k/2 log(1 + d/(k eps^2)) with
    k = min(b, d): k equal eigenvalues that share the trace.

    >>> [round(r, 3) for r in coding_rate_bounds(100, 1024, 0.2)]
    [4.271, 197.754]
    """
    rank = min(batch, dim)
    alike = 0.5 * math.log1p(dim / distortion)
    spread = 0.5 * rank * math.log1p(dim / (rank * distortion))
    return alike, spread


class _CodingRate(torch.autograd.Function):
    """Per-view coding rate that keeps Z and the Cholesky factor for the backward pass."""

    @staticmethod
    def forward(ctx: Any, projections: Tensor, distortion: float) -> Tensor:
        _, batch, dim = projections.shape
        scale = dim / (batch * distortion)
        Z = projections if batch <= dim else projections.mT  # view small large
        gram = torch.baddbmm(
            torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device), Z, Z.mT, alpha=scale
        )
        L = cholesky(gram)
        ctx.save_for_backward(Z, L)
        ctx.scale, ctx.transposed = scale, batch > dim
        rate: Tensor = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return rate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        Z, L = ctx.saved_tensors
        # Not cholesky_solve, which takes five times as long on the CPU for many columns; the matrix
        # has no eigenvalue below 1.
        gradient = ctx.scale * upstream[0][:, None, None] * torch.cholesky_inverse(L) @ Z
        return (gradient.mT if ctx.transposed else gradient), None
