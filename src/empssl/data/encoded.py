"""Images that stay encoded, in files or in memory, and are decoded when asked for."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from empssl.data.decode import UndecodableError, decode
from empssl.data.images import BadSample, ImageBatch, ImageSet
from empssl.data.square import square
from empssl.errors import DataError

_LOOKED_AT = 64


class EncodedImages(ImageSet):
    """Images decoded on demand, by a few threads; Pillow decodes outside Python's lock.

    Args:
        source: the file or the bytes of an image, by index. May raise UndecodableError.
        names: by index.
        threads: default one a core, at most 8.

    Raises:
        DataError: none of up to 64 images, evenly spread, can be decoded.
    """

    def __init__(
        self,
        source: Callable[[int], bytes | Path],
        names: Sequence[str],
        *,
        name: str,
        split: str,
        side: int,
        fingerprint: str,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
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
        self._threads = threads or min(os.cpu_count() or 1, 8)
        self._look()

    def __len__(self) -> int:
        return len(self._names)

    def sample_name(self, index: int) -> str:
        return self._names[index]

    def read(self, indices: Sequence[int]) -> ImageBatch:
        pixels = np.zeros((len(indices), 3, self.side, self.side), np.uint8)
        # A pool for each call: it starts in under a millisecond, and none is left to break a fork.
        with ThreadPoolExecutor(self._threads) as pool:
            found = list(pool.map(self._read_into, pixels, indices))
        valid = torch.tensor([bad is None for bad in found], dtype=torch.bool)
        return ImageBatch(torch.from_numpy(pixels), valid, tuple(filter(None, found)))

    def _read_into(self, row: UInt8[np.ndarray, "3 side side"], index: int) -> BadSample | None:
        size = None
        try:
            source = self._source(index)
            size = _size(source)
            row[:] = square(decode(source, shrink_to=self.side), self.side)
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


def _size(source: bytes | Path) -> int | None:
    if isinstance(source, bytes):
        return len(source)
    try:
        return os.stat(source).st_size
    except OSError:
        return None
