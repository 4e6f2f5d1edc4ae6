"""An encoded image -> an upright RGB image, or the reason why not. Nothing else here decodes."""

import errno
import io
import logging
import os
import re
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from empssl.data.value_range import (
    DEFAULT_DECODING,
    SIXTEEN_BITS,
    AmbiguousRangeError,
    Decoding,
    Values,
    to_8_bit,
)

Reason = Literal[
    "unreadable",
    "truncated",
    "too-large",
    "ambiguous-range",
    "not-a-file",
    "not-embedded",
    "vanished",
    "permission",
]

# Pillow picks the parser by content, so without a list a `.png` may reach its PostScript parser.
# JPEGs with several pictures come out as MPO, by way of JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

MID_GRAY = 128

# First line: what 400,000 mutated files raised (OSError 68 %, ValueError 4 %, the last only from
# damaged TIFF directories). Second: the rest of the list in Pillow's own fuzz test. Third: what
# Image.open takes for "not this format" and its parsers are built on; load() has no such net.
PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, Image.DecompressionBombError, TypeError),
    *(MemoryError, NotImplementedError, OverflowError),
    *(IndexError, KeyError, EOFError, struct.error, zlib.error),
)

_CUT_SHORT = ("truncated", "not enough image data", "reached eof")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# Of TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 262, 277, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_TIFF = (b"II*\0", b"MM\0*")
# Formats of which a file may hold several images that a person means. Those in a JPEG (MPO) are
# previews, depth and gain maps.
_PAGED = ("TIFF", "GIF", "WEBP", "PNG")
_DEEP_COLOR = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")
# The first byte of 16 bits is what Pillow keeps of color. Where numbers are taken to be stored in
# the other order, it keeps the second.
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
DEFAULT_SIDE = 64


class UndecodableError(Exception):
    """This image cannot be used; the others can.

    Args:
        reason: one of few, to count by.
        error: what happened, for a person.
    """

    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(f"{reason}: {error}")
        self.reason = reason
        self.error = error


def decoding_threads() -> int:
    """One a core, at most 8; Pillow decodes outside Python's lock."""
    return min(os.cpu_count() or 1, 8)


@dataclass(frozen=True)
class Decoded:
    """An image as it is used.

    Attributes:
        image: upright, 8-bit RGB.
        values: what it held, where that was more than 8 bits.
    """

    image: Image.Image
    values: Values | None = None


@dataclass(frozen=True)
class Content:
    """What a file holds, of which only a part may be used.

    Attributes:
        pages: images in it; the first is used.
        channels: of the first.
        used: channels of these.
        values: of images with more than 8 bits, as far as it can be told what is white.
    """

    pages: int
    channels: int
    used: int
    values: Values | None


def decode(
    source: bytes | Path,
    decoding: Decoding = DEFAULT_DECODING,
    *,
    shrink_to: int | None = None,
) -> Image.Image:
    """The whole image, upright, as 8-bit RGB. The first frame, where there are several.

    Numbers of more than 8 bits are scaled by the range that `decoding` says, and else by their
    bit depth, never by their content; where a TIFF says that zero is white, it is. Of 16-bit color
    in its full range the high bytes are used. Palette, 1-bit, gray, CMYK are converted as Pillow
    does, without color profiles. Alpha is composited over mid-gray. An image of which a part is
    missing is refused, not filled.

    Args:
        source: a file, or what was in it.
        decoding: the range, and the pixels above which an image is refused by its header.
        shrink_to: JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size, as long as the shorter
            side keeps twice this many pixels. Several times faster on photographs.

    Raises:
        UndecodableError: `unreadable`, `truncated` or `too-large`; `not-a-file` for a folder,
            pipe, device or broken link; `vanished`, `permission`; `ambiguous-range` for 32-bit
            numbers without a range, unless they are floats within [0, 1], which are scaled to 255.
    """
    return decode_with_values(source, decoding, shrink_to=shrink_to).image


def decode_with_values(
    source: bytes | Path, decoding: Decoding, *, shrink_to: int | None = None
) -> Decoded:
    """As `decode`, and what the numbers were."""
    with _opened(source) as file, reasoned(), _image(file, decoding) as image:
        low_bytes = None
        if _is_deep_color(image) and _needs_low_bytes(decoding):
            low_bytes = _low_bytes(file, decoding)
        if shrink_to is not None:
            image.draft(None, (2 * shrink_to, 2 * shrink_to))
        return upright(image, decoding, low_bytes)


def inspect(source: bytes | Path, decoding: Decoding) -> Content:
    """What a file holds. Only images of more than 8 bits are decoded for it.

    Raises:
        UndecodableError: as `decode`, and of such a file only.
    """
    with _opened(source) as file, reasoned():
        with _image(file, decoding) as image:
            used = len(image.getbands())
            channels = int(getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, used))
            deep = image.mode.startswith("I") or image.mode == "F" or _is_deep_color(image)
            pages = int(getattr(image, "n_frames", 1)) if image.format in _PAGED else 1
        values = None
        if deep:
            file.seek(0)
            with _image(file, decoding) as image:
                values = upright(image, decoding).values
        return Content(pages, channels, used, values)


