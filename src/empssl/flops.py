"""What a network costs, counted from the operations it runs."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training_flops(network: nn.Module, side: int) -> float:
    """FLOP of forward and backward per view of `side` pixels (a multiplication and addition is 2).

    Matrix products and convolutions only, as in the paper's accounting; nothing is computed.
    """
    twin = copy.deepcopy(network).to("meta").train()
    views = torch.empty(2, 3, side, side, device="meta")
    with FlopCounterMode(display=False) as counter:
        twin(views).sum().backward()
    return float(counter.get_total_flops()) / 2
