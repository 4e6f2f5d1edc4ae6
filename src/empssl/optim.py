"""Optimizers, their state in a checkpoint, and learning-rate schedules."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from empssl.config import ObjectSpec, Spec, Table, build
from empssl.errors import UsageError

Schedule = Callable[[float], float]
Groups = list[dict[str, Any]]
_NEWTON_SCHULZ = 5  # steps


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017) around momentum.

    A matrix or filter bank w with gradient g takes steps of a length relative to its own:

        trust = eta ||w|| / (||g|| + weight_decay ||w||),    g <- (g + weight_decay w) * trust
        LARS            w moves by lr * trust * ...
        LARS, clipped   w moves by min(trust, lr) * ...

    Without clipping the schedule always acts. With it (the authors' code) `lr` is only a cap, and
    while trust is below it neither lr nor the schedule has any effect on that layer. A weight of
    norm zero takes the plain step, lest it stay zero for ever; so does one of gradient zero, which
    decays by lr * weight_decay and, in the authors' code and solo-learn's, stays.

    Args:
        groups: parameter groups; `adapt: False` marks those that take plain steps.
        lr: peak learning rate.
        eta: trust coefficient.
        momentum: share of the last move that is kept.
        weight_decay: of the adapted groups.
        clip: cap the trust ratio at lr instead of multiplying by it.
        nesterov: move by the gradient and the momentum that it leads to, as the authors' code
            does, and not by that momentum alone, as solo-learn does.

    Attributes:
        clip_fraction: with `clip`, the share of the adapted weights whose last step lr capped; on
            the weights' device, because to read it is to wait for it.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        lr: float = 0.3,
        eta: float = 0.005,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        clip: bool = False,
        nesterov: bool = True,
    ) -> None:
        for name, value in {"lr": lr, "eta": eta, "momentum": momentum,
                            "weight_decay": weight_decay}.items():  # fmt: skip
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        super().__init__(
            groups,
            {"lr": lr, "eta": eta, "momentum": momentum, "weight_decay": weight_decay,
             "clip": clip, "nesterov": nesterov, "adapt": True},
        )  # fmt: skip
        self.clip_fraction: Tensor | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a checkpoint from before there was a choice
            group.setdefault("nesterov", True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        capped = []
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients: list[Tensor] = [p.grad for p in weights if p.grad is not None]
            lr, momentum = group["lr"], group["momentum"]
            if group["adapt"]:
                scales = self._scales(weights, gradients, group)
                if group["clip"]:
                    capped.append(scales == 1)
                decay = group["weight_decay"]
                gradients = list(torch._foreach_add(gradients, weights, alpha=decay))
                torch._foreach_mul_(gradients, list(scales.unbind()))
            buffers = [self._momentum(p) for p in weights]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            moves = buffers
            if group["nesterov"]:
                moves = list(torch._foreach_add(gradients, buffers, alpha=momentum))
            torch._foreach_add_(weights, moves, alpha=-lr)
        if capped:
            self.clip_fraction = torch.cat(capped).float().mean()

    @staticmethod
    def _scales(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> Tensor:
        """What multiplies each decayed gradient before momentum and lr: (weight,)."""
        w = torch.stack(torch._foreach_norm(weights))
        g = torch.stack(torch._foreach_norm(gradients))
        trust = group["eta"] * w / (g + group["weight_decay"] * w + 1e-8)
        if group["clip"]:
            trust = (trust / max(group["lr"], 1e-12)).clamp(max=1)
        return torch.where((w > 0) & (g > 0), trust, 1.0)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        buffer: Tensor = state["momentum"]
        return buffer


def lars(
    network: nn.Module,
    *,
    lr: float = 0.3,
    eta: float = 0.005,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    clip: bool = False,
    nesterov: bool = True,
) -> list[torch.optim.Optimizer]:
    """LARS on weights; plain momentum on biases and normalization."""
    return [
        _lars(network.parameters(), lr=lr, eta=eta, momentum=momentum, weight_decay=weight_decay,
              clip=clip, nesterov=nesterov)
    ]  # fmt: skip


def _lars(parameters: Iterable[nn.Parameter], **options: Any) -> LARS:
    matrices, vectors = split(parameters)
    groups: Groups = [
        {"params": matrices},
        {"params": vectors, "adapt": False, "weight_decay": 0.0},
    ]
    return LARS(groups, **options)


def sgd(
    network: nn.Module,
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    decay_vectors: bool = False,
) -> list[torch.optim.Optimizer]:
    """SGD with momentum as torch has it.

    Biases and normalization decay with `decay_vectors` only.
    """
    matrices, vectors = split(network.parameters())
    of_vectors = weight_decay if decay_vectors else 0.0
    groups: Groups = [{"params": matrices}, {"params": vectors, "weight_decay": of_vectors}]
    return [torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)]


def adamw(
    network: nn.Module,
    *,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 0.01,
) -> list[torch.optim.Optimizer]:
    """AdamW as torch has it; no decay on biases and normalization."""
    if len(betas) != 2:
        raise ValueError(f"betas are {list(betas)}, expected two numbers")
    matrices, vectors = split(network.parameters())
    groups: Groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.AdamW(
            groups, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay,
            fused=_fused(matrices),
        )
    ]  # fmt: skip


def _fused(weights: list[nn.Parameter]) -> bool | None:
    """One kernel for all weights on a GPU; elsewhere what torch chooses itself."""
    return True if weights and weights[0].device.type == "cuda" else None


def muon(
    network: nn.Module,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    vector_lr: float = 1e-3,
) -> list[torch.optim.Optimizer]:
    """Muon on weights, each filter bank as one matrix; AdamW on the rest."""
    matrices, vectors = split(network.parameters())
    return [
        Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay),
        torch.optim.AdamW(vectors, lr=vector_lr, weight_decay=0.0, fused=_fused(vectors)),
    ]


def muon_lars(
    network: nn.Module,
    *,
    lr: float = 0.3,
    eta: float = 0.005,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    clip: bool = True,
    muon_lr: float = 0.02,
    muon_momentum: float = 0.95,
    muon_weight_decay: float = 0.01,
) -> list[torch.optim.Optimizer]:
    """Muon on filter banks, each as one matrix; LARS, as in `lars`, on everything else.

    Muon orthogonalizes each matrix, which for the wide ones of a projector costs more than a small
    network's gradient, and for those of convolutions little.

    Raises:
        UsageError: the network has no filter banks.
    """
    banks = [p for p in network.parameters() if p.requires_grad and p.ndim == 4]
    rest = [p for p in network.parameters() if p.requires_grad and p.ndim < 4]
    if not banks:
        raise UsageError(
            "the network has no filter banks for Muon; choose the optimizer lars or muon"
        )
    return [
        _lars(rest, lr=lr, eta=eta, momentum=momentum, weight_decay=weight_decay, clip=clip),
        Muon(banks, lr=muon_lr, momentum=muon_momentum, weight_decay=muon_weight_decay),
    ]


class Muon(torch.optim.Optimizer):
    """Momentum with every matrix orthogonalized (Jordan et al., 2024), each bank as one matrix.

    With momentum M, which follows the gradient G as M <- momentum M + (1 - momentum) G,

        w moves by lr * 0.2 sqrt(max(rows, columns)) * orthogonalized((1 - momentum) G + momentum M)

    after a decay by lr * weight_decay. torch.optim.Muon is the same in bfloat16, which takes
    nine tenths of a small network's step on processors that do not multiply it.

    Args:
        weights: of two axes or more.
        lr: learning rate.
        momentum: share of the last momentum that is kept.
        weight_decay: of all weights.
    """

    def __init__(
        self, weights: list[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient, matrix = _as_matrix(weight.grad, weight), _as_matrix(weight.data, weight)
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                move = orthogonalized(gradient.lerp(buffer, momentum))
                matrix.mul_(1 - lr * group["weight_decay"])
                matrix.add_(move, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonalized(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """U S V^T with the singular vectors of `matrix`, and singular values of about 0.7 to 1.2.

    Five Newton-Schulz steps X <- (a I + b X X^T + c (X X^T)^2) X from X = matrix / ||matrix||. All
    factors are polynomials of the first X X^T, so it is that which is iterated, and the long side
    is multiplied twice in place of ten times. Singular values below 1e-3 of ||matrix|| stay small.
    """
    x = matrix if matrix.dtype == torch.float64 else matrix.float()
    x = x.T if len(x) > x.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    gram = x @ x.T
    product = factor = _factor(gram)
    for _ in range(_NEWTON_SCHULZ - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    x = product @ x
    found: Tensor = x.T if len(matrix) > matrix.shape[1] else x
    return found.to(matrix.dtype)


def _factor(gram: Float[Tensor, "row row"]) -> Float[Tensor, "row row"]:
    """One step: a I + b G + c G^2 with Jordan's coefficients, steep at 0."""
    a, b, c = 3.4445, -4.7750, 2.0315
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor


