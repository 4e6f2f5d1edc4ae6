"""Classes that are folders named by their WordNet ids, as ImageNet has them."""

import re
from collections.abc import Sequence
from pathlib import Path

from empssl.data.folder import list_images
from empssl.errors import DataError


def read_ids(path: Path) -> list[str]:
    """The WordNet ids that a file lists, one at the start of each line, sorted.

    Their positions are the labels, as everybody numbers ImageNet's folders. Empty lines and those
    that begin with # are passed over; so are words after the id.

    Raises:
        DataError: there is no such file, a line is something else, an id comes twice, or there are
            fewer than two.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read the list of classes '{path}': {why}") from error
    ids: set[str] = set()
    for number, line in enumerate(lines, start=1):
        first = (line.split() or ["#"])[0]
        if first.startswith("#"):
            continue
        if not re.fullmatch(r"n\d{8}", first):
            raise DataError(
                f"'{path}', line {number}: '{first}' is no WordNet id; expected one such as "
                "n01443537 at the start of each line"
            )
        if first in ids:
            raise DataError(f"'{path}', line {number}: {first} is listed twice")
        ids.add(first)
    if len(ids) < 2:
        raise DataError(f"'{path}' lists {len(ids)} classes, expected two or more")
    return sorted(ids)


def class_images(
    root: Path, part: str, ids: Sequence[str], *, inner: str = "", remedy: str
) -> tuple[dict[str, int], list[int]]:
    """The images of the classes, class after class.

    Args:
        root: the data set.
        part: its folder that has a folder for each class.
        ids: the classes; others are left out.
        inner: the folder in each class folder that holds the images, if there is one.
        remedy: what to do if some are missing.

    Returns:
        Bytes by name relative to `root`, and the label of each: its class's position in `ids`.

    Raises:
        DataError: a class has no images, or a folder cannot be listed.
    """
    sizes: dict[str, int] = {}
    labels: list[int] = []
    missing = []
    for label, wnid in enumerate(ids):
        folder = "/".join(filter(None, (part, wnid, inner)))
        found = list_images(root / folder).sizes if (root / folder).is_dir() else {}
        if not found:
            missing.append(folder)
        sizes |= {f"{folder}/{name}": size for name, size in found.items()}
        labels += [label] * len(found)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} classes have no images in '{root}': none in "
            f"{', '.join(missing[:3])}{', ...' * (len(missing) > 3)}. {remedy}"
        )
    return sizes, labels
