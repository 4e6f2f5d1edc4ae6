"""A trained encoder as a part of other networks: differentiable, and open to fine-tuning."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from empssl.errors import UsageError
from empssl.models import Layer, Network
from empssl.models.network import INNER_LAYERS
from empssl.types import Embeddings
from empssl.views import Policy

PixelsOrShares = UInt8[Tensor, "sample 3 height width"] | Float[Tensor, "sample 3 height width"]


class EncoderModule(nn.Module):
    """Images to their embeddings at one layer, with gradients.

    It has the network's own parameters, not copies, and of these only the ones that lead to the
    layer. Each image is embedded whole, as `Encoder.encode(crops="whole")` does; it is neither
    scaled nor cropped.

    Args:
        network: whose parts these are.
        policy: how colors are normalized.
        layer: where the embedding is taken; any but `joint`, which no gradients go through.

    Raises:
        UsageError: the network has no such layer.
    """

    def __init__(self, network: Network, policy: Policy, layer: Layer = "backbone") -> None:
        super().__init__()
        known = [name for name in network.every_layer if name != "joint"]
        if layer not in known:
            raise UsageError(f"no layer '{layer}' of a module, choose from: {', '.join(known)}")
        self.layer = layer
        self.feature = network.width(layer)
        self.augmentation = policy.augmentation
        self.backbone = network.backbone
        self.head = network.projector.block if layer in ("head", "projection") else None
        self.out = network.projector.out if layer == "projection" else None

    def forward(self, images: PixelsOrShares) -> Embeddings:
        """The embeddings, (sample, feature), on the images' device.

        Args:
            images: RGB, uint8, or floats from 0 to 1.

        Raises:
            UsageError: they are something else.
        """
        views = self.augmentation.normalize(self._shares(images))
        if self.layer in INNER_LAYERS:
            inner: Tensor = self.backbone.pooled(views)[INNER_LAYERS.index(self.layer)]  # type: ignore[operator]
            return inner
        embedding: Tensor = self.backbone(views)
        for part in (self.head, self.out):
            embedding = embedding if part is None else part(embedding)
        return embedding

    def _shares(self, images: Tensor) -> Tensor:
        """A copy of the images as floats from 0 to 1."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise UsageError(f"images are {tuple(images.shape)}, expected (n, 3, height, width)")
        kind = next((p.dtype for p in self.parameters()), torch.float32)
        if images.dtype == torch.uint8:
            return images.to(kind).div_(255)
        if not images.is_floating_point():
            raise UsageError(f"images are {images.dtype}, expected uint8, or floats from 0 to 1")
        if images.numel() and not torch.compiler.is_compiling():
            low, high = images.detach().aminmax()
            if not (low >= 0 and high <= 1):
                raise UsageError(
                    f"images are from {float(low):g} to {float(high):g}, expected floats from 0 to "
                    "1, or uint8; colors are normalized here"
                )
        return images.to(kind, copy=True)
