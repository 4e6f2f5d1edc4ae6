"""Supervised contrastive learning (Khosla et al., 2020)."""

from typing import ClassVar

import torch

from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import LEAST_TEMPERATURE, check_positive, unit_rows
from empssl.types import BatchLabels, Projections


class SupCon(Objective):
    """Each view near all views of its class, far from all others; learns from labels.

    loss = contrast_loss - similarity / temperature,  the mean over rows i and p in P(i) of

        -log exp(z_i . z_p / temperature) / sum_{a != i} exp(z_i . z_a / temperature),

    L_out, eq. 2, with the mean over i in place of the sum, as in the authors' code. z are unit
    rows; i, p and a go over all views of all images, and P(i) holds the other views of i's class.
    `similarity` is the mean of z_i . z_p, `contrast_loss` that of the logarithm of the sum, which
    prevents collapse. An image whose label is unknown (-1) is a class of its own; if all are, the
    loss of two views is SimCLR's.

    Any n: exact, all pairs of views at O(n^2), as published.

    Args:
        temperature: 0.1 in the paper and its authors' CIFAR-10 settings.

    Raises:
        ValueError: temperature is not positive.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive(temperature=temperature, least=LEAST_TEMPERATURE)
        self.temperature = temperature

    def forward(self, projections: Projections, *, labels: BatchLabels) -> Loss:
        views, batch, _ = projections.shape
        z = unit_rows(projections).flatten(0, 1)  # view*batch dim
        cosines = z @ z.T
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        image = torch.eye(batch, dtype=torch.bool, device=z.device)
        alike = image | ((labels[:, None] == labels) & (labels >= 0))  # batch batch
        positive = alike.repeat(views, views) & ~itself
        similarity = ((cosines * positive).sum(1) / positive.sum(1)).mean()
        logits = (cosines / self.temperature).masked_fill(itself, float("-inf"))
        contrast = logits.logsumexp(1).mean()
        total = contrast - similarity / self.temperature
        return Loss(total, {"similarity": similarity, "contrast_loss": contrast})
