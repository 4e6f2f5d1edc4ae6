"""Backbone and projector together: the paper's F, and the layers that probes see."""

from typing import Literal

from torch import Tensor, nn

from empssl.models.projector import Projector
from empssl.shapes import Embeddings

Layer = Literal["backbone", "head"]
LAYERS: tuple[Layer, ...] = ("backbone", "head")


class Network(nn.Module):
    """A backbone f and a projector g: views to projections.

    Args:
        backbone: images to embeddings of `backbone.dim` coordinates.
        projector: embeddings to projections.
    """

    def __init__(self, backbone: nn.Module, projector: Projector) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        projection: Tensor = self.projector(self.backbone(images))
        return projection

    def embed(self, images: Tensor) -> dict[Layer, Embeddings]:
        """The embedding at each layer, from one pass.

        `backbone` is the backbone's output, which the paper's text probes; `head` is the
        projector's first block, which the authors' code probes.
        """
        backbone = self.backbone(images)
        return {"backbone": backbone, "head": self.projector.block(backbone)}

    def width(self, layer: Layer) -> int:
        """Coordinates of the embedding at a layer."""
        if layer == "head":
            return self.projector.feature
        width: int = self.backbone.dim  # type: ignore[assignment]
        return width
