"""Every file of a folder: which are images, and what the others are."""

import os
import posixpath
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl.data.label_file import NAMES as LABEL_FILES

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
EXTENSIONS = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    # Images that are not read here: told with the bad ones, rather than left out in silence.
    *(".heic", ".heif", ".avif", ".jxl", ".jp2"),
}
# What file systems and their tools keep beside images: thumbnails, and forks of files.
_ASIDE = ("@eadir", "__macosx")
# TIFF by their first bytes, but raw data of a camera or pyramids of a slide: of these, a preview or
# nothing would be read.
_NOT_PLAIN_TIFF = {
    *(".dng", ".nef", ".cr2", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raw"),
    *(".svs", ".ndpi", ".scn"),
}
_MOST_VISITS = 64  # of a folder, over the links that lead to it


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


@dataclass(frozen=True)
class File:
    """An image file, or what is called like one.

    Attributes:
        size: bytes; 0 where they cannot be asked for.
        identity: the same for all names of a file; None where that cannot be asked for.
        linked: whether a symbolic link leads to it.
    """

    size: int
    identity: tuple[int, int] | None
    linked: bool


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        files: by relative name, sorted by it; all names of a file are there.
        others: files and folders that are left out, counted by reason: the extension where a file
            is no image.
        by_content: images that only their content shows to be some, counted by extension.
        tables: files that may hold labels.
        closed: folders that cannot be listed, with the reason.
    """

    files: dict[str, File]
    others: Counter[str]
    by_content: Counter[str]
    tables: list[str]
    closed: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by relative name, each file once, by a name of its own where it has one."""
        kept = once(self.files, dict.fromkeys(self.files))
        return {name: self.files[name].size for name in kept}


def once(files: dict[str, File], groups: dict[str, Any]) -> list[str]:
    """The names in `groups`, but for the second name of a file within a group.

    Args:
        files: by name.
        groups: by name, what it stands for: a class, say.
    """
    first: dict[Any, str] = {}
    for name in sorted(groups, key=lambda name: (files[name].linked, name)):
        identity = files[name].identity
        first.setdefault((groups[name], name if identity is None else identity), name)
    kept = set(first.values())
    return [name for name in groups if name in kept]


def list_images(root: Path) -> Listing:
    """Every image below `root`, by every name that leads to it.

    An image is what has the extension of one, or starts like one. Links are followed, but not back
    into a folder that they are in. Hidden files and folders are left out. Names use `/`. What is
    called like an image and is none (a pipe, a broken link) is listed: decoding it says what it is.
    """
    files: dict[str, File] = {}
    others, by_content, visits = Counter[str](), Counter[str](), Counter[tuple[int, int]]()
    tables: list[str] = []
    closed: dict[str, str] = {}
    folders: list[tuple[str, tuple[tuple[int, int], ...], bool]] = [("", _chain(root), False)]
    while folders:
        folder, around, linked = folders.pop()
        for name, is_link in _entries(root, folder, closed):
            label = posixpath.basename(name)
            if label.startswith("."):
                others["hidden"] += 1
                continue
            info = _info(root, name)
            identity = (info.st_dev, info.st_ino) if info is not None and info.st_ino else None
            if info is not None and stat.S_ISDIR(info.st_mode):
                if label.lower() in _ASIDE:
                    others["folder of thumbnails"] += 1
                elif identity in around or visits[identity or (0, 0)] >= _MOST_VISITS:
                    others["link back to a folder"] += 1
                else:
                    if identity is not None:
                        visits[identity] += 1
                        folders.append((name, (*around, identity), linked or is_link))
                    else:  # some network drives number no files
                        folders.append((name, around, linked or is_link))
                continue
            extension = posixpath.splitext(name)[1].lower()
            if label.lower() in LABEL_FILES:
                tables.append(name)
                continue
            if extension not in EXTENSIONS:
                if not _starts_as_image(root, name, info, extension):
                    others[extension or "no extension"] += 1
                    continue
                by_content[extension or "no extension"] += 1
            size = info.st_size if info is not None else 0
            files[name] = File(size, identity, linked or is_link)
    return Listing(dict(sorted(files.items())), others, by_content, sorted(tables), closed)


def _chain(root: Path) -> tuple[tuple[int, int], ...]:
    info = _info(root, "")
    return () if info is None or not info.st_ino else ((info.st_dev, info.st_ino),)


def _info(root: Path, name: str) -> os.stat_result | None:
    """None for a broken link, or a link to itself."""
    try:
        return os.stat(os.path.join(root, name))  # a path object for each costs more
    except OSError:
        return None


def _entries(root: Path, folder: str, closed: dict[str, str]) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, and whether each is a link; none if it cannot be listed."""
    try:
        with os.scandir(root / folder) as entries:
            found = [(posixpath.join(folder, e.name), e.is_symlink()) for e in entries]
    except OSError as error:
        closed[str(root / folder)] = error.strerror or str(error)
        return []
    return sorted(found)


def _starts_as_image(root: Path, name: str, info: os.stat_result | None, extension: str) -> bool:
    if info is None or not stat.S_ISREG(info.st_mode) or extension in _NOT_PLAIN_TIFF:
        return False  # opening a pipe would wait for ever
    try:
        with open(os.path.join(root, name), "rb") as file:
            return is_image(file.read(LENGTH))
    except OSError:
        return False
