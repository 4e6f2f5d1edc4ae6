"""An encoded image -> an upright RGB image, or the reason why not. Nothing else here decodes."""

import errno
import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

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

MID_GREY = 128

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
_BITS_PER_SAMPLE = 258


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


def decode(
    source: bytes | Path, *, max_pixels: int = 64_000_000, shrink_to: int | None = None
) -> Image.Image:
    """The whole image, upright, as 8-bit RGB. The first frame, where there are several.

    16-bit grey is scaled by its bit depth, never by its content. 16-bit color arrives from
    Pillow as its high bytes. Palette, 1-bit, grey, CMYK are converted as Pillow does, without
    color profiles. Alpha is composited over mid-grey. An image of which a part is missing is
    refused, not filled.

    Args:
        source: a file, or what was in it.
        max_pixels: read from the header and refused before anything is decoded.
        shrink_to: JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size, as long as the shorter
            side keeps twice this many pixels. Several times faster on photographs.

    Raises:
        UndecodableError: `unreadable`, `truncated` or `too-large`; `not-a-file` for a folder,
            pipe, device or broken link; `vanished`, `permission`; `ambiguous-range` for 32-bit
            numbers, unless they are floats within [0, 1], which are scaled to 255.
    """
    _quiet_pillow()
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), max_pixels, shrink_to)
    with _open_regular(source) as file:
        return _decode(file, max_pixels, shrink_to)


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


def _decode(
    file: io.BufferedReader | io.BytesIO, max_pixels: int, shrink_to: int | None
) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UndecodableError(
                    "too-large", f"{width} x {height} pixels, at most {max_pixels:,} are decoded"
                )
            if shrink_to is not None:
                image.draft(None, (2 * shrink_to, 2 * shrink_to))
            return upright(image)
    except PILLOW_ERRORS as error:
        raise UndecodableError(_reason(error), _describe(error)) from error


def upright(image: Image.Image) -> Image.Image:
    """An opened image as 8-bit RGB, turned as its camera was held; conversions as in `decode`.

    Raises:
        UndecodableError: `ambiguous-range`; Pillow's own errors where its file is bad.
    """
    image.load()
    orientation = image.getexif().get(_ORIENTATION)  # after load: TIFF turns itself
    rgb = _rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled_to_8_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    grey = Image.new("RGBA", image.size, (MID_GREY, MID_GREY, MID_GREY, 255))
    return Image.alpha_composite(grey, image.convert("RGBA")).convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """Convert by bit depth; `convert` would clip, so that 16-bit images come out white."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails too
            raise UndecodableError("ambiguous-range", f"floats from {low:g} to {high:g}")
        return Image.fromarray((values * 255 + 0.5).astype(np.uint8))
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # those two promise 0 to 65535
        raise UndecodableError("ambiguous-range", "32-bit integers")
    tags = getattr(image, "tag_v2", {})
    white = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype("u1"))


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
