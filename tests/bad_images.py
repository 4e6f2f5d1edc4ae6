"""Odd and bad image files with the verdict that each must get: `ok`, or the reason why not.

Run it to make them in a folder: `python tests/bad_images.py FOLDER`.
"""

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

_RNG = np.random.default_rng(0)
_NOISE = _RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The image as a file of this format."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(number: int, side: int = 40) -> bytes:
    """A good PNG, another for each number."""
    rng = np.random.default_rng(number)
    return encoded(Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)), "PNG")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png_16_bit(rows: np.ndarray) -> bytes:
    """Of (height, width, channel), which Pillow cannot write: gray and alpha, RGB or RGBA."""
    height, width, channels = rows.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)  # no filter
    body = png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def tiff(
    data: bytes,
    width: int,
    height: int,
    *,
    bits: int,
    photometric: int,
    channels: int = 1,
    sample_format: int = 1,
    extra: int = 0,
) -> bytes:
    """One strip of little-endian numbers, which Pillow writes of few kinds only.

    Args:
        data: packed, each row in whole bytes.
        width: pixels.
        height: pixels.
        bits: of a number.
        photometric: 0 where zero is white, 1 where it is black, 2 for RGB.
        channels: numbers of a pixel.
        sample_format: 1 for unsigned, 2 for signed integers, 3 for floats.
        extra: channels besides the color's.
    """
    shorts = np.array([bits] * channels, "<u2").tobytes() + np.zeros(extra, "<u2").tobytes()
    numbers = 8 + len(data)
    directory = numbers + len(shorts)

    def several(tag: int, count: int, at: int) -> tuple[int, int, int, int]:
        if count > 2:  # else they are in the entry itself
            return tag, 3, count, at
        return tag, 3, count, int.from_bytes(shorts[at - numbers :][: 2 * count], "little")

    tags = [
        (256, 4, 1, width), (257, 4, 1, height), several(258, channels, numbers), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height),
        (279, 4, 1, len(data)), (339, 3, 1, sample_format),
    ]  # fmt: skip
    if extra:
        tags.insert(-1, several(338, extra, numbers + 2 * channels))
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    count = struct.pack("<H", len(tags))
    return b"II*\0" + struct.pack("<I", directory) + data + shorts + count + entries + bytes(4)


