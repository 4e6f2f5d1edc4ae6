"""Backbone and projector together: the paper's F, and the layers that probes see."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from empssl.models.projector import Projector
from empssl.models.whitened_patches import MirroredPatches, PatchFeatures
from empssl.types import Embeddings

Layer = Literal[
    "stem", "stage1", "stage2", "stage3", "backbone", "head", "projection", "joint"
]  # fmt: skip
INNER_LAYERS: tuple[Layer, ...] = ("stem", "stage1", "stage2", "stage3")
VIEW_LAYERS: tuple[Layer, ...] = ("backbone", "head")  # what a single view has
LAYERS: tuple[Layer, ...] = (*VIEW_LAYERS, "joint")  # probed unless others are asked for


# What a network's layers weigh beside mirrored patches, which are twenty times as many.
_WEIGHT_BESIDE_PATCHES = 1.5


@dataclass(frozen=True)
class EmbeddingPart:
    """Neighboring coordinates of an embedding, and what they weigh in a probe.

    Attributes:
        name: of a layer, or `whitened`.
        width: how many they are.
        weight: of each, after it was brought to variance 1; that of others is 1.
    """

    name: str
    width: int
    weight: float


class Network(nn.Module):
    """A backbone f and a projector g: views to projections.

    Args:
        backbone: images to embeddings of `backbone.dim` coordinates. One with a method `pooled`,
            the means over positions after the stem and each stage, and `widths`, the coordinates of
            each, can be probed inside.
        projector: embeddings to projections.
        whitened: features of the whole image that stand beside the others in the `joint` embedding.
    """

    def __init__(
        self, backbone: nn.Module, projector: Projector, whitened: PatchFeatures | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.whitened = whitened

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Where this network is probed unless it is told."""
        return VIEW_LAYERS if self.whitened is None else LAYERS

    @property
    def every_layer(self) -> tuple[Layer, ...]:
        """Where it can be probed, from its input to its output; of timm's, the stages are unknown.

        The last stage is the backbone.
        """
        inner = INNER_LAYERS[: len(self._inner_widths)]
        return (*inner, *VIEW_LAYERS, "projection", *self.layers[len(VIEW_LAYERS) :])

    @property
    def _inner_widths(self) -> tuple[int, ...]:
        """Of the stem and each stage but the last, of a backbone that tells them."""
        widths: tuple[int, ...] = getattr(self.backbone, "widths", ())
        return widths[:-1] if hasattr(self.backbone, "pooled") else ()

    def forward(self, images: Tensor) -> Tensor:
        projection: Tensor = self.projector(self.backbone(images))
        return projection

    def embed(
        self, images: Tensor, layers: Sequence[Layer] = VIEW_LAYERS
    ) -> dict[Layer, Embeddings]:
        """The embedding of views at layers of each view, and at `VIEW_LAYERS`, from one pass.

        `stem` to `stage3` are means over positions inside the backbone; `backbone` is its output,
        which the paper's text probes; `head` is the projector's first block, which the authors'
        code probes; `projection` is what the objective sees.
        """
        found: dict[Layer, Embeddings] = {}
        if any(layer in INNER_LAYERS for layer in layers):
            *inner, backbone = self.backbone.pooled(images)  # type: ignore[operator]
            found |= zip(INNER_LAYERS, inner, strict=False)
        else:
            backbone = self.backbone(images)
        found |= {"backbone": backbone, "head": self.projector.block(backbone)}
        if "projection" in layers:
            found["projection"] = self.projector.out(found["head"])
        return found

    def parts(self, layer: Layer) -> tuple[EmbeddingPart, ...]:
        """What an embedding is made of whose parts a probe weighs differently; else nothing."""
        if layer != "joint" or not isinstance(self.whitened, MirroredPatches):
            return ()
        own = [
            EmbeddingPart(name, self.width(name), _WEIGHT_BESIDE_PATCHES) for name in VIEW_LAYERS
        ]
        return (*own, EmbeddingPart("whitened", self.whitened.num_features, 1.0))

    def width(self, layer: Layer) -> int:
        """Coordinates of the embedding at a layer."""
        if layer == "joint":
            extra = 0 if self.whitened is None else self.whitened.num_features
            return self.width("backbone") + self.width("head") + extra
        if layer == "head":
            return self.projector.feature
        if layer == "projection":
            return self.projector.dim
        if layer in INNER_LAYERS:
            return self._inner_widths[INNER_LAYERS.index(layer)]
        width: int = self.backbone.dim  # type: ignore[assignment]
        return width