def _as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """One row a filter, its columns in the order in which `weight` stores its filters.

    So the matrix of the weight itself shares its memory, channels last or not.
    """
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.flatten(1)


def split(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of two axes or more; biases and normalization."""
    every = [p for p in parameters if p.requires_grad]
    return [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]


OPTIMIZERS: Table = {
    "lars": lars, "adamw": adamw, "muon": muon, "muon_lars": muon_lars, "sgd": sgd
}  # fmt: skip


def cosine(*, steps: int, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """From 1 to `final` along half a cosine.

    Args:
        steps: of the whole run.
        warmup: share of the steps in which the factor first rises linearly from 0.
        final: the factor after the last step.
    """
    return _schedule(steps, warmup, final, lambda t: (1 + math.cos(math.pi * t)) / 2)


def linear(*, steps: int, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """From 1 to `final` along a line; arguments as `cosine`."""
    return _schedule(steps, warmup, final, lambda t: 1 - t)


def _schedule(steps: int, warmup: float, final: float, shape: Callable[[float], float]) -> Schedule:
    """From 1 to `final` as `shape` goes from 1 to 0 over the share of the steps that is done."""
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is {warmup}, expected a share of the steps, below 1")
    if not 0 <= final <= 1:
        raise ValueError(f"final is {final}, expected a share of the peak")
    rise = min(round(warmup * steps), steps - 1)

    def factor(step: int | float) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        # Stays at the end: a cosine left running would climb back to its peak.
        return final + (1 - final) * shape(min(1.0, (step - rise) / (steps - rise)))

    return factor


SCHEDULES: Table = {"cosine": cosine, "linear": linear}


def build_optimizers(network: nn.Module, spec: Spec) -> list[torch.optim.Optimizer]:
    """The optimizers a spec names, each over its share of the network's parameters.

    Raises:
        UsageError: an unknown name or option, or a callable that makes no optimizer of parameters.
    """
    optimizers: list[torch.optim.Optimizer]
    if isinstance(spec, ObjectSpec):
        optimizers = [_made_by(spec.made, [p for p in network.parameters() if p.requires_grad])]
    else:
        optimizers = build(OPTIMIZERS, spec, network=network)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _made_by(factory: Callable[..., Any], weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that a program's own function makes of the parameters that are trained."""
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    try:
        made = factory(weights)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the optimizer {name} cannot be made of the network's parameters: {error}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(
            f"the optimizer {name} gives {type(made).__name__} when called with parameters, "
            "expected a torch.optim.Optimizer"
        )
    return made


