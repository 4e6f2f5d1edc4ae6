"""Whether a file is an image, by its first bytes: whatever it is called."""

import re

LENGTH = 32  # bytes that are looked at

_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF and BigTIFF
    # Not read here, as the brands below: JPEG XL and JPEG 2000.
    *(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0cjP  \r\n\x87\n"),
)
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
# Of the ISO container: what is not read here, but told with the bad images.
_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


def is_image(start: bytes) -> bool:
    r"""Whether a file that starts so is an image of a format with an extension in `folder`.

    >>> is_image(b"\x89PNG\r\n\x1a\n"), is_image(b"P5\n12 9\n255\n"), is_image(b"P5, page 12")
    (True, True, False)
    """
    return (
        start.startswith(_BEGINNINGS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BITMAP_HEADERS)
        or re.match(rb"P[1-6]\s+(\d|#)", start) is not None
        or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)
    )