@contextmanager
def _opened(source: bytes | Path) -> Iterator[io.BufferedReader | io.BytesIO]:
    _quiet_pillow()
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    with _open_regular(source) as file:
        yield file


def _open_regular(path: Path) -> io.BufferedReader:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # asked first: opening a pipe would wait for ever
            return path.open("rb")
        raise UndecodableError("not-a-file", "a folder, pipe, socket or device")
    except FileNotFoundError as error:
        linked = path.is_symlink()
        reason: Reason = "not-a-file" if linked else "vanished"
        raise UndecodableError(reason, "broken link" if linked else _describe(error)) from error
    except PermissionError as error:
        raise UndecodableError("permission", _describe(error)) from error
    except OSError as error:
        reason = "not-a-file" if error.errno == errno.ELOOP else "unreadable"
        raise UndecodableError(reason, _describe(error)) from error


@contextmanager
def reasoned() -> Iterator[None]:
    """Whatever Pillow raises in the block, as our error."""
    try:
        yield
    except AmbiguousRangeError as error:
        raise UndecodableError("ambiguous-range", str(error)) from error
    except PILLOW_ERRORS as error:
        raise UndecodableError(_reason(error), _describe(error)) from error


@contextmanager
def _image(file: io.BufferedReader | io.BytesIO, decoding: Decoding) -> Iterator[Image.Image]:
    """An image of which the header is read."""
    if Image.MAX_IMAGE_PIXELS is not None and decoding.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = decoding.max_pixels  # of the process: Pillow knows no other limit
    _list_big_endian_white_is_zero()
    try:
        opened = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        size = f"{int(found[1]):,}" if found else "too many"
        raise UndecodableError("too-large", _too_large(size, decoding.max_pixels)) from error
    except UnidentifiedImageError as error:
        if kind := _kind_of_tiff(file):
            raise UndecodableError("unreadable", kind) from error
        raise
    with opened as image:
        width, height = image.size
        if width * height > decoding.max_pixels:
            size = f"{width} x {height}"
            raise UndecodableError("too-large", _too_large(size, decoding.max_pixels))
        yield image


def _too_large(size: str, max_pixels: int) -> str:
    return f"{size} pixels, at most {max_pixels:,} are decoded; allow more with --max-pixels"


