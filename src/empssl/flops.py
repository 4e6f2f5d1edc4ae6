"""What a network costs, counted from the operations it runs."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from empssl.errors import UsageError
from empssl.objectives.objective import Objective


def training_flops(network: nn.Module, side: int) -> float:
    """FLOP of forward and backward per view of `side` pixels (a multiplication and addition is 2).

    Matrix products and convolutions only, as in the paper's accounting; nothing is computed.
    """
    twin, views = _on_paper(network, side)
    with FlopCounterMode(display=False) as counter:
        twin(views).sum().backward()
    return float(counter.get_total_flops()) / 2


def projecting_flops(network: nn.Module, side: int) -> float:
    """FLOP of the forward pass alone, counted as above."""
    twin, views = _on_paper(network, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(views)
    return float(counter.get_total_flops()) / 2


def flops_per_view(network: nn.Module, objective: Objective, patches: int, side: int) -> float:
    """FLOP of a step by the number of its views: some train, some are projected to be a target.

    Args:
        network: that trains.
        objective: what the step lowers.
        patches: views of an image.
        side: of a view, in pixels.

    Raises:
        UsageError: the network cannot take such views.
    """
    views = range(patches)
    try:
        flops = len(views[objective.weak_views :]) * training_flops(network, side)
    except (AssertionError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"this backbone cannot take views of {side} pixels ({first}); choose the side that it "
            "needs with --views.side, or another backbone"
        ) from error
    if objective.target == "momentum":
        flops += len(views[: objective.target_views]) * projecting_flops(network, side)
    return flops / len(views)


def _on_paper(network: nn.Module, side: int) -> tuple[nn.Module, Tensor]:
    """The network without its weights, and two views without pixels."""
    twin = copy.deepcopy(network).to("meta").train()
    return twin, torch.empty(2, 3, side, side, device="meta")
