"""A trained encoder: images in, embeddings out."""

import copy
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from empssl.config import ObjectSpec, build, is_object, object_missing
from empssl.data.any_image import ImageLike, Source, convert, decode_source, each_image, opened
from empssl.data.base import BadSample
from empssl.data.decode import UndecodableError, decoding_threads, square
from empssl.data.value_range import DEFAULT_DECODING, Decoding, RangeWords, Values, range_warning
from empssl.device import keep_freed_memory, outlines, resolve_device
from empssl.errors import CheckpointError, DataError, UsageError, nearest
from empssl.evaluation.encoder_module import EncoderModule, PixelsOrShares
from empssl.evaluation.pooling import Crops, embed_bags, embed_patch_subsets
from empssl.models import Layer, Network, build_network
from empssl.models.folding import folded
from empssl.models.module_backbone import redrawn
from empssl.progress import say
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.types import Embeddings, Images
from empssl.views import POLICIES, Policy

_MOST_PIXELS = 2**28  # of images at once; 512 of 724 pixels a side
WHITENED = "whitened."  # what the names of its tensors begin with
IMAGES_AT_ONCE = 512
Errors = Literal["raise", "skip"]
WeightsState = tuple[list[tuple[int, int]], list[float]]


@dataclass(frozen=True)
class Encoded:
    """Embeddings of images that were encoded together.

    Attributes:
        index: int64 (sample,), which of the images given each row is.
        embeddings: float32 on the CPU.
        bad: the images that could not be read.
    """

    index: Int64[Tensor, " sample"]
    embeddings: Embeddings
    bad: tuple[BadSample, ...] = ()


@dataclass(frozen=True)
class Scaled:
    """An image as the network takes it, and what its numbers were."""

    index: int
    pixels: UInt8[np.ndarray, "3 side side"]
    values: Values | None


