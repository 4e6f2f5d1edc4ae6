"""A folder of images, flat or with one folder per class."""

import hashlib
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from empssl.data.class_counts import shortened
from empssl.data.encoded import EncodedImages
from empssl.data.label_file import NAMES as LABEL_FILES
from empssl.data.label_file import in_order, labels_beside
from empssl.data.magic import LENGTH, is_image
from empssl.data.split import (
    TEST_WORDS,
    TRAIN_WORDS,
    Division,
    Part,
    Split,
    divided,
    held_out,
    part,
)
from empssl.data.square import DEFAULT_SIDE
from empssl.data.value_range import DEFAULT_DECODING, Decoding
from empssl.errors import DataError

EXTENSIONS = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    # Images that are not read here: told with the bad ones, rather than left out in silence.
    *(".heic", ".heif", ".avif", ".jxl", ".jp2"),
}
_TEST_ORDER = tuple(word for words in TEST_WORDS for word in words)
# Beside folders of these names alone, others are left out; beside others, they are classes.
_EVIDENT = {*TRAIN_WORDS, *TEST_WORDS[0], *TEST_WORDS[1]}


# What file systems and their tools keep beside images: thumbnails, and forks of files.
_ASIDE = ("@eadir", "__macosx")
# TIFF by their first bytes, but raw data of a camera or pyramids of a slide: of these, a preview or
# nothing would be read.
_NOT_PLAIN_TIFF = {
    *(".dng", ".nef", ".cr2", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raw"),
    *(".svs", ".ndpi", ".scn"),
}
_MOST_VISITS = 64  # of a folder, over the links that lead to it


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


def open_folder(
    root: Path,
    *,
    split: Split | Literal["auto"],
    side: int = DEFAULT_SIDE,
    decoding: Decoding = DEFAULT_DECODING,
    division: Division = "stable",
) -> EncodedImages:
    """The images below a folder, scaled and cropped to squares.

    A folder for training beside one for testing gives the splits: `train` or `training`, and
    `test`, `testing`, `val`, `valid`, `validation`, `dev`, `eval`, `evaluation` or `holdout`; in
    capitals or not, alone or with another word that both have, as in `train_images`. Images
    elsewhere are left out; of several for test, the first that has classes if train has.

    Two or more folders, and no image beside them, are classes. One folder alone is looked through.
    Classes without given splits are divided 80 : 20 by `split.divided`, by the path of an image
    from the folder that holds the classes. Images without classes are never divided: `train` is
    all of them.

    The fingerprint covers names and sizes, not contents: a file replaced by another of the same
    size goes unnoticed.

    Args:
        root: the folder.
        split: auto is train where splits are given, else all.
        side: pixels.
        decoding: as of EncodedImages.
        division: how classes without given splits are divided.

    Raises:
        DataError: no images; no test split; none of the images can be decoded.
    """
    listing = list_images(root)
    if not listing.files:
        raise DataError(
            f"no images in '{root}': looked for {', '.join(sorted(EXTENSIONS))} and for files that "
            f"start like one in it and its folders, leaving out hidden ones, and found "
            f"{_counted(listing.others) or 'no files'}{_closed(listing)}"
        )
    inner, splits, parts = _layout(_within(listing.files))
    tabled = labels_beside(root, listing.tables)
    classes: dict[str, str | None] = {name: _folder(path) for name, path in inner.items()}
    if tabled:
        classes = {name: tabled.get(name) for name in inner}
        if not any(classes.values()):
            raise DataError(
                f"{', '.join(listing.tables)} in '{root}' names none of its {len(inner)} images: "
                f"it names {next(iter(tabled))!r}, and there is {next(iter(inner))!r}"
            )
    kept = once(listing.files, {n: (splits and splits[n], classes[n]) for n in inner})
    inner = {name: inner[name] for name in kept}
    class_names = in_order(c for n in inner if (c := classes[n]) is not None)
    numbers: dict[str | None, int] = {None: -1}  # a test folder that has no classes
    numbers |= {class_name: k for k, class_name in enumerate(class_names)}
    fitted = [n for n in inner if splits is None or splits[n] == "train"]  # by which labels go
    known = any if tabled else all
    labelled = len(class_names) > 1 and known(classes[name] is not None for name in fitted)
    if not labelled:
        inner = {name: inner[name] for name in once(
            listing.files, {n: splits and splits[n] for n in inner}
        )}  # fmt: skip

    names = list(inner)
    if split == "auto":
        split = "train" if splits else "all"
    if splits is None and not labelled:
        if split == "test":
            raise DataError(
                f"'{root}' has no test split: it has neither classes nor a 'train' and a 'test' "
                "folder. Make those, or give one folder of images per class"
            )
        split = "all"
    if split != "all":
        if splits is None:
            splits = _divided(inner, [numbers[classes[name]] for name in names], division)
        names = [n for n in names if splits[n] == split]
        if not names:
            raise DataError(f"none of the {len(inner)} images in '{root}' is in the {split} split")
    labelled = labelled and any(classes[name] is not None for name in names)
    images = open_files(
        root,
        {name: listing.files[name].size for name in names},
        name=str(root),
        split=split,
        side=side,
        labels=[numbers[classes[n]] for n in names] if labelled else None,
        class_names=class_names if labelled else (),
        decoding=decoding,
    )
    images.part = ", ".join(parts.get(split, ()))
    images.files = _accounts(listing, inner, bool(parts))
    return images


def _within(files: dict[str, File]) -> list[str]:
    """The names by which images are laid out: without links from beside the folders into them."""
    top = _top(list(files))
    deeper = {file.identity for name, file in files.items() if posixpath.dirname(name) != top}
    return [
        name for name, file in files.items()
        if posixpath.dirname(name) != top or file.identity is None or file.identity not in deeper
    ]  # fmt: skip


def _top(names: list[str]) -> str:
    """The folder that holds all of them."""
    return posixpath.commonpath([posixpath.dirname(name) for name in names])


def _accounts(listing: Listing, used: Iterable[str], given: bool) -> str:
    """What became of every file, in a line; empty where all are images of the set."""
    kept = set(used)
    known = {listing.files[name].identity for name in kept} - {None}
    twice = sum(file.identity in known for name, file in listing.files.items() if name not in kept)
    beside = len(listing.files) - len(kept) - twice
    reasons = Counter(listing.others)
    reasons["link to a listed file"] += twice
    reasons["beside the folders of the splits"] += beside
    left = _counted(reasons)
    found = _counted(listing.by_content)
    if not (left or found or listing.closed):
        return ""
    return (
        f"{len(kept)} image files" + (f", {listing.by_content.total()} by their content ({found})"
        if found else "") + f"; left out: {left or 'none'}{_closed(listing)}"
    )  # fmt: skip


def _counted(reasons: Counter[str]) -> str:
    """The ten most frequent reasons with their counts."""
    counts = sorted(((n, r) for r, n in reasons.items() if n), key=lambda item: (-item[0], item[1]))
    more = sum(n for n, _ in counts[10:])
    return ", ".join(f"{n} {shortened(r)}" for n, r in counts[:10]) + (
        f" and {more} more" if more else ""
    )


def _closed(listing: Listing) -> str:
    if not listing.closed:
        return ""
    first, why = next(iter(listing.closed.items()))
    many = f" and {len(listing.closed) - 1} more" if len(listing.closed) > 1 else ""
    return f"; cannot list {first!r}{many}: {why}"


def open_files(
    root: Path,
    sizes: dict[str, int],
    *,
    name: str,
    split: str,
    side: int,
    labels: Sequence[int] | None,
    class_names: Sequence[str],
    decoding: Decoding = DEFAULT_DECODING,
) -> EncodedImages:
    """Images of which the files are known, in the order given.

    Args:
        root: the folder that they are in.
        sizes: bytes by name relative to `root`.
        name: what the user calls the set.
        split: train, test or all.
        side: pixels.
        labels: of each; -1 where unknown, None where there are none.
        class_names: by label.
        decoding: as of EncodedImages.

    Raises:
        DataError: none of the images can be decoded.
    """
    names = list(sizes)
    return EncodedImages(
        lambda index: root / names[index],
        names,
        name=name,
        split=split,
        side=side,
        fingerprint=_fingerprint(sizes),
        labels=None if labels is None else torch.tensor(labels),
        class_names=class_names,
        decoding=decoding,
    )


def _layout(
    names: list[str],
) -> tuple[dict[str, str], dict[str, Split] | None, dict[Split, list[str]]]:
    """By name: the path that starts with the class if there is one; the split if it is given.

    And the folders of each split.
    """
    top = _top(names)
    inner = {name: posixpath.relpath(name, top) if top else name for name in names}
    within: dict[str, dict[str, str]] = {}  # by first folder
    beside = False
    for name, path in inner.items():
        first, _, rest = path.partition("/")
        if rest:
            within.setdefault(first, {})[name] = rest
        beside |= not rest
    found = _given(within, beside=beside)
    if found is None:
        return inner, None, {}
    splits: dict[str, Split] = {}
    both: dict[str, str] = {}
    parts: dict[Split, list[str]] = {"train": found[0], "test": found[1]}
    for split, folders_of in parts.items():
        for folder in folders_of:
            splits |= dict.fromkeys(within[folder], split)
            both |= within[folder]
    return {name: both[name] for name in inner if name in both}, splits, parts


def _given(
    within: dict[str, dict[str, str]], *, beside: bool
) -> tuple[list[str], list[str]] | None:
    """The folders of train and those of test; None where folders are classes, or something else.

    Args:
        within: by first folder, the paths in it.
        beside: whether there are images beside the folders.
    """
    parts = {folder: found for folder in within if (found := part(folder)) is not None}
    for rest in sorted({found.rest for found in parts.values()}, key=len):
        alike = {folder: found for folder, found in parts.items() if found.rest == rest}
        train = _of_word(alike, TRAIN_WORDS)
        if not train:
            continue
        classes = any(_folder(path) for folder in train for path in within[folder].values())
        tests = [named for word in _TEST_ORDER if (named := _of_word(alike, (word,)))]
        if not tests:
            continue
        test = next((t for t in tests if all(
            all(map(_folder, within[folder].values())) == classes for folder in t
        )), tests[0])  # fmt: skip
        used = [parts[folder] for folder in (*train, *test)]
        evident = all(p.plain and (classes or p.word in _EVIDENT) for p in used)
        if evident or (len(alike) == len(within) and not beside):
            return train, test
    return None


def _of_word(parts: dict[str, Part], words: Sequence[str]) -> list[str]:
    """The folders of the first of these words that there is."""
    for word in words:
        if found := [folder for folder, its in parts.items() if its.word == word]:
            return found
    return []


def _divided(inner: dict[str, str], labels: list[int], division: Division) -> dict[str, Split]:
    """The split of each image, by the program."""
    if division == "by_name":
        return {name: "test" if held_out(name) else "train" for name in inner}
    return dict(zip(inner, divided(list(inner.values()), labels), strict=True))


def _folder(path: str) -> str | None:
    """The first folder of a path, if it has one."""
    return path.partition("/")[0] if "/" in path else None


def _fingerprint(sizes: dict[str, int]) -> str:
    digest = hashlib.sha256()
    for name, size in sizes.items():
        digest.update(os.fsencode(name) + b"\0%d\0" % size)
    return digest.hexdigest()
