"""LARS as a loop over parameters."""

from collections.abc import Iterable

import torch
from torch import nn


class LoopLARS(torch.optim.Optimizer):
    """The steps of `optim.lars`, of which it is the plain twin; arguments as there."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        eta: float,
        momentum: float,
        weight_decay: float,
        clip: bool,
        nesterov: bool = True,
    ) -> None:
        super().__init__(
            parameters,
            {"lr": lr, "eta": eta, "momentum": momentum, "weight_decay": weight_decay,
             "clip": clip, "nesterov": nesterov, "peak_lr": lr},
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for weight in group["params"]:
                gradient = weight.grad
                if gradient is None:
                    continue
                if weight.ndim > 1:
                    w, g = weight.norm(), gradient.norm()
                    gradient = gradient + decay * weight
                    if w > 0 and g > 0:
                        trust = group["eta"] * w / (g + decay * w + 1e-8)
                        if group["clip"]:
                            trust = (trust / max(lr, 1e-12)).clamp(max=1)
                        gradient = gradient * trust
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                buffer = state["momentum"].mul_(momentum).add_(gradient)
                move = gradient + momentum * buffer if group["nesterov"] else buffer
                weight.add_(move, alpha=-lr)
