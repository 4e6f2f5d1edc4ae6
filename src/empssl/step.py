"""One optimization step: views to projections to loss to gradients to new weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from empssl.engine import Fabric, gather
from empssl.errors import DivergenceError
from empssl.gauge import gauge
from empssl.memory import WHOLE, Plan, backward
from empssl.objectives.objective import Loss, Objective
from empssl.shapes import Views


@dataclass(frozen=True)
class StepResult:
    """What one step measured, before its update.

    Attributes:
        loss: of the whole batch, and its terms.
        gauge: how alike its projections are.
        gradient_norm: over all weights.
        finite: whether the step could be taken. Read later: on a GPU to read it is to wait.
    """

    loss: Loss
    gauge: dict[str, Tensor]
    gradient_norm: float | Tensor
    finite: Tensor


def training_step(
    fabric: Fabric,
    network: nn.Module,
    objective: Objective,
    optimizers: list[torch.optim.Optimizer],
    views: Views,
    plan: Plan = WHOLE,
) -> StepResult:
    """Take one step on the views that this process holds of the global batch.

    Args:
        fabric: of the run.
        network: as Fabric wraps it.
        objective: what the step lowers.
        optimizers: of all parameters.
        views: of this process.
        plan: how much of it is in memory at once.

    Raises:
        DivergenceError: on the CPU, the loss or a gradient is not finite; no weight has been
            touched. On a GPU gradients are zeros from then on, and `finite` tells.
    """
    count, batch = views.shape[:2]
    images = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    measured: dict[str, Tensor] = {}

    def to_loss(projections: Tensor) -> Loss:
        every = gather(fabric, projections.unflatten(0, (count, batch)))
        measured.update(gauge(every))
        return objective_loss(objective, every)

    loss = backward(fabric, network, images, to_loss, plan, batch)
    norm = gradient_norm(network)
    finite = torch.isfinite(loss.total.detach()) & torch.isfinite(norm)
    if views.device.type != "cuda" and not finite:
        raise DivergenceError(_diagnosis(network, loss))
    if views.device.type == "cuda":
        drop_unless(finite, network)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, measured, norm if views.device.type == "cuda" else float(norm), finite)


def drop_unless(finite: Tensor, network: nn.Module) -> None:
    """Zero all gradients of a step that is not finite, without reading whether it is."""
    for weight in network.parameters():
        if weight.grad is not None:
            weight.grad = torch.where(finite, weight.grad, 0.0)


def objective_loss(objective: Objective, projections: Tensor) -> Loss:
    """The objective in its own precision: at least float32, and never under autocast."""
    if projections.dtype not in (torch.float32, torch.float64):
        projections = projections.float()
    with torch.autocast(projections.device.type, enabled=False):
        try:
            loss: Loss = objective(projections)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise DivergenceError(f"the projections are not finite ({error})") from error
    return loss


def gradient_norm(network: nn.Module) -> Tensor:
    """Euclidean norm over all gradients, the same in every process."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm: Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
    return norm


def _diagnosis(network: nn.Module, loss: Loss) -> str:
    original = getattr(network, "module", network)  # names without those of Fabric's wrappers
    bad = [
        name for name, p in original.named_parameters()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]  # fmt: skip
    where = f"the first bad gradient is that of {bad[0]}" if bad else "the gradients are finite"
    return f"the loss is {loss.total.item():g} and {where}"
