"""Images that stay as they are held, in files or in memory, and are decoded when asked for."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from empssl.data.any_image import Source, decode_source, inspect_source
from empssl.data.base import BadSample, ImageBatch, ImageSet
from empssl.data.decode import Content, UndecodableError, decoding_threads, square
from empssl.data.value_range import (
    DEFAULT_DECODING,
    SIXTEEN_BITS,
    Decoding,
    Values,
    decided,
    number,
    range_warning,
)
from empssl.errors import DataError

T = TypeVar("T")

_LOOKED_AT = 64


class EncodedImages(ImageSet):
    """Images decoded on demand, by a few threads.

    Up to 64 images, evenly spread, are looked at first. They decide the range of values that become
    black and white, where it is `auto`, and what there is to say of the set.

    Args:
        source: the file, the bytes, the PIL image or the array of an image, by index. May raise
            UndecodableError.
        names: by index.
        decoding: the range of values, and the limit of pixels.
        threads: default `decoding_threads`. With one, `source` is called where `read` is.

    Raises:
        DataError: none of up to 64 images, evenly spread, can be decoded.
    """

    def __init__(
        self,
        source: Callable[[int], Source],
        names: Sequence[str],
        *,
        name: str,
        split: str,
        side: int,
        fingerprint: str,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        decoding: Decoding = DEFAULT_DECODING,
        threads: int | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.side = side
        self.labels = labels
        self.class_names = tuple(class_names)
        self.fingerprint = fingerprint
        self._source = source
        self._names = names
        self._threads = threads or decoding_threads()
        self._decided = False
        self._beyond: dict[int, float] = {}  # the largest value, where it is above a decided range
        self.decoding = decoding
        self._look()
        self.notices = self._said = self._survey()

    def __len__(self) -> int:
        return len(self._names)

    def sample_name(self, index: int) -> str:
        return self._names[index]

    def read(self, indices: Sequence[int]) -> ImageBatch:
        pixels = np.zeros((len(indices), 3, self.side, self.side), np.uint8)
        found = self._mapped(self._read_into, pixels, indices)
        if self._beyond:
            largest = number(max(self._beyond.values()))
            beyond = (
                f"{len(self._beyond)} images read so far have values beyond {self.decoding.text}, "
                f"up to {largest}, which become white; choose with --range"
            )
            self.notices = (*self._said, beyond)
        valid = torch.tensor([bad is None for bad in found], dtype=torch.bool)
        return ImageBatch(torch.from_numpy(pixels), valid, tuple(filter(None, found)))

    def file(self, index: int) -> Path | None:
        """The file of image `index`; None where it has none of its own, or none to be read."""
        try:
            source = self._source(index)
        except UndecodableError:
            return None
        return source if isinstance(source, Path) else None

    def thumbnails(
        self, indices: Sequence[int], side: int
    ) -> list[UInt8[Tensor, "3 side side"] | None]:
        """Images for people to look at: what is read, with up to `side` pixels and none made up.

        Returns:
            For each index a square no larger than its file has it; None where it cannot be read.
        """
        return self._mapped(lambda index: self._thumbnail(index, side), indices)

    def _thumbnail(self, index: int, side: int) -> Tensor | None:
        try:
            image = decode_source(self._source(index), self.decoding, shrink_to=side).image
        except UndecodableError:
            return None
        return torch.from_numpy(square(image, min(side, *image.size)).copy())

    def _read_into(self, row: UInt8[np.ndarray, "3 side side"], index: int) -> BadSample | None:
        size = None
        try:
            source = self._source(index)
            size = _size(source)
            decoded = decode_source(source, self.decoding, shrink_to=self.side)
            row[:] = square(decoded.image, self.side)
            if self._decided and decoded.values is not None:
                self._note(index, decoded.values)
        except UndecodableError as error:
            return BadSample(index, self._names[index], error.reason, error.error, size)
        return None

    def _look(self) -> None:
        row = np.empty((3, self.side, self.side), np.uint8)
        reasons = []
        for index in np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)):
            bad = self._read_into(row, int(index))
            if bad is None:
                return
            reasons.append(f"{bad.name!r} {bad.reason} ({bad.error})")
        raise DataError(
            f"no usable image in '{self.name}': looked at {len(reasons)} of {len(self)}, "
            f"all bad, such as {'; '.join(reasons[:3])}"
        )

    def _survey(self) -> tuple[str, ...]:
        """Decide the range, and tell what a user should know."""
        rows = np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)).astype(int).tolist()
        found = [content for content in self._mapped(self._inspect, rows) if content is not None]
        values = [content.values for content in found if content.values is not None]
        asked, self.decoding = self.decoding, decided(self.decoding, values)
        self._decided = asked.range == "auto" and self.decoding.limits is not None
        said = []
        if self._decided:
            largest = number(max(v.high for v in values if v.white == SIXTEEN_BITS))
            said.append(
                f"images of 16 bits a value, the largest of {len(rows)} images {largest}: "
                f"{self.decoding.text} become black to white; choose otherwise with --range"
            )
        elif self.decoding.range not in ("auto", "full") and found and not values:
            said.append(
                f"no image looked at has more than 8 bits a value: --range {self.decoding.text} "
                "changes nothing"
            )
        if warning := range_warning(self.decoding, values, len(rows)):
            said.append(warning)
        return (*said, *_left_out(found, len(rows)))

    def _inspect(self, index: int) -> Content | None:
        try:
            return inspect_source(self._source(index), self.decoding)
        except UndecodableError:
            return None  # counted when it is read

    def _mapped(self, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """As `map`, by the threads."""
        if self._threads == 1:
            return list(map(function, *arguments))
        # A pool for each call: it starts in under a millisecond, and none is left to break a fork.
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(function, *arguments))

    def _note(self, index: int, values: Values) -> None:
        limits = self.decoding.limits
        if limits is not None and values.high > limits[1]:
            self._beyond[index] = values.high


def _left_out(found: Sequence[Content], looked_at: int) -> list[str]:
    """What is in the files and not used."""
    pages = [content.pages for content in found if content.pages > 1]
    more = [content for content in found if content.channels > content.used]
    said = []
    if pages:
        said.append(
            f"{len(pages)} of {looked_at} images looked at have several pages or frames, up to "
            f"{max(pages):,}: the first of each is used"
        )
    if more:
        most = max(more, key=lambda content: content.channels)
        said.append(
            f"{len(more)} of {looked_at} images looked at have more channels than are used, such "
            f"as {most.channels}: the first {most.used} are used"
        )
    return said


def _size(source: Source) -> int | None:
    """Bytes of a file."""
    if isinstance(source, bytes):
        return len(source)
    if not isinstance(source, Path):
        return None
    try:
        return os.stat(source).st_size
    except OSError:
        return None