def set_lr(optimizers: list[torch.optim.Optimizer], factor: float) -> float:
    """Set every group to `factor` of its peak; returns the first group's rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak_lr"]
    return float(optimizers[0].param_groups[0]["lr"])


def flatten_state(state: dict[str, Any], index: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer's state as JSON and named tensors, as a checkpoint holds it."""
    tensors, rest = {}, {}
    for key, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}.{name}"] = value
            else:
                rest[f"{key}.{name}"] = value
    return {"param_groups": state["param_groups"], "scalars": rest}, tensors


def unflatten_state(
    state: dict[str, Any], tensors: dict[str, Tensor], index: int
) -> dict[str, Any]:
    """The reverse of `flatten_state`."""
    full: dict[int, dict[str, Any]] = {}
    named = {tuple(k.split(".", 1)): v for k, v in state["scalars"].items()}
    for key, value in tensors.items():
        owner, parameter, name = key.split(".", 2)
        if int(owner) == index:
            named[parameter, name] = value
    for (parameter, name), value in named.items():
        full.setdefault(int(parameter), {})[name] = value
    return {"state": full, "param_groups": state["param_groups"]}


def lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Lay state out in memory as its weights are: a mix slows the step of an optimizer by a third.

    Files do not know of channels last.
    """
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
