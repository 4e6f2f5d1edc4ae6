"""The EMA network: a slow copy of the network, whose projections the network learns to predict."""

import copy
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from empssl.models.network import Network
from empssl.types import Targets, Views


class EMANetwork(nn.Module):
    """A copy of backbone and projector that follows the network's weights, without gradients.

    It projects in train mode, as BYOL's does: its BatchNorms take the statistics of what they see,
    over all processes where the network's do. Their running statistics follow from that alone and
    are not mixed with the network's; nothing reads them. It projects all at once, whatever the
    step's memory: without gradients only one layer's activations are held.

    Args:
        network: to be followed; as it is, the copy begins.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = Network(copy.deepcopy(network.backbone), copy.deepcopy(network.projector))
        self.network.requires_grad_(False).train()

    @torch.no_grad()
    def project(self, views: Views, autocast: AbstractContextManager[object]) -> Targets:
        """Projections of this process's views: (target, batch, dim)."""
        images = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with autocast:
            projections: Tensor = self.network(images)
        unflattened: Tensor = projections.unflatten(0, views.shape[:2])
        return unflattened

    @torch.no_grad()
    def update(self, network: Network, momentum: float) -> None:
        """Move each weight to momentum * itself + (1 - momentum) * the network's."""
        followed: list[Tensor] = [*network.backbone.parameters(), *network.projector.parameters()]
        own: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(own, followed, 1 - momentum)
