"""Backbone and projector together: the paper's F, and the layers that probes see."""

from typing import Literal

from torch import Tensor, nn

from empssl.models.projector import Projector
from empssl.models.whitened_patches import WhitenedPatches
from empssl.shapes import Embeddings

Layer = Literal["backbone", "head", "joint"]
VIEW_LAYERS: tuple[Layer, ...] = ("backbone", "head")  # what a single view has
LAYERS: tuple[Layer, ...] = (*VIEW_LAYERS, "joint")


class Network(nn.Module):
    """A backbone f and a projector g: views to projections.

    Args:
        backbone: images to embeddings of `backbone.dim` coordinates.
        projector: embeddings to projections.
        whitened: features of the whole image that stand beside the others in the `joint` embedding.
    """

    def __init__(
        self, backbone: nn.Module, projector: Projector, whitened: WhitenedPatches | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.whitened = whitened

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Where this network can be probed."""
        return VIEW_LAYERS if self.whitened is None else LAYERS

    def forward(self, images: Tensor) -> Tensor:
        projection: Tensor = self.projector(self.backbone(images))
        return projection

    def embed(self, images: Tensor) -> dict[Layer, Embeddings]:
        """The embedding of views at each layer but `joint`, from one pass.

        `backbone` is the backbone's output, which the paper's text probes; `head` is the
        projector's first block, which the authors' code probes.
        """
        backbone = self.backbone(images)
        return {"backbone": backbone, "head": self.projector.block(backbone)}

    def width(self, layer: Layer) -> int:
        """Coordinates of the embedding at a layer."""
        if layer == "joint":
            extra = 0 if self.whitened is None else self.whitened.num_features
            return self.width("backbone") + self.width("head") + extra
        if layer == "head":
            return self.projector.feature
        width: int = self.backbone.dim  # type: ignore[assignment]
        return width
