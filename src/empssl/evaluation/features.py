"""Labeled images, and the embeddings of all of them from one pass or from a file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from empssl.data import BadSamples, ImageSet, MemoryImages
from empssl.data.checks import near_constant, shortened
from empssl.data.parquet_batches import bounded_batches, opened_parquet
from empssl.errors import DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.few_shot import balanced
from empssl.evaluation.pooling import Crops, joint
from empssl.evaluation.results import SplitSummary
from empssl.models import VIEW_LAYERS, EmbeddingPart, Layer, PatchFeatures
from empssl.progress import progress
from empssl.runs.records import Side
from empssl.runs.schema import Positive, conform
from empssl.types import Embeddings, Labels

# What has to be alike in embeddings that are compared with each other.
SOURCE = ("model_sha256", "layer", "crops", "seed", "image_side", "range", "data")
_COLUMNS: dict[str, Callable[[pa.DataType], bool]] = {
    "label": pa.types.is_integer,
    "valid": pa.types.is_boolean,
    "embedding": lambda kind: pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32(),
}


def labeled_images(
    images: ImageSet, size: int | None = None, *, seed: int = 0
) -> tuple[MemoryImages, SplitSummary]:
    """The images that have a label and can be read, all in memory; and what became of the others.

    Args:
        images: of any kind; a draw reads no others.
        size: draw so many of them, as evenly from the classes as these allow.
        seed: of the draw.

    Raises:
        DataError: there are no labels, or too many images that cannot be read.
        UsageError: there are fewer than `size`.
    """
    labels = check_labeled(images)
    rows = labeled = (labels >= 0).nonzero()[:, 0]
    if size is not None:
        rows = rows[balanced(labels[rows], size, seed=seed)]
    pixels = torch.empty(len(rows), 3, images.side, images.side, dtype=torch.uint8)
    valid = torch.zeros(len(rows), dtype=torch.bool)
    ledger, bad = BadSamples(None, len(rows)), []
    with progress(f"reading {images.split} images", len(rows)) as advance:
        for part in torch.arange(len(rows)).split(1024):
            batch = images.read(rows[part].tolist())
            pixels[part], valid[part] = batch.pixels.cpu(), batch.valid
            for sample in batch.bad:
                ledger.add(sample, epoch=0, step=0)
                bad.append(sample)
            advance(int(part[-1]) + 1)
    drawn = len(rows)
    if not valid.all():
        pixels, rows = pixels[valid], rows[valid]
    summary = SplitSummary(
        listed=len(images), used=len(rows), unlabeled=len(images) - len(labeled),
        not_drawn=len(labeled) - drawn, near_constant=int(near_constant(pixels).sum()), bad=bad,
        part=images.part,
    )  # fmt: skip
    kept = MemoryImages(
        pixels, name=images.name, split=images.split, labels=labels[rows],
        class_names=images.class_names, fingerprint=images.fingerprint,
    )  # fmt: skip
    return kept, summary


def check_labeled(images: ImageSet) -> Tensor:
    """The labels of a set that has some.

    Raises:
        DataError: it has none.
    """
    if images.labels is None or not (images.labels >= 0).any():
        raise DataError(
            f"the {len(images)} {images.split} images of {images.name} have no labels to evaluate "
            "with; give a folder with one sub-folder per class, or a data set with labels"
        )
    return images.labels


def number_alike(train: ImageSet, test: ImageSet) -> None:
    """Number the classes of a test set as those of the train set, of other data, are.

    They are the same by name; where one of the two has no names, their numbers are the same.

    Raises:
        DataError: one of the two has no labels.
    """
    known, labels = check_labeled(train), check_labeled(test)
    if not (train.class_names and test.class_names):
        test.class_names = train.class_names or test.class_names
        return
    own = list(map(test.class_name, range(int(labels.max()) + 1)))
    highest = max(len(train.class_names), int(known.max()) + 1)
    names = [*dict.fromkeys([*map(train.class_name, range(highest)), *own])]
    numbers = torch.tensor([*map(names.index, own), -1])  # the last where it is unknown
    test.labels, test.class_names = numbers[labels], tuple(names)


def check_classes(train: ImageSet, test: ImageSet) -> None:
    """See that train has every class that test has.

    Raises:
        DataError: it has not, or one of the two has no labels.
    """
    known = check_labeled(test)
    unseen = sorted(set(known[known >= 0].tolist()) - set(check_labeled(train).tolist()))
    if unseen:
        names = ", ".join(shortened(test.class_name(label)) for label in unseen[:10])
        more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
        one = len(unseen) == 1
        raise DataError(
            f"test images of {test.name} have {'the class' if one else 'classes'} {names}{more}, "
            f"of which train has no image, so that no probe can learn {'it' if one else 'them'}; "
            f"add train images of {'it' if one else 'them'}, or take {'it' if one else 'them'} out "
            "of test"
        )


def features(
    encoder: Encoder,
    images: MemoryImages,
    crops: Crops,
    layers: Sequence[Layer],
    whole: Tensor | None = None,  # not Embeddings: of other features
) -> dict[Layer, Embeddings]:
    """The embedding of every image at each layer; see `growing_features`."""
    return patch_subset_features(encoder, images, crops, layers, (), whole)[-1]


def patch_subset_features(
    encoder: Encoder,
    images: MemoryImages,
    crops: Crops,
    layers: Sequence[Layer],
    counts: Sequence[int],
    whole: Tensor | None = None,  # not Embeddings: of other features
) -> list[dict[Layer, Embeddings]]:
    """Embeddings from bags of so many patches each, and last from all patches.

    Args:
        encoder: whose.
        images: all of them.
        crops: which patches.
        layers: where.
        counts: of patches, fewer than there are.
        whole: the images' whitened patches, which take as long to compute as the rest.
    """
    known = whole if "joint" in layers else None
    needed = list(layers)
    if known is not None:
        needed = [*dict.fromkeys([*(at for at in layers if at != "joint"), *VIEW_LAYERS])]
    parts = []
    with progress(f"embedding {images.split} images", len(images)) as advance:
        for rows in encoder.batches(len(images)):
            pixels = images.pixels[rows.start : rows.stop]
            parts.append(encoder.embed_growing(pixels, torch.tensor(rows), crops, needed, counts))
            advance(rows.stop)
    bags = []
    for same in zip(*parts, strict=True):
        found = {layer: torch.cat([part[layer] for part in same]) for layer in needed}
        if known is not None:
            found["joint"] = joint(found, known)
        bags.append({layer: found[layer] for layer in layers})
    return bags


def whitened_features(patches: PatchFeatures, images: MemoryImages) -> Embeddings:
    """The whitened patches of every image, which no crops and no weights change."""
    parts: list[Tensor] = []
    with progress(f"whitened patches of {images.split} images", len(images)) as advance:
        for pixels in images.pixels.split(512):
            parts.append(patches(pixels.to(patches.mean.device)).cpu())
            advance(sum(map(len, parts)))
    return torch.cat(parts)


class EmbeddingPartRecord(TypedDict):
    """A `EmbeddingPart`, as `embed` records it."""

    name: str
    width: Positive
    weight: float


class Made(TypedDict):
    """How embeddings were made, as `embed` recorded it in the file."""

    model_sha256: str
    run: str
    data: str
    split: str
    fingerprint: str
    layer: str
    crops: str
    seed: int
    image_side: Side


@dataclass(frozen=True)
class EmbeddingFile:
    """The valid and labeled rows of a file.

    Attributes:
        path: of the file.
        made: how the embeddings were made, as `embed` recorded it.
        trained_on: how many are of images that the encoder was trained on; None where the file
            does not say.
    """

    path: Path
    made: dict[str, Any]
    embeddings: Embeddings
    labels: Labels
    trained_on: int | None = None

    @property
    def parts(self) -> tuple[EmbeddingPart, ...]:
        """Of the embeddings, where probes weigh them differently.

        Raises:
            DataError: what the file says of them is something else.
        """
        source = f"what {self.path} says of its parts"
        recorded = conform(self.made.get("parts", []), list[EmbeddingPartRecord], source, DataError)
        return tuple(EmbeddingPart(**part) for part in recorded)

    @classmethod
    def read(cls, path: str | Path) -> "EmbeddingFile":
        """Read a file of `empssl embed`.

        Raises:
            DataError: it is no such file, or has no labels.
        """
        path = Path(path)
        try:
            with opened_parquet(path) as file:
                schema = file.schema_arrow
            content = json.loads((schema.metadata or {})[b"empssl"])
            made: dict[str, Any] = conform(content, Made, f"what {path} says of itself", DataError)
        except (KeyError, ValueError, RecursionError, DataError) as error:
            raise DataError(
                f"{path} is no file of embeddings ({error!r}); write one with `empssl embed`, or "
                "give a run directory"
            ) from error
        if "label" not in schema.names:
            raise DataError(f"{path} has no labels to evaluate with; embed labeled images")
        for name, is_right in _COLUMNS.items():
            kind = schema.field(name).type if name in schema.names else None
            if kind is None or not is_right(kind):
                raise DataError(f"{path} is no file of embeddings: its column {name} is {kind}")
        columns = [*_COLUMNS, *(name for name in schema.names if name == "trained_on")]
        batches = bounded_batches(path, columns)
        table = pa.Table.from_batches(batches, pa.schema([schema.field(n) for n in columns]))
        labels = table["label"].cast(pa.int64(), safe=False).fill_null(-1).to_numpy()
        kept = table.filter(pa.array(table["valid"].fill_null(False).to_numpy() & (labels >= 0)))
        kept = kept.filter(kept["embedding"].is_valid())
        flat = kept["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(
            path, made,
            torch.from_numpy(np.array(flat)).view(-1, schema.field("embedding").type.list_size),
            torch.from_numpy(np.array(kept["label"].cast(pa.int64()).to_numpy())),
            _trained_on(kept),
        )  # fmt: skip


def _trained_on(rows: pa.Table) -> int | None:
    found = rows["trained_on"] if "trained_on" in rows.column_names else None
    if found is None or found.null_count or not pa.types.is_boolean(found.type):
        return None
    return int(found.to_numpy().sum())


def check_one_source(train: EmbeddingFile, test: EmbeddingFile) -> None:
    """See that two files come from one network, made alike, of different images of one data set.

    Raises:
        UsageError: they do not.
    """
    for key in SOURCE:
        one, other = train.made.get(key), test.made.get(key)
        if one != other:
            raise UsageError(
                f"{train.path} and {test.path} were made differently: {key} is {one} and {other}; "
                "embed both with one run, layer and crops"
            )
    if train.made["fingerprint"] == test.made["fingerprint"] or "all" in (
        train.made["split"], test.made["split"],
    ):  # fmt: skip
        raise UsageError(
            f"{train.path} and {test.path} share images: they hold the splits "
            f"{train.made['split']} and {test.made['split']} of {train.made['data']}; "
            "embed --split train and --split test"
        )
