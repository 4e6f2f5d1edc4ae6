"""Rows of length 1, with a gradient that stays bounded where there is next to nothing to scale."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Projections are about as long as sqrt(dim). A row of zeros, which a dead encoder makes of a blank
# image, had a gradient of 1e12, finite, so that one such view undid a network.
SHORTEST = 1e-3


def unit_rows(rows: Float[Tensor, "*stack dim"]) -> Float[Tensor, "*stack dim"]:
    """The rows scaled to length 1; those shorter than `SHORTEST` are divided by it and stay short.

    The gradient of a row is at most 1 / SHORTEST times that of its unit row.

    >>> import torch
    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 5e-4], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.5], [0.0, 0.0]]
    """
    return F.normalize(rows, dim=-1, eps=SHORTEST)
