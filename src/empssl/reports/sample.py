"""The images that a report looks at: evenly spread over the data set, read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from empssl.data import ImageSet
from empssl.data.encoded import EncodedImages
from empssl.errors import DataError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import Crops
from empssl.models import VIEW_LAYERS, Layer
from empssl.progress import progress
from empssl.types import Embeddings, Images

_AT_ONCE = 256
CROPS = "grid3"
THUMBNAIL = 128  # pixels that a picture for people has at most


@dataclass(frozen=True)
class Sample:
    """Readable images of a data set.

    Attributes:
        source: the set.
        rows: int64 (sample,), their indices in it.
        pixels: the images, as the network sees them.
        names: by which a person finds them again.
        labels: int64 (sample,), -1 where unknown; None where there are none. Only shown.
        class_names: by label.
        total: images in the set.
        dataset: what the set is called.
        fingerprint: of the set.
    """

    source: ImageSet
    rows: Tensor
    pixels: Images
    names: Sequence[str]
    labels: Tensor | None
    class_names: Sequence[str]
    total: int
    dataset: str
    fingerprint: str

    @classmethod
    def read(cls, images: ImageSet, count: int) -> "Sample":
        """At most `count` images, evenly spread; those that cannot be read are left out.

        Raises:
            DataError: none of them can be read.
        """
        total = len(images)
        wanted = spread(total, count)
        read = [images.read(rows.tolist()) for rows in wanted.split(_AT_ONCE)]
        valid = torch.cat([batch.valid for batch in read])
        if not valid.any():
            raise DataError(f"none of {len(wanted)} images of {images.name} could be read")
        rows = wanted[valid]
        return cls(
            source=images,
            rows=rows,
            pixels=torch.cat([batch.pixels for batch in read])[valid],
            names=[images.sample_name(row) for row in rows.tolist()],
            labels=None if images.labels is None else images.labels[rows],
            class_names=images.class_names,
            total=total,
            dataset=images.name,
            fingerprint=images.fingerprint,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def thumbnails(self, indices: Sequence[int]) -> list[UInt8[Tensor, "3 side side"]]:
        """Samples for people to look at: with more pixels than the network sees, if there are."""
        own = [self.pixels[index] for index in indices]
        if not isinstance(self.source, EncodedImages) or self.pixels.shape[-1] >= THUMBNAIL:
            return own
        found = self.source.thumbnails(self.rows[list(indices)].tolist(), THUMBNAIL)
        # A file smaller than the network's input is shown as it is, not as it was enlarged.
        return [own[k] if image is None else image for k, image in enumerate(found)]

    def file(self, index: int) -> Path | None:
        """The file of sample `index`; None where it has none of its own."""
        row = int(self.rows[index])
        return self.source.file(row) if isinstance(self.source, EncodedImages) else None

    @property
    def folders(self) -> bool:
        """Whether classes are but the names of the folders that images are in."""
        return self.labels is not None and all(
            self.label(index) in Path(name).parts[:-1]
            for index, name in enumerate(self.names) if self.labels[index] >= 0
        )  # fmt: skip

    def label(self, index: int) -> str:
        """The class of sample `index` as shown; empty where there is none."""
        return "" if self.labels is None else self.class_name(int(self.labels[index]))

    def agree(self, one: int, other: int) -> bool | None:
        """Whether two samples are of one class; None where that is not known of both."""
        if self.labels is None or min(self.labels[one], self.labels[other]) < 0:
            return None
        return bool(self.labels[one] == self.labels[other])

    def class_name(self, label: int) -> str:
        if label < 0:
            return "unlabeled"
        return str(self.class_names[label] if label < len(self.class_names) else label)

    def embed(self, encoder: Encoder) -> dict[Layer, Embeddings]:
        """Their embeddings at both layers, as `empssl embed` makes them by default."""
        crops, parts = Crops.parse(CROPS), []
        with progress("embedding images for the report", len(self)) as advance:
            for part in encoder.batches(len(self), _AT_ONCE):
                at = slice(part.start, part.stop)
                parts.append(encoder.embed(self.pixels[at], self.rows[at], crops, VIEW_LAYERS))
                advance(part.stop)
        return {layer: torch.cat([part[layer] for part in parts]) for layer in VIEW_LAYERS}


def spread(total: int, count: int) -> Tensor:
    """`count` of `total` indices at even distances, or all of them: int64, ascending.

    >>> spread(10, 4).tolist()
    [0, 3, 6, 9]
    >>> spread(2, 4).tolist()
    [0, 1]
    """
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()
