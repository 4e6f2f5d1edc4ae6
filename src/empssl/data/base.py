"""What every data set looks like to the rest of the program: square uint8 images by index."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from empssl.data.value_range import DEFAULT_DECODING, Decoding
from empssl.device import send
from empssl.errors import UsageError
from empssl.progress import say
from empssl.types import MOST_SIDE, Images, Valid


@dataclass(frozen=True)
class BadSample:
    """An image that could not be used, and why."""

    index: int
    name: str
    reason: str
    error: str = ""
    bytes: int | None = None


@dataclass(frozen=True)
class ImageBatch:
    """Images read together. Row k is the k-th index asked for, whether or not it could be read.

    Attributes:
        pixels: rows that are not valid hold zeros and must not be used.
        valid: False where the image could not be read.
        bad: one entry for each row that is not valid.
    """

    pixels: Images
    valid: Valid
    bad: tuple[BadSample, ...] = field(default=())


class ImageSet(ABC):
    """Images by index, all of one size, with labels where there are any.

    Attributes:
        name: what the user calls it: `cifar10`, or the folder's path.
        split: `train`, `test` or `all`.
        side: height and width in pixels.
        labels: int64, -1 where unknown; None where there are none. Never used in training.
        class_names: by label.
        fingerprint: changes when an image, its name or its order does.
        decoding: how files become pixels, with the range that was decided for the set.
        notices: what a user should know of how they are read.
        reported: those that `tell` has printed.
        part: the folders or files that hold the split, where the data themselves are divided.
        files: what became of the files there, where some are left out or not called images.
    """

    name: str
    part: str = ""
    files: str = ""
    split: str
    side: int
    labels: Tensor | None
    class_names: tuple[str, ...]
    fingerprint: str
    decoding: Decoding = DEFAULT_DECODING
    notices: tuple[str, ...] = ()
    reported: frozenset[str] = frozenset()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample_name(self, index: int) -> str:
        """The path or number by which a person finds image `index` again."""

    def class_name(self, label: int) -> str:
        """What a class is called; its number where it has no name."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    @abstractmethod
    def read(self, indices: Sequence[int]) -> ImageBatch:
        """The images at `indices`, decoded, oriented, RGB, `side` pixels square."""

    def tell(self) -> None:
        """Print the notices on the error stream, each once."""
        for notice in self.notices:
            if notice not in self.reported:
                say(f"{self.name}: {notice}")
        self.reported |= {*self.notices}


def check_side(side: int | None) -> None:
    """Refuse a number of pixels that an image may not have.

    Raises:
        UsageError: it is one.
    """
    if side is not None and not 1 <= side <= MOST_SIDE:
        raise UsageError(f"side is {side}, and must be 1 to {MOST_SIDE:,} pixels")


class MemoryImages(ImageSet):
    """Images that are all in memory.

    Args:
        pixels: all images, on any device; there they are read.
        valid: False for images that could not be read; default all True.
        names: by index; default the index itself.
        bad: what is known of those that could not be read.
    """

    def __init__(
        self,
        pixels: Images,
        *,
        name: str,
        split: str,
        fingerprint: str,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        names: Sequence[str] | None = None,
        valid: Tensor | None = None,
        bad: Sequence[BadSample] = (),
    ) -> None:
        self.pixels = pixels
        self.name = name
        self.split = split
        self.side = pixels.shape[-1]
        self.labels = labels
        self.class_names = tuple(class_names)
        self.fingerprint = fingerprint
        self.valid = torch.ones(len(pixels), dtype=torch.bool) if valid is None else valid
        self.bad = {sample.index: sample for sample in bad}
        self._names = names

    def __len__(self) -> int:
        return len(self.pixels)

    def sample_name(self, index: int) -> str:
        return f"{self.split}/{index:05d}" if self._names is None else self._names[index]

    def read(self, indices: Sequence[int]) -> ImageBatch:
        rows = torch.as_tensor(indices, dtype=torch.long)
        valid = self.valid[rows]
        bad = tuple(self.bad[i] for i in rows[~valid].tolist())
        return ImageBatch(self.pixels[send(rows, self.pixels.device)], valid, bad)
