"""A trained encoder: images in, embeddings out."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from empssl import checkpoint
from empssl.bag import Crops, embed_bags, embed_growing_bags
from empssl.checkpoint import Checkpoint
from empssl.data.decode import PILLOW_ERRORS, UndecodableError, decode, upright
from empssl.data.square import square
from empssl.engine import keep_freed_memory, resolve_device
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.models import Layer, Network, build_network
from empssl.models.folding import folded
from empssl.run import Run
from empssl.shapes import Embeddings, Images
from empssl.spec import build
from empssl.views import POLICIES, Policy

_MOST_PIXELS = 2**28  # of images at once; 512 of 724 pixels a side
WHITENED = "whitened."  # what the names of its tensors begin with
ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Encoder:
    """A network and the way its patches are cut: everything that an embedding depends on.

    Attributes:
        network: in eval mode, without gradients. It is copied when the first image is embedded, and
            later changes of its weights have no effect.
        policy: how patches become views.
        image_side: pixels to which images are scaled and cropped.
        identity: SHA-256 of the weights, or `random-SEED`.
    """

    def __init__(self, network: Network, policy: Policy, image_side: int, identity: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.policy = policy
        self.image_side = image_side
        self.identity = identity

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "auto") -> "Encoder":
        """The encoder of a run directory, or of one of its model folders.

        Raises:
            CheckpointError: it is missing, damaged, or not what its configuration says.
        """
        source, folder = _model(Path(path))
        encoder = cls._untrained(source, folder)
        # A run in float64 is embedded in float32, as all others are.
        checkpoint.load_strictly(
            encoder.network, source.tensors["model"], folder, also=(torch.float64,)
        )
        bad = [name for name, t in source.tensors["model"].items() if not t.isfinite().all()]
        if bad:
            raise CheckpointError(f"the weights in {folder} are not finite: {', '.join(bad[:10])}")
        encoder.identity = checkpoint.identity(folder)
        return encoder._to(device)

    @classmethod
    def random(cls, path: str | Path, *, seed: int = 0, device: str = "auto") -> "Encoder":
        """The same network and views with random weights: what training has to beat."""
        source, folder = _model(Path(path))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = cls._untrained(source, folder)
        if encoder.network.whitened is not None:  # measured, not learned
            kept = {k: t for k, t in source.tensors["model"].items() if k.startswith(WHITENED)}
            encoder.network.whitened.load_state_dict(
                {name.removeprefix(WHITENED): tensor for name, tensor in kept.items()}
            )
        encoder.identity = f"random-{seed}"
        return encoder._to(device)

    @classmethod
    def _untrained(cls, source: Checkpoint, folder: Path) -> "Encoder":
        def made() -> Network:
            return build_network(specs["backbone"], specs["projector"], specs.get("whitened", 0))

        try:
            specs, side = source.state["network"], source.state["image_side"]
            with torch.device("meta"):  # however large, it takes no memory there
                outline = made()
            policy = build(POLICIES, specs["views"])
        except (CheckpointError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} does not say what network it holds: {error}"
            ) from error
        checkpoint.check_architecture(outline, source.tensors.get("model", {}), folder)
        network = made()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, policy, side, "")

    def _to(self, device: str) -> "Encoder":
        device = resolve_device(device)
        if device == "cpu":
            keep_freed_memory()  # or a quarter of the time goes into getting it again
        self.network.to(device)
        return self

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        layer: Layer = "head",
        crops: str = "grid3",
        normalize: bool = False,
    ) -> Embeddings:
        """Embeddings of images, one row each, float32 on the CPU.

        Args:
            images: paths, PIL images, uint8 arrays (height, width, 3) or uint8 tensors
                (3, height, width); one or many.
            layer: `backbone`; `head`, the projector's first block; or `joint`, both of them and
                whitened patches of the whole image side by side, each of length 1.
            crops: `grid3`, `random128` or `whole`: the patches whose embeddings are averaged.
            normalize: scale each row to length 1.

        Raises:
            DataError: an image cannot be read; names it.
            UsageError: an unknown layer or crops.
        """
        single = isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray | Tensor) and images.ndim == 3
        )
        items: list[Any] = [images] if single else list(images)  # type: ignore[arg-type]
        if not items:
            raise UsageError("no images were given to encode")
        rows = [torch.from_numpy(square(_opened(item), self.image_side).copy()) for item in items]
        bags = self.embed(torch.stack(rows), torch.arange(len(rows)), Crops.parse(crops), [layer])
        embeddings = bags[layer]
        return torch.nn.functional.normalize(embeddings, dim=1) if normalize else embeddings

    def embed(
        self, images: Images, samples: Tensor, crops: Crops, layers: Sequence[Layer]
    ) -> dict[Layer, Embeddings]:
        """As `empssl.bag.embed_bags`, of images that are square and of `image_side` pixels."""
        for layer in layers:
            self.dim(layer)
        return embed_bags(self._folded, self.policy, images, samples, crops, layers)

    def embed_growing(
        self,
        images: Images,
        samples: Tensor,
        crops: Crops,
        layers: Sequence[Layer],
        counts: Sequence[int],
    ) -> list[dict[Layer, Embeddings]]:
        """As `empssl.bag.embed_growing_bags`."""
        for layer in layers:
            self.dim(layer)
        return embed_growing_bags(self._folded, self.policy, images, samples, crops, layers, counts)

    @cached_property
    def _folded(self) -> Network:
        return folded(self.network)

    def dim(self, layer: Layer) -> int:
        """Coordinates of the embedding at a layer.

        Raises:
            UsageError: there is no such layer.
        """
        known = self.network.every_layer
        if layer not in known:
            raise UsageError(f"no layer '{layer}', choose from: {', '.join(known)}")
        return self.network.width(layer)

    def batches(self, count: int, size: int = 512) -> Iterator[range]:
        """Indices of `count` images in pieces that fit in memory."""
        size = max(1, min(size, _MOST_PIXELS // self.image_side**2))
        return (range(i, min(i + size, count)) for i in range(0, count, size))


def _model(path: Path) -> tuple[Checkpoint, Path]:
    """The network of a run directory or of a model folder, and the folder that it is in."""
    if (path / checkpoint.MANIFEST).is_file():
        return checkpoint.read(path, files=("model",)), path
    return Run(path).load_model()


def _opened(image: ImageLike) -> Image.Image:
    """Any of the accepted kinds as an upright RGB image."""
    if isinstance(image, str | Path):
        try:
            return decode(Path(image))
        except UndecodableError as error:
            raise DataError(f"{image} cannot be read: {error}") from error
    if isinstance(image, Image.Image):
        try:
            return upright(image)
        except (UndecodableError, *PILLOW_ERRORS) as error:
            raise DataError(f"a PIL image of mode {image.mode} cannot be used: {error}") from error
    array = image.cpu().numpy() if isinstance(image, Tensor) else image
    if isinstance(image, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UsageError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype} was given, expected "
            "uint8, (height, width, 3) for arrays or (3, height, width) for tensors"
        )
    return Image.fromarray(np.ascontiguousarray(array))
