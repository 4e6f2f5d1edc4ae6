"""One optimization step: views to projections to loss to gradients to new weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from empssl.device import Fabric
from empssl.distributed.collectives import gather, gather_labels
from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.errors import DivergenceError, EmpsslError, UsageError
from empssl.metrics.projections import at_least_single, projection_metrics, spectrum
from empssl.models.ema import EMANetwork
from empssl.objectives.base import Loss, Objective
from empssl.training.failures import diagnose, remembered_finite
from empssl.training.gradients import average_gradients, project
from empssl.training.memory import WHOLE, MemoryPlan
from empssl.training.sharding import gather_projections
from empssl.types import BatchLabels, Projections, Targets, Views
from empssl.views import Policy

Augment = Callable[[Tensor, Tensor, int], Tensor]  # a policy, perhaps compiled

# What a line of metrics.jsonl has besides the terms of the loss and the measures of projections.
ENTRY = frozenset({
    "step", "epoch", "loss", "gradient_norm", "lr", "spectrum", "clip_fraction", "finite",
    "patches", "pflop", "seconds", "patches_per_second",
})  # fmt: skip


@dataclass(frozen=True)
class StepResult:
    """What one step measured, before its update.

    Attributes:
        loss: of the whole batch, and its terms.
        collapse_metrics: how alike its projections are.
        gradient_norm: over all weights, the objective's among them.
        spectrum: variances of its projections, where they were asked for.
        finite: whether the step could be taken. Read later: on a GPU to read it is to wait.
    """

    loss: Loss
    collapse_metrics: dict[str, Tensor]
    gradient_norm: float | Tensor
    finite: Tensor
    spectrum: Tensor | None = None

    def metrics_entry(
        self,
        *,
        step: int,
        lr: float,
        steps_per_epoch: int,
        views: int,
        flops_per_view: float,
        clipped: float | Tensor | None,
    ) -> dict[str, Any]:
        """One line of metrics.jsonl, but for the clock; numbers may still be on the device.

        Args:
            step: which it is, from 0.
            lr: of the first optimizer.
            steps_per_epoch: of the run.
            views: of all images in a step.
            flops_per_view: of the whole step.
            clipped: share of the layers whose rate LARS clipped, where it does.

        Raises:
            UsageError: a term of the objective has the name of one of these numbers.
        """
        patches = (step + 1) * views
        entry: dict[str, Any] = {
            "step": step,
            "epoch": (step + 1) / steps_per_epoch,
            "loss": self.loss.total,
        }
        if taken := self.loss.terms.keys() & (self.collapse_metrics.keys() | ENTRY):
            raise UsageError(
                f"the objective has a term '{min(taken)}', and a step is recorded with a number of "
                "that name already; call the term something else"
            )
        entry |= self.loss.terms | self.collapse_metrics
        entry |= {"gradient_norm": self.gradient_norm, "lr": lr}
        if self.spectrum is not None:
            entry["spectrum"] = [float(f"{value:.4g}") for value in self.spectrum.tolist()]
        if clipped is not None:
            entry["clip_fraction"] = clipped
        entry["finite"] = self.finite
        return entry | {"patches": patches, "pflop": patches * flops_per_view / 1e15}


def training_step(
    fabric: Fabric,
    network: nn.Module,
    objective: Objective,
    optimizers: list[torch.optim.Optimizer],
    views: Views,
    plan: MemoryPlan = WHOLE,
    target: EMANetwork | None = None,
    labels: BatchLabels | None = None,
    axis: ViewAxis = LOCAL_VIEWS,
    *,
    with_spectrum: bool = False,
) -> StepResult:
    """Take one step on the views that this process holds of the global batch.

    Args:
        fabric: of the run.
        network: as Fabric wraps it.
        objective: what the step lowers.
        optimizers: of all parameters, the objective's among them.
        views: of this process; the objective's `weak_views` first.
        plan: how much of it is in memory at once.
        target: the momentum target, for an objective that has one; it is not moved here.
        labels: of the batch, for an objective that needs them.
        axis: where the views are that this process does not hold.
        with_spectrum: measure it too, for which the host waits.

    Raises:
        DivergenceError: on the CPU, the loss, a gradient or what an optimizer remembers is not
            finite; no weight has been touched. On a GPU gradients are zeros from then on, and
            `finite` tells.
    """
    batch = views.shape[1]
    seen, aimed = views[objective.weak_views :], views[: objective.target_views]
    images = seen.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    targets = None if target is None else gather(fabric, target.project(aimed, fabric.autocast()))
    every = None if labels is None else gather_labels(fabric, labels)

    def diagnosis(total: float) -> EmpsslError:
        return diagnose(fabric, network, objective, optimizers, images, total, batch=batch)

    try:
        projections = project(fabric, network, images, plan, batch).unflatten(0, (len(seen), batch))
        z = gather_projections(fabric, projections, axis)
        measured = projection_metrics(z, axis)
        variances = spectrum(z) if with_spectrum else None
        if objective.target == "itself":
            targets = z.detach()[: objective.target_views]
        loss = objective_loss(objective, z, targets, every, axis)
        del projections, z
        fabric.backward(loss.total)
        average_gradients(fabric, network, plan)
    except DivergenceError as error:
        raise diagnosis(math.nan) from error
    norm = gradient_norm(network, objective)
    finite = torch.isfinite(loss.total.detach()) & torch.isfinite(norm)
    if views.device.type != "cuda" and not (finite and remembered_finite(optimizers)):
        raise diagnosis(loss.total.item())
    if views.device.type == "cuda":
        drop_unless(finite, network, objective)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    objective.after_update(targets)
    length = norm if views.device.type == "cuda" else float(norm)
    return StepResult(loss, measured, length, finite, variances)


def drop_unless(finite: Tensor, *modules: nn.Module) -> None:
    """Zero all gradients of a step that is not finite, without reading whether it is."""
    for module in modules:
        for weight in module.parameters():
            if weight.grad is not None:
                weight.grad = torch.where(finite, weight.grad, 0.0)


def objective_loss(
    objective: Objective,
    projections: Projections,
    targets: Targets | None = None,
    labels: BatchLabels | None = None,
    axis: ViewAxis = LOCAL_VIEWS,
) -> Loss:
    """The objective in its own precision: at least float32, and never under autocast.

    Args:
        objective: what is lowered.
        projections: of the whole batch, or of some of its views.
        targets: for an objective that learns towards some, else none.
        labels: for an objective that needs them, else none.
        axis: where the other views are, for an objective that sums over them.

    Raises:
        DivergenceError: the projections are not finite, and the objective cannot go on.
    """
    asked = {
        "targets": None if targets is None else at_least_single(targets),
        "labels": labels,
        "views": axis if objective.sums_views else None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    with torch.autocast(projections.device.type, enabled=False):
        try:
            loss: Loss = objective(at_least_single(projections), **given)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise DivergenceError(f"the projections are not finite ({error})") from error
    return loss


def gradient_norm(*modules: nn.Module) -> Tensor:
    """Euclidean norm over all gradients, the same in every process."""
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    norm: Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
    return norm


def compiled(policy: Policy, network: nn.Module, mode: str) -> tuple[Augment, nn.Module]:
    """Both, for shapes that stay as they are; compiled when they are first called.

    Args:
        policy: how views are drawn.
        network: what computes the projections.
        mode: of `torch.compile`.
    """
    augment: Any = torch.compile(policy, mode=mode, fullgraph=True, dynamic=False)
    module: Any = torch.compile(network, mode=mode, dynamic=False)
    return augment, module


def begin_step(mode: str) -> None:
    """Let a CUDA graph write over what it made in the step before."""
    if mode == "reduce-overhead":
        torch.compiler.cudagraph_mark_step_begin()


def compile_failure(error: Exception) -> str:
    """What to say where compiling failed."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"not compiled, and slower for it: {type(error).__name__}: {first}"
