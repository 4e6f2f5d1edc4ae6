"""A folder of images, flat or with one folder per class."""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch

from empssl.data.checks import shortened
from empssl.data.decode import DEFAULT_SIDE
from empssl.data.encoded import EncodedImages
from empssl.data.label_file import in_order, labels_beside
from empssl.data.listing import EXTENSIONS, File, Listing, list_images, once
from empssl.data.splits import TEST_WORDS, TRAIN_WORDS, Part, divided, held_out, part
from empssl.data.value_range import DEFAULT_DECODING, Decoding
from empssl.errors import DataError
from empssl.types import Division, Split

_TEST_ORDER = tuple(word for words in TEST_WORDS for word in words)
# Beside folders of these names alone, others are left out; beside others, they are classes.
_EVIDENT = {*TRAIN_WORDS, *TEST_WORDS[0], *TEST_WORDS[1]}


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
