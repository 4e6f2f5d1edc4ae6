"""ImageNet-100: the 100 classes of ImageNet that Tian et al. (2019) chose for CMC."""

import re
from collections.abc import Sequence
from pathlib import Path

from empssl.data.download import Progress
from empssl.data.encoded import EncodedImages
from empssl.data.folder import open_files
from empssl.data.listing import list_images
from empssl.errors import DataError
from empssl.types import Split

CLASSES = Path(__file__).with_name("imagenet100.txt")
_FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}


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


def open_imagenet100(
    *,
    split: Split,
    data_dir: Path,
    side: int = 224,
    download: bool = False,
    progress: Progress | None = None,
    classes: Path | None = None,
) -> EncodedImages:
    """The images of 100 classes in a folder of ImageNet's, as they are asked for.

    The shorter side is scaled to `side` and the middle is cut out, once; patches come from there.
    Labels are positions in the sorted ids, and the ids are the names of the classes.

    Args:
        split: `train` and `val` of ImageNet, which is `test` here; `all` is one, then the other.
        data_dir: the folder with `train/ID/*.JPEG` and `val/ID/*.JPEG`, or the one around it if
            it is called `imagenet100` or `imagenet`. More classes than those wanted do no harm.
        side: pixels.
        download: changes nothing: the images cannot be had without an account.
        progress: never called.
        classes: a file with the ids of other classes, one a line.

    Raises:
        DataError: classes or images are missing, or none can be decoded.
    """
    ids = read_ids(classes or CLASSES)
    root = next(
        (
            folder for folder in (data_dir, data_dir / "imagenet100", data_dir / "imagenet")
            if any((folder / name).is_dir() for name in _FOLDERS.values())
        ),
        None,
    )  # fmt: skip
    if root is None:
        raise DataError(
            f"imagenet100 is not in '{data_dir}': no folders train and val there, nor in "
            "imagenet100/ or imagenet/. Say with data_dir where ImageNet (ILSVRC2012) is unpacked, "
            "a folder of images for each class; it cannot be downloaded without an account"
        )
    sizes: dict[str, int] = {}
    labels: list[int] = []
    for part, folder in _FOLDERS.items():
        if split in (part, "all"):
            found = class_images(root, folder, ids, remedy=_remedy(root, folder))
            sizes |= found[0]
            labels += found[1]
    return open_files(
        root,
        sizes,
        name="imagenet100",
        split=split,
        side=side,
        labels=labels,
        class_names=ids,
    )


def _remedy(root: Path, folder: str) -> str:
    """What is to be done where a class has no images: it depends on what there is instead."""
    if any((root / folder).glob("n*.tar")):
        return f"There are .tar files in {folder}: unpack each into a folder of its name"
    if any((root / folder).glob("ILSVRC2012_val_*")):
        return f"The images lie in {folder} itself: move each into the folder of its class"
    return "Unpack what is missing, or list the classes that you have: imagenet100:FILE"
