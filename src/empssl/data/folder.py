"""A folder of images, flat or with one folder per class."""

import hashlib
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from empssl.data.encoded import EncodedImages
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


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        sizes: bytes by relative name, sorted by name; 0 where they cannot be asked for.
        others: files that are not images by their extension, counted by it.
    """

    sizes: dict[str, int]
    others: Counter[str]


def list_images(root: Path) -> Listing:
    """Every image below `root`, each file once, whatever links lead to it.

    Links are followed last, so that a file goes by its own name where it has one below `root`.
    Hidden files and folders are left out. Names use `/`. What is called like an image and is none
    (a pipe, a broken link) is listed: decoding it says what it is.

    Raises:
        DataError: a folder cannot be listed.
    """
    sizes: dict[str, int] = {}
    others: Counter[str] = Counter()
    visited: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        if folders:
            names, linked = _entries(root, folders.pop())
            links += linked
        else:
            names = [links.pop(0)]
        for name in names:
            try:
                info = os.stat(os.path.join(root, name))  # a path object for each costs more
            except OSError:  # a broken link or a link to itself
                info = None
            if info is not None:
                identity = (info.st_dev, info.st_ino)
                if identity in visited:
                    continue
                if info.st_ino:  # some network drives number no files
                    visited.add(identity)
                if stat.S_ISDIR(info.st_mode):
                    folders.append(name)
                    continue
            extension = posixpath.splitext(name)[1].lower()
            if extension in EXTENSIONS:
                sizes[name] = info.st_size if info is not None else 0
            else:
                others[extension or "no extension"] += 1
    return Listing(dict(sorted(sizes.items())), others)


def _entries(root: Path, folder: str) -> tuple[list[str], list[str]]:
    names: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if not entry.name.startswith("."):
                    name = posixpath.join(folder, entry.name)
                    (links if entry.is_symlink() else names).append(name)
    except OSError as error:
        raise DataError(f"cannot list {str(root / folder)!r}: {error.strerror}") from error
    return names, links


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
    if not listing.sizes:
        counts = sorted(listing.others.items(), key=lambda item: (-item[1], item[0]))
        found = ", ".join(f"{n} {extension}" for extension, n in counts[:10]) or "no files"
        raise DataError(
            f"no images in '{root}': looked for {', '.join(sorted(EXTENSIONS))} "
            f"in it and its folders, leaving out hidden ones, and found {found}"
        )
    inner, splits, parts = _layout(list(listing.sizes))
    folders = {name: _folder(path) for name, path in inner.items()}
    class_names = sorted({folder for folder in folders.values() if folder is not None})
    numbers: dict[str | None, int] = {None: -1}  # a test folder that has no classes
    numbers |= {class_name: k for k, class_name in enumerate(class_names)}
    fitted = [n for n in inner if splits is None or splits[n] == "train"]  # by which labels go
    labelled = len(class_names) > 1 and all(folders[name] is not None for name in fitted)

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
            splits = _divided(inner, [numbers[folders[name]] for name in names], division)
        names = [n for n in names if splits[n] == split]
        if not names:
            raise DataError(f"none of the {len(inner)} images in '{root}' is in the {split} split")
    labelled = labelled and any(folders[name] is not None for name in names)
    images = open_files(
        root,
        {name: listing.sizes[name] for name in names},
        name=str(root),
        split=split,
        side=side,
        labels=[numbers[folders[n]] for n in names] if labelled else None,
        class_names=class_names if labelled else (),
        decoding=decoding,
    )
    images.part = ", ".join(parts.get(split, ()))
    return images


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
    top = posixpath.commonpath([posixpath.dirname(name) for name in names])
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