class Encoder:
    """A network, how images are read and how patches are cut: all that an embedding depends on.

    Attributes:
        network: in eval mode, without gradients but for what `module` has handed out. Images are
            embedded by a copy with fewer layers, which is made anew where weights have changed.
        policy: how patches become views.
        image_side: pixels to which images are scaled and cropped.
        identity: SHA-256 of the weights as they were read, or `random-SEED`.
        decoding: which values become black and white, as of the run's own images.
    """

    def __init__(
        self,
        network: Network,
        policy: Policy,
        image_side: int,
        identity: str,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.policy = policy
        self.image_side = image_side
        self.identity = identity
        self.decoding = decoding
        self._copy: tuple[WeightsState, Network] | None = None

    def __repr__(self) -> str:
        return (
            f"<Encoder {self.identity[:12]}: images of {self.image_side} px, "
            f"{self.dim('backbone')} features at backbone, {self.dim('head')} at head>"
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        device: str = "auto",
        range: RangeWords = (),  # noqa: A002 (what it is)
        max_pixels: int | None = None,
    ) -> "Encoder":
        """The encoder of a run directory, or of one of its model folders.

        Args:
            path: of either.
            backbone: a module made as the one that a program gave to `train`; only for such a run.
                It is used itself, and gets the run's weights.
            device: auto, cpu, cuda or mps.
            range: as of `train`; the run's own by default.
            max_pixels: as of `train`; the run's own by default.

        Raises:
            CheckpointError: it is missing, damaged, or not what its configuration says.
            UsageError: a range or a device that is none; or the run's backbone is an object of a
                program, and is not given.
        """
        source, folder = _model(Path(path))
        encoder = cls._untrained(source, folder, backbone)
        # A run in float64 is embedded in float32, as all others are.
        checkpoint.load_strictly(
            encoder.network, source.tensors["model"], folder, also=(torch.float64,)
        )
        bad = [name for name, t in source.tensors["model"].items() if not t.isfinite().all()]
        if bad:
            raise CheckpointError(f"the weights in {folder} are not finite: {', '.join(bad[:10])}")
        encoder.identity = checkpoint.identity(folder)
        encoder.decoding = encoder.decoding.changed(range, max_pixels)
        return encoder._to(device)

    @classmethod
    def random(
        cls,
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        seed: int = 0,
        device: str = "auto",
        range: RangeWords = (),  # noqa: A002 (what it is)
        max_pixels: int | None = None,
    ) -> "Encoder":
        """The same network and views with random weights: what training has to beat.

        Args:
            path: as in `from_pretrained`.
            backbone: as in `from_pretrained`; what is used is a copy whose weights are drawn by
                each submodule's `reset_parameters()`.
            seed: of the weights.
            device: as in `from_pretrained`.
            range: as in `from_pretrained`.
            max_pixels: as in `from_pretrained`.

        Raises:
            CheckpointError: as `from_pretrained`.
            UsageError: as `from_pretrained`; or a part of `backbone` that has parameters has no
                `reset_parameters()`.
        """
        source, folder = _model(Path(path))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = None if backbone is None else redrawn(backbone)
            encoder = cls._untrained(source, folder, drawn)
        if encoder.network.whitened is not None:  # measured, not learned
            kept = {k: t for k, t in source.tensors["model"].items() if k.startswith(WHITENED)}
            encoder.network.whitened.load_state_dict(
                {name.removeprefix(WHITENED): tensor for name, tensor in kept.items()}
            )
        encoder.identity = f"random-{seed}"
        encoder.decoding = encoder.decoding.changed(range, max_pixels)
        return encoder._to(device)

    @classmethod
    def baseline(
        cls, path: str | Path, *, backbone: nn.Module | None, seed: int, device: str
    ) -> "Encoder | None":
        """As `random`; None, which is said, where a backbone that is given cannot be drawn anew."""
        try:
            return cls.random(path, backbone=backbone, seed=seed, device=device)
        except UsageError as error:
            if backbone is None:
                raise
            say(f"there is no baseline with random weights: {error}")
            return None

    @classmethod
    def _untrained(
        cls, source: Checkpoint, folder: Path, given: nn.Module | None = None
    ) -> "Encoder":
        def made() -> Network:
            return build_network(
                specs["backbone"] if given is None else ObjectSpec(given), specs["projector"],
                specs.get("whitened", 0), side=policy.view_side(side),
            )  # fmt: skip

        recorded = source.state.get("network", {}).get("backbone", {})
        if is_object(recorded) and given is None:
            raise object_missing(str(folder), "backbone", recorded)
        if given is not None and not is_object(recorded):
            raise UsageError(
                f"the backbone of {folder} is '{recorded.get('name')}', which is made by its name; "
                "leave out backbone="
            )
        try:
            specs, side = source.state["network"], source.state["image_side"]
            policy = build(POLICIES, specs["views"])
            with outlines():
                outline = made()
            decoding = Decoding.recorded(source.state.get("decoding", {}))
        except (CheckpointError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} does not say what network it holds: {error}"
            ) from error
        checkpoint.check_architecture(outline, source.tensors.get("model", {}), folder)
        network = made()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, policy, side, "", decoding)

    def _to(self, device: str) -> "Encoder":
        device = resolve_device(device)
        if device == "cpu":
            keep_freed_memory()  # or a quarter of the time goes into getting it again
        self.network.to(device)
        return self

    def encode(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        layer: Layer = "head",
        crops: str = "grid3",
        normalize: bool = False,
        errors: Errors = "raise",
    ) -> Embeddings:
        """Embeddings of images, one row each, float32 on the CPU.

        Files are read as `empssl embed` reads them, in the same batches, so that the same images in
        the same order on as many threads give the same numbers to the last bit. In other company
        an image's numbers may differ by rounding: about 1e-6 of their size in float32, and 1e-2 in
        bfloat16, which is used where the processor multiplies it.

        Args:
            images: one image, or any iterable of images, of which only the embeddings are kept.
                An image is the path of a file; what was in one, as bytes or as a binary file that
                is open; a PIL image; a NumPy array (height, width), or (height, width, channel)
                with 1, 3 or 4 channels; or a torch tensor (height, width), or (channel, height,
                width) with 1 or 3. Arrays with a dimension more are many images. Numbers are uint8;
                uint16; or floats from 0 to 1, unless the encoder has a range, and they are rounded
                to 8 bits, as those of a file are.
            layer: `backbone`; `head`, the projector's first block; or `joint`, both of them and
                whitened patches of the whole image side by side, each of length 1.
            crops: `grid3`, `random128` or `whole`: the patches whose embeddings are averaged.
            normalize: scale each row to length 1.
            errors: `raise`, or `skip` to leave out images that cannot be read, with a warning that
                says how many. `encode_batches` says which.

        Raises:
            DataError: an image cannot be read; names it.
            UsageError: an unknown layer or crops, no images, or something that is no image.
        """
        options: dict[str, Any] = {"layer": layer, "crops": crops, "normalize": normalize}
        batches = list(self.encode_batches(images, errors=errors, **options))
        if not batches:
            raise UsageError("no images were given to encode")
        bad = [sample for batch in batches for sample in batch.bad]
        if bad:
            warnings.warn(
                f"{len(bad)} images cannot be read and are left out, first number "
                f"{bad[0].index}, {bad[0].name}: {bad[0].reason} ({bad[0].error})",
                stacklevel=2,
            )
        return torch.cat([batch.embeddings for batch in batches])

    def encode_batches(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        layer: Layer = "head",
        crops: str = "grid3",
        normalize: bool = False,
        errors: Errors = "raise",
    ) -> Iterator[Encoded]:
        """As `encode`, up to 512 images at a time, for more of them than fit in memory.

        Each image is scaled to `image_side` as it comes, so that an iterable may make them one by
        one, in one buffer if it likes.

        Raises:
            DataError: as `encode`.
            UsageError: as `encode`.
        """
        if errors not in get_args(Errors):
            raise UsageError(f"no errors '{errors}': {nearest(errors, get_args(Errors))}")
        self.dim(layer)
        return self._encoded(each_image(images), layer, Crops.parse(crops), normalize, errors)

    def _encoded(
        self, images: Iterator[Any], layer: Layer, crops: Crops, normalize: bool, errors: Errors
    ) -> Iterator[Encoded]:
        values: list[Values] = []
        start = 0
        while batch := self._scaled(images, start, errors):
            rows = [row for row in batch if isinstance(row, Scaled)]
            values += [row.values for row in rows if row.values is not None]
            samples = torch.tensor([row.index for row in rows], dtype=torch.long)
            embeddings = torch.empty(0, self.dim(layer))
            if rows:
                pixels = torch.from_numpy(np.stack([row.pixels for row in rows]))
                embeddings = self.embed(pixels, samples, crops, [layer])[layer]
            if normalize:
                embeddings = torch.nn.functional.normalize(embeddings, dim=1)
            bad = tuple(row for row in batch if isinstance(row, BadSample))
            yield Encoded(samples, embeddings, bad)
            start += len(batch)
        if warning := range_warning(self.decoding, values, start):
            warnings.warn(f"{warning}, as range= of this encoder", stacklevel=3)

    def _scaled(
        self, images: Iterator[Any], start: int, errors: Errors
    ) -> list[Scaled | BadSample]:
        """The next images, in order; those in files are decoded by several threads.

        Raises:
            DataError: one cannot be read, and is not to be skipped.
            UsageError: one is no image.
        """
        found: list[Scaled | BadSample] = []
        waiting: deque[tuple[str, Future[Scaled | BadSample]]] = deque()
        threads = decoding_threads()

        def take() -> None:
            done, coming = waiting.popleft()
            row = coming.result()
            if isinstance(row, BadSample) and errors == "raise":
                raise DataError(
                    f"image {row.index}: {row.name} cannot be {done}: {row.reason}: {row.error}"
                )
            found.append(row)

        # A pool for each batch: none is left to break a fork.
        with ThreadPoolExecutor(threads) as pool:
            for index, image in enumerate(islice(images, IMAGES_AT_ONCE), start):
                name, source = opened(image, index)
                if isinstance(source, bytes | Path):
                    waiting.append(("read", pool.submit(self._row, index, name, source)))
                else:  # at once, since whoever makes the images may use their memory again
                    row: Future[Scaled | BadSample] = Future()
                    row.set_result(self._row(index, name, source))
                    waiting.append(("used", row))
                while len(waiting) > 2 * threads:
                    take()
            while waiting:
                take()
        return found

    def _row(self, index: int, name: str, source: Source) -> Scaled | BadSample:
        try:
            if isinstance(source, np.ndarray):
                decoded = convert(source, self.decoding, index)
            else:
                decoded = decode_source(source, self.decoding, shrink_to=self.image_side)
        except UndecodableError as error:
            return BadSample(index, name, error.reason, error.error)
        return Scaled(index, square(decoded.image, self.image_side), decoded.values)

    def embed(
        self, images: Images, samples: Tensor, crops: Crops, layers: Sequence[Layer]
    ) -> dict[Layer, Embeddings]:
        """As `pooling.embed_bags`, of images that are square and of `image_side` pixels."""
        for layer in layers:
            self.dim(layer)
        return embed_bags(self._inference_network(), self.policy, images, samples, crops, layers)

    def embed_growing(
        self,
        images: Images,
        samples: Tensor,
        crops: Crops,
        layers: Sequence[Layer],
        counts: Sequence[int],
    ) -> list[dict[Layer, Embeddings]]:
        """As `empssl.evaluation.pooling.embed_patch_subsets`."""
        for layer in layers:
            self.dim(layer)
        return embed_patch_subsets(
            self._inference_network(), self.policy, images, samples, crops, layers, counts
        )

    def module(self, layer: Layer = "backbone") -> EncoderModule:
        """The network up to a layer as a PyTorch module, to be built upon or fine-tuned.

        It has the encoder's own weights: what changes them, changes what `encode` gives from then
        on. It begins in eval mode, with gradients.

        Args:
            layer: where the embedding is taken; any but `joint`.

        Returns:
            A module from images (n, 3, height, width), uint8 or floats from 0 to 1, to embeddings
            (n, feature). Each image is taken whole and at its own size.

        Raises:
            UsageError: there is no such layer.
        """
        return EncoderModule(self.network, self.policy, layer).eval().requires_grad_()

    @torch.no_grad()
    def __call__(self, images: PixelsOrShares, layer: Layer = "backbone") -> Embeddings:
        """As `module(layer)(images)`, without gradients, and always as in eval mode."""
        network = self._inference_network()
        device = next(network.parameters()).device
        found: Embeddings = EncoderModule(network, self.policy, layer)(images.to(device))
        return found

    def _inference_network(self) -> Network:
        """The network as it is now, in eval mode and with BatchNorm folded into other layers."""
        state = _state(self.network)
        if self._copy is None or self._copy[0] != state:
            copied = copy.deepcopy(self.network).eval().requires_grad_(False)
            copied.to(next(copied.parameters()).device)  # a module's part may have been moved
            self._copy = state, folded(copied)
        return self._copy[1]

    def dim(self, layer: Layer) -> int:
        """Coordinates of the embedding at a layer.

        Raises:
            UsageError: there is no such layer.
        """
        known = self.network.every_layer
        if layer not in known:
            raise UsageError(f"no layer '{layer}', choose from: {', '.join(known)}")
        return self.network.width(layer)

    def batches(self, count: int, size: int = IMAGES_AT_ONCE) -> Iterator[range]:
        """Indices of `count` images in batches that fit in memory."""
        size = max(1, min(size, _MOST_PIXELS // self.image_side**2))
        return (range(i, min(i + size, count)) for i in range(0, count, size))


def _state(network: Network) -> WeightsState:
    """What is another value after any change of a weight or statistic.

    Most changes can be told by where a tensor is, and how often it was written to; those by way of
    `.data` only by the numbers.
    """
    tensors = list(network.state_dict().values())
    norms = torch._foreach_norm([t for t in tensors if t.is_floating_point()])
    places = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    return places, [float(norm) for norm in norms]


def _model(path: Path) -> tuple[Checkpoint, Path]:
    """The network of a run directory or of a model folder, and the folder that it is in."""
    if (path / checkpoint.MANIFEST).is_file():
        return checkpoint.read(path, files=("model",)), path
    return Run(path).load_model()
