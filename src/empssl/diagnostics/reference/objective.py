"""EMP-SSL's eq. 2 as the paper writes it: a d x d determinant a patch index, in turn."""

import torch
import torch.nn.functional as F

from empssl.types import Projections, Scalar


def emp_loss(projections: Projections, *, invariance_weight: float, distortion: float) -> Scalar:
    """The loss of `objectives.EMP`, of whose value it is the plain twin.

    Args:
        projections: of any length; they are normalised here.
        invariance_weight: lambda in eq. 2.
        distortion: eps^2 in eq. 1, already squared.
    """
    z = F.normalize(projections, dim=-1)
    center = z.mean(0)
    _, batch, dim = z.shape
    eye = torch.eye(dim, dtype=z.dtype, device=z.device)
    rates, similarities = [], []
    for Z in z:
        second_moment = eye + dim / (batch * distortion) * Z.T @ Z
        rates.append(torch.logdet(second_moment) / 2)
        similarities.append(F.cosine_similarity(Z, center, dim=-1).mean())
    rate, similarity = torch.stack(rates).mean(), torch.stack(similarities).mean()
    return -(rate + invariance_weight * similarity)
