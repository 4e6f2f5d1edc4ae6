"""From what a user calls the data to an image set."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from empssl.data.base import ImageSet, check_side
from empssl.data.cifar import open_cifar
from empssl.data.digits import open_digits
from empssl.data.download import Progress
from empssl.data.folder import open_folder
from empssl.data.imagenet100 import open_imagenet100
from empssl.data.listing import list_images
from empssl.data.objects import GivenImages, ImagesLike, given_images, is_recorded_object
from empssl.data.parquet import holds_images, open_parquet, parquet_files
from empssl.data.pentominoes import open_pentominoes
from empssl.data.tiny_imagenet import open_tiny_imagenet
from empssl.data.value_range import DEFAULT_DECODING, Decoding
from empssl.errors import DataError, UsageError, nearest
from empssl.types import Division, Split


@dataclass(frozen=True)
class KnownDataset:
    """A data set known by name.

    Attributes:
        open: makes it an image set. Called with `split`, `data_dir`, `download` and `progress`, as
            of `open_images`, and with `side` where one is asked for: its default is the data's own.
        needs_files: whether it is read from `data_dir`; otherwise it comes with this package.
        takes_classes: whether `NAME:FILE` gives `open` that file as `classes`.
    """

    open: Callable[..., ImageSet]
    needs_files: bool = True
    takes_classes: bool = False


DATASETS = {
    "digits": KnownDataset(open_digits, needs_files=False),
    "pentominoes": KnownDataset(open_pentominoes, needs_files=False),
    "cifar10": KnownDataset(partial(open_cifar, "cifar10")),
    "cifar100": KnownDataset(partial(open_cifar, "cifar100")),
    "tiny-imagenet": KnownDataset(open_tiny_imagenet),
    "imagenet100": KnownDataset(open_imagenet100, takes_classes=True),
}
NAMES = tuple(DATASETS)
MADE = tuple(name for name, known in DATASETS.items() if not known.needs_files)


def is_name(data: str) -> bool:
    """Whether this is a data set known by name, which `data_dir` holds, and no path.

    >>> is_name("digits"), is_name("./digits"), is_name("imagenet100:mine.txt"), is_name("digits:x")
    (True, False, True, False)
    """
    name, colon, _ = data.partition(":")
    return name in DATASETS and (not colon or DATASETS[name].takes_classes)


def resolve_data(data: ImagesLike) -> str | GivenImages:
    """The name or path of data as text, or what a program gave instead.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, os.PathLike):
        path = os.fsdecode(data)
        return os.path.join(os.curdir, path) if is_name(path) else path  # a path is no name
    return given_images(data)


def open_images(
    data: ImagesLike,
    *,
    split: Split | Literal["auto"],
    data_dir: str | Path | None = None,
    side: int | None = None,
    decoding: Decoding = DEFAULT_DECODING,
    download: bool = False,
    division: Division = "stable",
    progress: Progress | None = None,
) -> ImageSet:
    """The images that a user means by `data`.

    Args:
        data: a name in `DATASETS`, or a path: a folder of images, a parquet file or a folder of
            those. `./digits` is a folder even so. `imagenet100:FILE` takes the classes that the
            file lists. Or images as objects: see `images_from`.
        split: `all` is every image; what `train` and `test` are is said by the function that
            opens each kind. auto is train where the data say so themselves, as those known by name
            do, else all.
        data_dir: where a data set known by name is; default the folder `data`.
        side: pixels. Default the own of a data set known by name, else 64.
        decoding: of files that are given by path: which values become black and white where there
            are more than 256, and how many pixels an image may have.
        download: fetch what is missing, where the authors offer it.
        division: how a folder or Parquet file without splits of its own is divided.
        progress: called with the bytes fetched and the bytes in all.

    Raises:
        DataError: there is no such data, or none of it can be used.
        UsageError: `data` is empty, or `side` is not a number of pixels that an image may have.
    """
    check_side(side)
    data = resolve_data(data)
    if isinstance(data, GivenImages):
        return data.open(split=split, side=side, decoding=decoding)
    if not data.strip():
        raise UsageError("data is empty: name a data set or a path; this folder is '.'")
    given: dict[str, Any] = {} if side is None else {"side": side}
    if not is_name(data):
        path = _expanded(data)
        return _open_path(data, path, split=split, decoding=decoding, division=division, **given)
    name, _, listed = data.partition(":")
    if listed:
        given["classes"] = _expanded(listed)
    return DATASETS[name].open(
        split="train" if split == "auto" else split,
        data_dir=_expanded("data" if data_dir is None else data_dir),
        download=download,
        progress=progress,
        **given,
    )


def _open_path(data: str, path: Path, **options: Any) -> ImageSet:
    """A folder of images, or a Parquet file, or a folder of those.

    Raises:
        DataError: there is no such data, or none of it can be used.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, False where the path cannot be looked up
        # Embeddings that were written beside the images are no images.
        files = parquet_files(path)
        in_parquet = files and (holds_images(files[0]) or not list_images(path).sizes)
        return (open_parquet if in_parquet else open_folder)(path, **options)
    if os.path.isfile(path) and path.suffix == ".parquet":
        return open_parquet(path, **options)
    if is_recorded_object(data):
        raise DataError(
            f"{data} were given by a program as an object, which is not kept; call from Python and "
            "pass the same images as `data`, or name a path where they are"
        )
    what = (
        "a file that is neither a folder nor .parquet"
        if os.path.exists(path)
        else "no file or folder"
    )
    raise DataError(
        f"'{data}' is {what} and no known name: {nearest(data, DATASETS)}; "
        "or give the path of a folder of images or of a .parquet file"
    )


def _expanded(path: str | Path) -> Path:
    """With the home folder of a user who is there; pathlib fails for others."""
    return Path(os.path.expanduser(path))