def upright(
    image: Image.Image,
    decoding: Decoding = DEFAULT_DECODING,
    low_bytes: np.ndarray | None = None,
) -> Decoded:
    """An opened image as 8-bit RGB, turned as its camera was held; conversions as in `decode`.

    Args:
        image: of any mode.
        decoding: the range.
        low_bytes: of 16-bit color (height, width, channel), of which Pillow keeps the high ones.

    Raises:
        AmbiguousRangeError: nothing says which value is white. And Pillow's own errors, where the
            file is bad.
    """
    white, deep_color = _white(image), _is_deep_color(image)  # before load, which forgets it
    image.load()
    orientation = image.getexif().get(_ORIENTATION)  # after load: TIFF turns itself
    values: Values | None = None
    if image.mode.startswith("I") or image.mode == "F":
        image, values = _scaled_to_8_bit(image, decoding, white)
    elif low_bytes is not None:
        image, values = _windowed_color(image, decoding, low_bytes)
    elif deep_color:
        values = _of_high_bytes(image)
    rgb = rgb_over_gray(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return Decoded(rgb, values)


def rgb_over_gray(image: Image.Image) -> Image.Image:
    """An 8-bit image as RGB; what is transparent, over mid-gray."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    gray = Image.new("RGBA", image.size, (MID_GRAY, MID_GRAY, MID_GRAY, 255))
    return Image.alpha_composite(gray, image.convert("RGBA")).convert("RGB")


def _white(image: Image.Image) -> float | None:
    """The largest number of an image of one channel and more than 8 bits; None if nothing says."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        return float(2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1)
    if image.mode == "I" and image.format == "PPM":  # says its white, to which Pillow scales
        stated = [tile.args[-1] for tile in _tiles(image) if tile.codec_name.startswith("ppm")]
        return float(stated[0]) if stated else SIXTEEN_BITS
    return SIXTEEN_BITS if image.mode == "I" and image.format == "PNG" else None


def _scaled_to_8_bit(
    image: Image.Image, decoding: Decoding, white: float | None
) -> tuple[Image.Image, Values]:
    """Convert by range; `convert` would clip, so that 16-bit images come out white."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and white is not None:
        if image.format == "PPM":  # its own numbers again
            values = (values.astype(np.float64) * (white / SIXTEEN_BITS)).round()
        values = values.astype(np.uint16)
    elif image.mode == "I" and tags.get(_SAMPLE_FORMAT, (0,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    levels, found = to_8_bit(values, decoding, white)
    # Pillow turns fewer bits over itself.
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    return Image.fromarray(levels), found


def _is_deep_color(image: Image.Image) -> bool:
    """Whether an image that is not yet decoded has several channels of 16 bits."""
    return _raw_mode(image).startswith(_DEEP_COLOR)


def _raw_mode(image: Image.Image) -> str:
    arguments = next((tile.args for tile in _tiles(image)), "")
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    return raw if isinstance(raw, str) else ""


def _tiles(image: Image.Image) -> list[Any]:
    """How Pillow will decode a file; nothing once it has, and of what is no file."""
    return list(getattr(image, "tile", ()))


def _needs_low_bytes(decoding: Decoding) -> bool:
    return decoding.range not in ("auto", "full")


def _low_bytes(file: io.BufferedReader | io.BytesIO, decoding: Decoding) -> np.ndarray:
    """The second byte of each number of 16-bit color: (height, width, channel)."""
    file.seek(0)
    with _image(file, decoding) as image:
        raw = _raw_mode(image)
        if raw == "LA;16B":  # four bytes a pixel: gray and its second byte, alpha and its own
            other = "RGBA"
        else:
            head, _, tail = raw.partition(";")
            other = f"{head};{_OTHER_BYTE[tail]}"
        swapped: Any = image
        swapped.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in _tiles(image)
        ]
        image.load()
        pixels = np.asarray(image)
    file.seek(0)
    return pixels[..., [1, 1, 1]] if other == "RGBA" else pixels


def _windowed_color(
    image: Image.Image, decoding: Decoding, low_bytes: np.ndarray
) -> tuple[Image.Image, Values]:
    pixels = np.array(image)
    deep = pixels[..., :3].astype(np.uint16) << 8 | low_bytes[..., :3]
    pixels[..., :3], found = to_8_bit(deep, decoding, SIXTEEN_BITS)
    return Image.fromarray(pixels), found


def _of_high_bytes(image: Image.Image) -> Values:
    """What 16-bit color holds, as far as its high bytes tell."""
    pixels = np.asarray(image)[..., :3]
    return Values(256.0 * int(pixels.min()), 256.0 * int(pixels.max()) + 255, SIXTEEN_BITS)


@cache
def _list_big_endian_white_is_zero() -> None:
    """Add to Pillow's list the one kind of 16-bit gray that it can unpack and leaves out."""
    from PIL import TiffImagePlugin as Tiff

    Tiff.OPEN_INFO.setdefault((Tiff.MM, _WHITE_IS_ZERO, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


def _kind_of_tiff(file: io.BufferedReader | io.BytesIO) -> str | None:
    """What kind of TIFF a file is that Pillow does not know; None if it is none."""
    from PIL import TiffImagePlugin

    try:
        file.seek(0)
        header = file.read(8)
        if header[:4] not in _TIFF:
            return None
        directory = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(directory.next)
        directory.load(file)
        channels, bits = directory.get(_SAMPLES_PER_PIXEL, 1), directory[_BITS_PER_SAMPLE][0]
        return (
            f"a TIFF image with {channels} channels of {bits} bits and photometric interpretation "
            f"{directory[_PHOTOMETRIC]} is not read; write it as gray or RGB"
        )
    except PILLOW_ERRORS:
        return None


def _reason(error: Exception) -> Reason:
    text = str(error).lower()
    if isinstance(error, Image.DecompressionBombError | MemoryError) or "too large" in text:
        return "too-large"
    if isinstance(error, EOFError) or any(words in text for words in _CUT_SHORT):
        return "truncated"
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE):
        return "vanished"
    return "unreadable"


def _describe(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text holds a memory address
        return f"not a {', '.join(FORMATS)} image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"{type(error).__name__}: {text}"


def _quiet_pillow() -> None:
    """Keep what Pillow says besides its errors from whoever has not asked for it."""
    # `warnings.catch_warnings` is not safe where several threads decode: it would restore the
    # filters of another thread. So the one filter stays, and is put back where it was removed.
    pillow = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if pillow not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    logger = logging.getLogger("PIL")
    if not logger.handlers:  # then Python prints errors that are logged, as it has nobody to tell
        logger.addHandler(logging.NullHandler())


def square(image: Image.Image, side: int) -> UInt8[np.ndarray, "3 {side} {side}"]:
    """The central square of an RGB image, scaled to `side` pixels; small images are enlarged.

    The same as scaling the shorter side and then cropping, at a cost that does not depend on the
    longer one: 1 x 60,000 pixels would otherwise become gigabytes on the way.
    """
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    small = image.resize(
        (side, side),
        Image.Resampling.BILINEAR,  # Pillow's is antialiased
        box=(left, top, left + short, top + short),
        reducing_gap=3.0,
    )
    return np.asarray(small).transpose(2, 0, 1)


def squares(
    pixels: UInt8[np.ndarray, "batch 3 height width"], side: int
) -> UInt8[Tensor, "batch 3 {side} {side}"]:
    """Many decoded images as squares."""
    if pixels.shape[-2:] == (side, side):
        return torch.from_numpy(pixels)
    rows = [square(Image.fromarray(p.transpose(1, 2, 0)), side) for p in pixels]
    return torch.from_numpy(np.stack(rows))
