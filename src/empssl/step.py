"""One optimization step: views to projections to loss to gradients to new weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from empssl.engine import Fabric, gather
from empssl.errors import DivergenceError
from empssl.objectives.objective import Loss, Objective
from empssl.shapes import Views


@dataclass(frozen=True)
class StepResult:
    """What one step measured, before its update."""

    loss: Loss
    gradient_norm: float


def training_step(
    fabric: Fabric,
    network: nn.Module,
    objective: Objective,
    optimizers: list[torch.optim.Optimizer],
    views: Views,
) -> StepResult:
    """Take one step on the views that this process holds of the global batch.

    Raises:
        DivergenceError: the loss or a gradient is not finite; no weight has been touched.
    """
    count, batch = views.shape[:2]
    images = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    projections = network(images).unflatten(0, (count, batch))
    loss = objective_loss(objective, gather(fabric, projections))
    fabric.backward(loss.total)
    norm = gradient_norm(network)
    if not (torch.isfinite(loss.total) and torch.isfinite(norm)):
        raise DivergenceError(_diagnosis(network, loss))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, float(norm))


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
