"""The contract of every objective: projections in, a loss and its named terms out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from empssl.errors import UsageError
from empssl.types import Projections, Scalar, Targets


@dataclass(frozen=True)
class Loss:
    """What an objective makes of one step's projections.

    Attributes:
        total: to be minimised; carries the gradient.
        terms: in their natural direction, as their names say.
    """

    total: Scalar
    terms: dict[str, Scalar] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """What training minimises.

    Sees the projections of all views of the whole global batch, in float32 with autocast off,
    whatever number of processes computed them; or, if it `sums_views` and processes share patches,
    those of its process's views. A constructor that takes `dim` is given the
    coordinates of a projection. Parameters are trained with the network's. A forward pass changes
    nothing: what has to change does so in `after_update`.

    `forward(projections)` is given more, by name, only where a class attribute asks for it:
    `targets`, `labels` and `views`. What later objectives may need of a step comes the same way: an
    attribute here, `False` by default, and a keyword that `training.step.objective_loss` passes
    where it is `True`, such as `needs_indices` for the images' numbers in the data set,
    `needs_embeddings` for the backbone's output, `needs_draws` for the random numbers that the
    views were made of, or `needs_maps` for it before the mean over positions. None of these four
    is there yet.

    Attributes:
        prevents_collapse: whether the loss is worse where all projections are alike. Without it
            only the way of training keeps them apart: a predictor, a slow target.
        target: who makes the `targets` that forward is then given, and through which no gradient
            flows: `momentum`, a slow copy of the network; `itself`, the network.
        target_views: leading views that targets are made of; None for all.
        weak_views: leading views that are only cropped and mirrored, and that only the target sees.
        needs_labels: whether forward is given the images' `labels`, -1 where unknown.
        sums_views: whether all it has to know of views that lie in other processes are sums over
            them of a view's size or less. Forward then takes `views`, which adds them up.
    """

    prevents_collapse: ClassVar[bool] = True
    target: ClassVar[Literal["momentum", "itself"] | None] = None
    needs_labels: ClassVar[bool] = False
    target_views: int | None = None
    weak_views: int = 0
    sums_views: bool = False

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Loss:
        """The loss of `projections`; `targets`, `labels` and `views` are given if asked for."""

    def momentum_at(self, progress: float) -> float:
        """How much of itself a momentum target keeps at an update.

        Args:
            progress: share of the run's steps that are done.
        """
        raise NotImplementedError(f"{type(self).__name__} has no momentum target")

    def after_update(self, targets: Targets | None) -> None:
        """Called once after each update of the weights, with the targets of its step."""


class ModuleObjective(Objective):
    """Any module from projections to a loss, as an objective. It is used itself, not a copy.

    Args:
        module: (view, batch, dim) to a number to be minimised, or to a `Loss`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, projections: Projections) -> Loss:
        """The module's loss.

        Raises:
            UsageError: it gives something else, or what no gradient flows through.
        """
        made = self.module(projections)
        loss = Loss(made) if isinstance(made, Tensor) and made.dim() == 0 else made
        name = type(self.module).__qualname__
        if not isinstance(loss, Loss):
            found = f"a tensor {tuple(made.shape)}" if isinstance(made, Tensor) else f"{made!r}"
            raise UsageError(
                f"the objective {name} gives {found}, expected a tensor () to be minimised or a "
                "Loss; reduce it, as by mean()"
            )
        if projections.requires_grad and torch.is_grad_enabled() and not loss.total.requires_grad:
            raise UsageError(
                f"no gradient flows through the loss of the objective {name}; compute it from the "
                "projections, without detach() and no_grad()"
            )
        return loss
