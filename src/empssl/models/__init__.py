"""Backbones and projectors by name, and the network they make together."""

from empssl.models import projector as heads
from empssl.models.network import LAYERS, Layer, Network
from empssl.models.resnet import resnet10, resnet18, resnet34, resnet50
from empssl.models.timm_backbone import TimmBackbone
from empssl.spec import Spec, Table, build

BACKBONES: Table = {
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "timm": TimmBackbone,
}
PROJECTORS: Table = {"paper": heads.paper, "official": heads.official}

__all__ = ["BACKBONES", "LAYERS", "PROJECTORS", "Layer", "Network", "build_network"]


def build_network(backbone: Spec, projector: Spec) -> Network:
    """An untrained network; its weights are drawn from torch's global generator."""
    body = build(BACKBONES, backbone)
    return Network(body, build(PROJECTORS, projector, feature=body.dim))
