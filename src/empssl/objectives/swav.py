"""SwAV (Caron et al., 2020)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import LEAST_TEMPERATURE, check_positive, codes, others, unit_rows
from empssl.types import Projections, Targets


class SwAV(Objective):
    """Each view tells to which prototypes the others are assigned.

    loss = mean_{i != j} CE(code(z_j), softmax(z_i.C / temperature)),  eq. 2, for any view i and
    another j of the first `target_views`, which with multi-crop are the large ones.

    z are unit rows and C the K prototypes, unit rows again after each update. The codes spread a
    batch evenly over the prototypes, so projections that are all alike can tell nothing: the loss
    prevents collapse. Left out of the published training: the queue that stands in for a large
    batch, and the first epochs in which prototypes stay as they are.

    Any n: exact, the mean over all pairs at O(n), as the cross-entropy is linear in the code.

    Args:
        dim: coordinates of a projection.
        prototypes: K; 3000 in the paper and in solo-learn's CIFAR-10 settings.
        temperature: 0.1 in the paper.
        epsilon: softness of the codes; 0.05 in the paper.
        iterations: of Sinkhorn-Knopp; 3 in the paper.
        target_views: how many leading views are given codes; 2 in the paper.

    Raises:
        ValueError: a number that is not positive.
    """

    target: ClassVar[Literal["itself"]] = "itself"

    def __init__(
        self,
        *,
        dim: int,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        target_views: int = 2,
    ) -> None:
        super().__init__()
        check_positive(prototypes=prototypes, iterations=iterations, target_views=target_views)
        check_positive(temperature=temperature, epsilon=epsilon, least=LEAST_TEMPERATURE)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim), dim=-1))
        self.temperature = temperature
        self.epsilon, self.iterations = epsilon, iterations
        self.target_views = target_views

    def forward(self, projections: Projections, *, targets: Targets) -> Loss:
        z, t = unit_rows(projections), unit_rows(targets)
        assigned = codes(
            t @ self.prototypes.T, epsilon=self.epsilon, iterations=self.iterations
        )  # target batch prototype
        log_probabilities = (z @ self.prototypes.T / self.temperature).log_softmax(
            -1
        )  # view batch prototype
        code_loss = -(others(assigned, len(z)) * log_probabilities).sum((0, 2)).mean()
        return Loss(code_loss, {"code_loss": code_loss})

    @torch.no_grad()
    def after_update(self, targets: Targets | None) -> None:
        """Make the prototypes unit rows again."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=-1))
