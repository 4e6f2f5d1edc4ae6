"""What a training step costs, counted from the operations it runs.

Counted are the products of matrices, convolutions and matrix factorizations of the whole step, a
multiplication and an addition as 2: the network forward and backward, the EMA network's
forward pass, the objective (its predictor, prototypes, queue and Gram matrices among it) forward
and backward, and the optimizer. Left out are elementwise operations, drawing the views, the
measures of collapse, and what a memory plan computes twice to save memory.

torch's counter knows no factorizations. Here they cost, of an n x n or m x n matrix with m >= n
(Golub and Van Loan, Matrix Computations; Trefethen and Bau, Numerical Linear Algebra), times the
matrices of a stack:

    Cholesky                       n^3 / 3
    inverse, of a Cholesky factor  2 n^3 / 3
    triangular solve               n^2 for each right-hand side
    symmetric eigenvalues          4 n^3 / 3, with eigenvectors 9 n^3
    singular values                4 m n^2 - 4 n^3 / 3, with both bases 6 m n^2 + 20 n^3
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from empssl.config import Spec
from empssl.errors import EmpsslError, UsageError
from empssl.objectives.base import Objective
from empssl.optim import build_optimizers

Shape = Sequence[int]


@dataclass(frozen=True)
class StepFlops:
    """FLOP of a training step, by who takes them.

    Attributes:
        network: forward and backward of the views that train.
        target: forward of the views that the momentum target projects.
        objective: forward and backward.
        optimizer: Muon's orthogonalization; the other optimizers multiply no matrices.
        views: of the step, patches times batch.
    """

    network: float
    target: float
    objective: float
    optimizer: float
    views: int

    @property
    def total(self) -> float:
        return self.network + self.target + self.objective + self.optimizer

    @property
    def per_view(self) -> float:
        return self.total / self.views


def step_flops(
    network: nn.Module, objective: Objective, patches: int, side: int, batch: int, optimizer: Spec
) -> StepFlops:
    """FLOP of a step; nothing is computed, and network and objective stay as they are.

    Args:
        network: that trains.
        objective: what the step lowers.
        patches: views of an image.
        side: of a view, in pixels.
        batch: images of a step, of all processes together.
        optimizer: its spec.

    Raises:
        UsageError: the network cannot take such views, or the objective such a batch.
    """
    views = range(patches)
    trained, aimed = views[objective.weak_views :], views[: objective.target_views]
    try:
        each, dim = _training(network, side)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"this backbone cannot take views of {side} pixels ({first}); choose the side that it "
            "needs with --views.side, or another backbone"
        ) from error
    of_target = 0.0
    if objective.target == "momentum":
        of_target = len(aimed) * batch * projecting_flops(network, side)
    return StepFlops(
        len(trained) * batch * each, of_target,
        objective_flops(objective, views=len(trained), batch=batch, dim=dim, targets=len(aimed)),
        optimizer_flops(nn.ModuleList([network, objective]), optimizer),
        patches * batch,
    )  # fmt: skip


def flops_per_view(
    network: nn.Module, objective: Objective, patches: int, side: int, batch: int, optimizer: Spec
) -> float:
    """FLOP of a step by the number of its views; arguments and errors as `step_flops`."""
    return step_flops(network, objective, patches, side, batch, optimizer).per_view


def training_flops(network: nn.Module, side: int) -> float:
    """FLOP of the network alone, forward and backward, per view of `side` pixels."""
    return _training(network, side)[0]


def projecting_flops(network: nn.Module, side: int) -> float:
    """FLOP of the network's forward pass alone, per view of `side` pixels."""

    def forward(device: str) -> None:
        twin, views = _twin(network, side, device)
        with torch.no_grad():
            twin(views)

    return _count(forward) / 2


def objective_flops(
    objective: Objective, *, views: int, batch: int, dim: int, targets: int
) -> float:
    """FLOP of an objective in a step, forward and backward.

    Args:
        objective: counted.
        views: whose projections it sees.
        batch: images.
        dim: coordinates of a projection.
        targets: views that it is given targets of, if it asks for some.
    """

    def step(device: str) -> None:
        twin = copy.deepcopy(objective).to(device)
        projections = torch.randn(views, batch, dim, device=device, requires_grad=True)
        given: dict[str, Tensor] = {}
        if objective.target is not None:
            given["targets"] = torch.randn(targets, batch, dim, device=device)
        if objective.needs_labels:
            given["labels"] = torch.zeros(batch, dtype=torch.long, device=device)
        twin(projections, **given).total.backward()

    return _count(step)


def optimizer_flops(trained: nn.Module, spec: Spec) -> float:
    """FLOP of one update of all parameters."""

    def update(device: str) -> None:
        twin = copy.deepcopy(trained).to(device)
        for weight in twin.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        for optimizer in build_optimizers(twin, spec):
            optimizer.step()

    return _count(update)


def _count(work: Callable[[str], None]) -> float:
    """FLOP of work on a device, which is `meta`, where nothing is computed.

    What others have written may need numbers, or make tensors on the CPU: then it is done there.
    """
    try:
        with counter() as counted:
            work("meta")
    except EmpsslError:
        raise
    except Exception:
        with torch.random.fork_rng(devices=[]), counter() as counted:
            work("cpu")
    return float(counted.get_total_flops())


def counter() -> FlopCounterMode:
    """Torch's counter, which prints nothing and knows factorizations too."""
    return FlopCounterMode(display=False, custom_mapping=FACTORIZATIONS)


def _cholesky(gram: Shape, *_: Any, **__: Any) -> float:
    return math.prod(gram) * gram[-1] / 3


def _inverse(factor: Shape, *_: Any, **__: Any) -> float:
    return math.prod(factor) * factor[-1] * 2 / 3


def _solve(factor: Shape, _: Shape, *, out_shape: Shape, **__: Any) -> float:
    return float(math.prod(out_shape) * factor[-1])


def _eigh(matrix: Shape, _: str = "L", vectors: bool = True, **__: Any) -> float:
    return math.prod(matrix) * matrix[-1] * (9.0 if vectors else 4 / 3)


def _svd(matrix: Shape, _: bool = False, vectors: bool = True, **__: Any) -> float:
    n, m = sorted(matrix[-2:])
    each = 6 * m * n**2 + 20 * n**3 if vectors else 4 * m * n**2 - 4 * n**3 / 3
    return float(math.prod(matrix[:-2]) * each)


FACTORIZATIONS: dict[Any, Callable[..., float]] = {
    torch.ops.aten.linalg_cholesky_ex: _cholesky,
    torch.ops.aten.cholesky_inverse: _inverse,
    torch.ops.aten.linalg_solve_triangular: _solve,
    torch.ops.aten._linalg_eigh: _eigh,
    torch.ops.aten._linalg_svd: _svd,
}


def _training(network: nn.Module, side: int) -> tuple[float, int]:
    """FLOP of forward and backward per view, and the coordinates of a projection."""
    dim = 0

    def forward_and_backward(device: str) -> None:
        nonlocal dim
        twin, views = _twin(network, side, device)
        projections = twin(views)
        projections.sum().backward()
        dim = projections.shape[-1]

    return _count(forward_and_backward) / 2, dim


def _twin(network: nn.Module, side: int, device: str) -> tuple[nn.Module, Tensor]:
    """A copy of the network, and two views; on `meta` without weights and pixels."""
    twin = copy.deepcopy(network).to(device).train()
    return twin, torch.zeros(2, 3, side, side, device=device)
