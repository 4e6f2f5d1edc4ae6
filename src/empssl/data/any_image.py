"""Images as people hold them in Python: paths, bytes, open files, PIL images, arrays, tensors."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from empssl.data.decode import (
    Content,
    Decoded,
    decode_with_values,
    inspect,
    reasoned,
    rgb_over_gray,
    upright,
)
from empssl.data.value_range import SIXTEEN_BITS, AmbiguousRangeError, Decoding, Values, to_8_bit
from empssl.errors import UsageError

ImageLike = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
    | Tensor
)  # fmt: skip
Source = bytes | Path | Image.Image | np.ndarray
CHANNELS = (1, 3, 4)
_BYTES = (bytes, bytearray, memoryview)
_ONE = (str, os.PathLike, Image.Image, *_BYTES)
EXPECTED = (
    "expected a path, bytes, an open binary file, a PIL image, an array (height, width) or "
    "(height, width, channel) with 1, 3 or 4 channels, or a tensor (height, width) or (channel, "
    "height, width) with 1 or 3"
)


def each_image(images: Any) -> Iterator[Any]:
    """One image or many, one at a time; not yet checked.

    Raises:
        UsageError: it is neither an image nor an iterable.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU" and images.ndim == 1:
        return iter(images.tolist())  # of paths, or of images of several sizes
    if isinstance(images, np.ndarray | Tensor):
        return iter(images) if images.ndim == 4 else iter([images])
    if isinstance(images, _ONE) or _is_file(images):
        return iter([images])
    try:
        if not isinstance(images, Mapping):  # whose keys are no images
            return iter(images)
    except TypeError:
        pass
    raise UsageError(f"images are {_described(images)}; {EXPECTED}; or an iterable of those")


def opened(image: Any, index: int) -> tuple[str, Source]:
    """What an image is called, and what it takes to make pixels of it.

    Args:
        image: of any kind.
        index: its place among those that are given.

    Returns:
        Its name, and a path, the bytes of a file, a PIL image, or an array (height, width, channel)
        or (height, width).

    Raises:
        UsageError: it is no image.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return os.fsdecode(path), Path(os.fsdecode(path))
    if isinstance(image, _BYTES):
        return f"an image of {len(bytes(image)):,} bytes", bytes(image)
    if isinstance(image, Image.Image):
        return f"a PIL image of mode {image.mode}", image
    if isinstance(image, np.ndarray | Tensor):
        return f"an array of shape {tuple(image.shape)}", _pixels(image, index)
    if _is_file(image):
        data = image.read()
        if isinstance(data, bytes):
            return str(getattr(image, "name", "an open file")), data
        raise UsageError(f"image {index}: the file is open as text; open it with mode 'rb'")
    raise UsageError(f"image {index} is {_described(image)}; {EXPECTED}")


def convert(source: np.ndarray, decoding: Decoding, index: int) -> Decoded:
    """An array from `opened` as 8-bit RGB.

    Raises:
        UsageError: nothing says which value of the array is white.
    """
    try:
        return _from_array(source, decoding)
    except AmbiguousRangeError as error:
        raise UsageError(
            f"image {index} has {error.found}; expected uint8, uint16, or floats from 0 to 1, or "
            "another range for the encoder: Encoder.from_pretrained(..., range=(LOW, HIGH))"
        ) from error


def decode_source(source: Source, decoding: Decoding, *, shrink_to: int | None = None) -> Decoded:
    """What `opened` gives, of whatever kind, as `decode.decode_with_values` does files.

    Raises:
        UndecodableError: as there.
    """
    if isinstance(source, bytes | Path):
        return decode_with_values(source, decoding, shrink_to=shrink_to)
    with reasoned():
        if isinstance(source, Image.Image):
            return upright(source, decoding)
        return _from_array(source, decoding)


def inspect_source(source: Source, decoding: Decoding) -> Content:
    """What it holds, as `decode.inspect` says of files.

    Raises:
        UndecodableError: as there.
    """
    if isinstance(source, bytes | Path):
        return inspect(source, decoding)
    if isinstance(source, Image.Image):
        channels = len(source.getbands())
        deep = source.mode.startswith("I") or source.mode == "F"
    else:
        channels = source.shape[2] if source.ndim == 3 else 1
        deep = source.dtype != np.uint8
    return Content(1, channels, channels, decode_source(source, decoding).values if deep else None)


def _from_array(array: np.ndarray, decoding: Decoding) -> Decoded:
    """Of (height, width) or (height, width, channel); alpha is from transparent to opaque."""
    values: Values | None = None
    if array.dtype != np.uint8:
        white = SIXTEEN_BITS if array.dtype == np.uint16 else None
        color, values = to_8_bit(array if array.ndim == 2 else array[..., :3], decoding, white)
        if array.ndim == 3 and array.shape[2] == 4:
            alpha, _ = to_8_bit(array[..., 3:], Decoding("full"), white)
            color = np.concatenate([color, alpha], axis=2)
        array = color
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Decoded(rgb_over_gray(Image.fromarray(np.ascontiguousarray(array))), values)


def _pixels(image: np.ndarray | Tensor, index: int) -> np.ndarray:
    """As an array, channels last.

    Raises:
        UsageError: the shape or the type is not that of an image.
    """
    shape = tuple(image.shape)
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
        channels: tuple[int, ...] = (1, 3)
    else:
        array, channels = image, CHANNELS
    given = f"image {index} has shape {shape} and type {image.dtype}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in channels):
        raise UsageError(f"{given}; {EXPECTED}{_hint(image)}")
    if not array.size:
        raise UsageError(f"{given}: it has no pixels")
    if array.dtype.kind not in "uif":
        raise UsageError(f"{given}; expected uint8, uint16, or floats from 0 to 1")
    return array


def _hint(image: np.ndarray | Tensor) -> str:
    """What might have been meant."""
    shape = tuple(image.shape)
    if len(shape) == 3 and isinstance(image, Tensor) and shape[2] in CHANNELS:
        return ". Channels come first in tensors: permute(2, 0, 1)"
    if len(shape) == 3 and isinstance(image, np.ndarray) and shape[0] in CHANNELS:
        return ". Channels come last in arrays: transpose(1, 2, 0)"
    if len(shape) == 3:
        more = "x[:, None]" if isinstance(image, Tensor) else "x[..., None]"
        return f". Many gray images take an axis of one channel: {more}"
    return ""


def _is_file(image: Any) -> bool:
    return isinstance(image, io.IOBase) or (hasattr(image, "read") and hasattr(image, "seek"))


def _described(image: Any) -> str:
    if image is None:
        return "None"
    if isinstance(image, list | tuple):
        return f"a {type(image).__name__} of {len(image)}"
    return f"of type {type(image).__name__}"
