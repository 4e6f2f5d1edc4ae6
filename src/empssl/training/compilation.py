"""Views and network as torch.compile makes them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from empssl.views import Policy

Augment = Callable[[Tensor, Tensor, int], Tensor]  # a policy, perhaps compiled


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


def failure(error: Exception) -> str:
    """What to say where compiling failed."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"not compiled, and slower for it: {type(error).__name__}: {first}"
