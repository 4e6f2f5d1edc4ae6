"""BatchNorm folded into the layer before it: the same embeddings with less to compute."""

import copy
from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from empssl.models.network import Network


def folded(network: Network) -> Network:
    """A copy of the network, in eval mode, without the BatchNorms that follow a linear map.

    In eval mode BatchNorm multiplies and shifts each channel by constants, so the convolution or
    linear layer before it can do both. The order of layers is known of `nn.Sequential`, and of
    modules that tell it as `norm_after`: a mapping from names of children to those of their norms.
    Elsewhere (in timm's models) BatchNorm stays as it is.

    Raises:
        ValueError: the network is in training mode.
    """
    if network.training:
        raise ValueError("the network is in training mode, where BatchNorm is no fixed map")
    copied = copy.deepcopy(network)
    for module in list(copied.modules()):
        for first, second in _successive(module):
            layer, norm = getattr(module, first), getattr(module, second)
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(layer, norm))
            elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                setattr(module, first, fuse_linear_bn_eval(layer, norm))
            else:
                continue
            setattr(module, second, nn.Identity())
    return copied


def _successive(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of children of which the second gets the output of the first, and nobody else."""
    names = [name for name, _ in module.named_children()]
    if type(module) is nn.Sequential:
        yield from pairwise(names)
    elif isinstance(pairs := getattr(module, "norm_after", None), dict):
        yield from pairs.items()