def png_claiming(width: int, height: int, *chunks: bytes) -> bytes:
    """A small PNG file whose header claims any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(bytes(3_000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def _files() -> dict[str, tuple[str, bytes]]:
    color = Image.fromarray(_NOISE)
    grey = color.convert("L")
    alpha = Image.fromarray(np.dstack([_NOISE, _NOISE[..., :1]]))
    deep = Image.fromarray(_NOISE[..., 0].astype(np.uint16) * 257)
    jpg, png = encoded(color, "JPEG"), encoded(color, "PNG")
    webp = encoded(color, "WEBP")
    gif = encoded(color, "GIF")
    more = {"save_all": True, "append_images": [color.rotate(90), color.rotate(180)]}
    orientation, long_text = Image.Exif(), PngInfo()
    orientation[0x0112] = 6
    long_text.add_text("comment", "x" * 2_000_000, zip=True)
    see_through = {"transparency": bytes(range(256))}
    unit = np.linspace(0, 1, 48, dtype=np.float32)[None].repeat(40, 0)
    bad_header = bytearray(png)
    bad_header[18] ^= 1  # the width no longer agrees with its checksum
    broken_exif = encoded(color, "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    huge_gif = gif[:6] + struct.pack("<HH", 20_000, 20_000) + gif[10:]
    huge_bmp = bytearray(encoded(color, "BMP"))
    huge_bmp[18:26] = struct.pack("<ii", 10_000, 10_000)

    return {
        # nothing that is an image
        "empty.jpg": ("unreadable", b""),
        "text.jpg": ("unreadable", b"this is not a picture\n" * 40),
        "page.png": ("unreadable", b"<!doctype html><title>404</title>"),
        "signature.png": ("unreadable", png[:8]),
        "marker.jpg": ("unreadable", jpg[:2]),
        "postscript.png": ("unreadable", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "document.png": ("unreadable", b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n"),
        "metafile.png": ("unreadable", b"\xd7\xcd\xc6\x9a\0\0" + bytes(40)),
        "icon.png": ("unreadable", encoded(color, "ICO")),
        "wrong-checksum.png": ("unreadable", bytes(bad_header)),
        "negative.ppm": ("unreadable", b"P6 -1 -1 255\n" + bytes(9)),
        "half.webp": ("unreadable", webp[: len(webp) // 2]),
        "noise.tif": ("unreadable", b"II*\0" + _NOISE.tobytes()),
        # the beginning of one
        "half.jpg": ("truncated", jpg[: len(jpg) // 2]),
        "half.png": ("truncated", png[: len(png) // 2]),
        "half.gif": ("truncated", gif[: len(gif) // 2]),
        "half.bmp": ("truncated", encoded(color, "BMP")[:2000]),
        "half.ppm": ("truncated", encoded(color, "PPM")[:2000]),
        "half.tif": ("truncated", _cut_tiff(color)),
        # more than one wants in memory
        "bomb-10k.png": ("too-large", png_claiming(10_000, 10_000)),
        "bomb-13k.png": ("too-large", png_claiming(13_000, 13_000)),
        "bomb-20k.png": ("too-large", png_claiming(20_000, 20_000)),
        "bomb.gif": ("too-large", huge_gif),
        "bomb.bmp": ("too-large", bytes(huge_bmp)),
        "bomb-text.png": ("too-large", encoded(color, "PNG", pnginfo=long_text)),
        # numbers without a known white
        "float-1000.tif": ("ambiguous-range", encoded(Image.fromarray(unit * 1000), "TIFF")),
        "float-nan.tif": ("ambiguous-range", encoded(Image.fromarray(unit * np.nan), "TIFF")),
        "int32.tif": ("ambiguous-range", encoded(Image.fromarray(np.int32(unit * 900)), "TIFF")),
        # odd, and fine
        "cmyk.jpg": ("ok", encoded(color.convert("CMYK"), "JPEG")),
        "grey-alpha.png": ("ok", encoded(grey.convert("LA"), "PNG")),
        "palette.png": ("ok", encoded(color.convert("P"), "PNG")),
        "palette-alpha.png": ("ok", encoded(color.convert("P"), "PNG", **see_through)),
        "alpha.png": ("ok", encoded(alpha, "PNG")),
        "alpha.webp": ("ok", encoded(alpha, "WEBP")),
        "one-bit.png": ("ok", encoded(color.convert("1"), "PNG")),
        "sixteen-bit.png": ("ok", encoded(deep, "PNG")),
        "sixteen-bit.tif": ("ok", encoded(deep, "TIFF")),
        "sixteen-bit.pgm": ("ok", encoded(deep, "PPM")),
        "float.tif": ("ok", encoded(Image.fromarray(unit), "TIFF")),
        "animated.gif": ("ok", encoded(color, "GIF", **more)),
        "animated.webp": ("ok", encoded(color, "WEBP", **more)),
        "animated.png": ("ok", encoded(color, "PNG", **more)),
        "pages.tif": ("ok", encoded(color, "TIFF", **more)),
        "turned.jpg": ("ok", encoded(color, "JPEG", exif=orientation)),
        "broken-exif.jpg": ("ok", broken_exif),
        "really-a-jpeg.png": ("ok", jpg),
        "SHOUTING.JPG": ("ok", jpg),
        "pixel.png": ("ok", photo(1, side=1)),
        "thin.png": ("ok", encoded(Image.new("RGB", (1, 5000), "red"), "PNG")),
        "blank.png": ("ok", encoded(Image.new("RGB", (40, 40)), "PNG")),
    }  # fmt: skip


def _cut_tiff(image: Image.Image) -> bytes:
    # Pillow writes the directory first, so that the end of the file is pixels.
    data = encoded(image, "TIFF")
    return data[: len(data) - 2000]


def make_bad_images(folder: Path) -> dict[str, str]:
    """Write all of them, and return the verdict for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = _files()
    for name, (_, data) in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken-link.jpg").symlink_to("nothing-here.jpg")
    (folder / "own-tail.jpg").symlink_to("own-tail.jpg")
    special = dict.fromkeys(("pipe.jpg", "broken-link.jpg", "own-tail.jpg"), "not-a-file")
    return {name: verdict for name, (verdict, _) in files.items()} | special


if __name__ == "__main__":
    for name, verdict in make_bad_images(Path(sys.argv[1])).items():
        print(f"{verdict:16} {name}")
