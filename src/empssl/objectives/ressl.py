"""ReSSL (Zheng et al., 2021)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import LEAST_TEMPERATURE, check_positive, unit_rows
from empssl.types import Projections, Targets


class ReSSL(Objective):
    """Each view relates to other images as a weak view of its image does in a slow network.

    loss = mean_i CE(softmax(t.Q / teacher_temperature), softmax(z_i.Q / student_temperature)),
    eqs. 4 to 6.

    t and z_i are unit rows, Q those of the last `queue` targets, t the momentum target's of a view
    that is only cropped and mirrored and that the network does not see. Of n views the first
    `weak_views` are such, so n = 2 is as published.

    The loss alone does not prevent collapse: it asks for the target's relations, whatever they
    are. What keeps images apart is that the teacher is sharper than the student, and slow.

    Any n: exact, as the cross-entropy is linear in the teacher's distribution, whose mean over
    weak views is taken once.

    Args:
        dim: coordinates of a projection.
        student_temperature: 0.1 in the paper.
        teacher_temperature: 0.04 in the paper; below the student's.
        momentum: of the target, the same in all steps; 0.99 in the paper for small images.
        queue: how many targets are kept; 4096 in the paper for small images.
        weak_views: how many leading views only the target sees.

    Raises:
        ValueError: a temperature or size that is not positive, or a momentum that is no share.
    """

    prevents_collapse: ClassVar[bool] = False
    target: ClassVar[Literal["momentum"]] = "momentum"
    queue: Tensor

    def __init__(
        self,
        *,
        dim: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        momentum: float = 0.99,
        queue: int = 4096,
        weak_views: int = 1,
    ) -> None:
        super().__init__()
        check_positive(queue=queue, weak_views=weak_views)
        check_positive(
            student_temperature=student_temperature, teacher_temperature=teacher_temperature,
            least=LEAST_TEMPERATURE,
        )  # fmt: skip
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}, expected a share, from 0 to 1")
        self.student_temperature, self.teacher_temperature = (
            student_temperature,
            teacher_temperature,
        )
        self.momentum = momentum
        self.target_views = self.weak_views = weak_views
        self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=-1))

    def forward(self, projections: Projections, *, targets: Targets) -> Loss:
        z, t = unit_rows(projections), unit_rows(targets)
        relation = (t @ self.queue.T / self.teacher_temperature).softmax(-1).mean(0)
        found = (z @ self.queue.T / self.student_temperature).log_softmax(-1)  # view batch queue
        relation_loss = -(relation * found).sum(-1).mean()
        return Loss(relation_loss, {"relation_loss": relation_loss})

    def momentum_at(self, progress: float) -> float:
        return self.momentum

    @torch.no_grad()
    def after_update(self, targets: Targets | None) -> None:
        """Put the step's targets before the others, and let go of the oldest."""
        assert targets is not None
        newest = F.normalize(targets.to(self.queue.dtype), dim=-1).flatten(0, 1)
        self.queue.copy_(torch.cat([newest, self.queue])[: len(self.queue)])
