"""Backbones and projectors by name, and the network they make together."""

from empssl.config import ObjectSpec, Spec, Table, build
from empssl.models import projector as heads
from empssl.models.module_backbone import ModuleBackbone
from empssl.models.network import LAYERS, VIEW_LAYERS, EmbeddingPart, Layer, Network
from empssl.models.resnet import ResNet, resnet10, resnet18, resnet34, resnet50
from empssl.models.timm import TimmBackbone
from empssl.models.whitened_patches import MirroredPatches, PatchFeatures, WhitenedPatches

BACKBONES: Table = {
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "timm": TimmBackbone,
}
PROJECTORS: Table = {"paper": heads.paper, "official": heads.official}
WHITENED_PATCHES: Table = {"plain": WhitenedPatches, "mirrored": MirroredPatches}

__all__ = [
    "BACKBONES", "LAYERS", "PROJECTORS", "VIEW_LAYERS", "WHITENED_PATCHES", "EmbeddingPart",
    "Layer", "MirroredPatches", "ModuleBackbone", "Network", "PatchFeatures", "ResNet",
    "TimmBackbone", "WhitenedPatches", "build_network", "build_patches", "resnet10", "resnet18",
    "resnet34", "resnet50",
]  # fmt: skip


def build_network(
    backbone: Spec, projector: Spec, whitened: Spec | int = 0, *, side: int | None = None
) -> Network:
    """An untrained network; its weights are drawn from torch's global generator.

    Args:
        backbone: views to embeddings.
        projector: embeddings to projections.
        whitened: the whitened patches in the joint embedding; see `build_patches`.
        side: pixels of a view, by which the feature size of a module is found that was given.
    """
    body = build(BACKBONES, backbone)
    if isinstance(backbone, ObjectSpec):
        body = ModuleBackbone(body, side)
    head = build(PROJECTORS, projector, feature=body.dim)
    return Network(body, head, build_patches(whitened))


def build_patches(whitened: Spec | int) -> PatchFeatures | None:
    """Whitened patches that are not fitted yet; None for 0.

    Args:
        whitened: a spec, or a number of features of `plain` ones, as every run had until there were
            others.
    """
    if isinstance(whitened, int):
        return WhitenedPatches(whitened) if whitened else None
    made: PatchFeatures = build(WHITENED_PATCHES, whitened)
    return made
