"""Tiny ImageNet (Le and Yang, 2015): 200 classes of ImageNet in 64 x 64 pixels."""

import os
import tempfile
import zipfile
from pathlib import Path

from empssl.data.download import Progress, fetch
from empssl.data.encoded import EncodedImages
from empssl.data.folder import open_files
from empssl.data.imagenet100 import class_images, read_ids
from empssl.data.listing import list_images
from empssl.data.parquet import open_parquet, parquet_splits
from empssl.errors import DataError
from empssl.types import Split

ARCHIVE = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
ARCHIVE_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"
NUM_CLASSES = 200
_REMEDY = f"Delete {FOLDER} and unpack {ARCHIVE} again, or fetch it with the download allowed"


def open_tiny_imagenet(
    *,
    split: Split,
    data_dir: Path,
    side: int = 64,
    download: bool = False,
    progress: Progress | None = None,
) -> EncodedImages:
    """The images as published, or from Parquet files, with their 200 classes.

    Labels are positions in the sorted WordNet ids, in both parts and both forms. Images of `val`
    without an annotation have the label -1.

    Args:
        split: `test` is the published `val`; the published `test` has no labels and is left out.
            `all` is train, then val.
        data_dir: the published folder or the one around it; or a folder with `train*.parquet` and
            `val*.parquet`, or the one around it if it is called `tiny-imagenet`.
        side: pixels to scale to.
        download: fetch the authors' archive (248 MB) into `data_dir` if there is neither.
        progress: called with the bytes fetched and the bytes in all.

    Raises:
        DataError: the set or a part of it is missing, or it cannot be fetched.
    """
    published = _published(data_dir)
    if published is None:
        for folder in (data_dir / "tiny-imagenet", data_dir):
            for inner in (folder, folder / "data"):  # Hugging Face's repositories have the second
                if any(inner.glob("*.parquet")):
                    return _open_parquet(inner, split, side)
        if not download:
            raise DataError(
                f"tiny-imagenet is not in '{data_dir}': no wnids.txt there or in {FOLDER}/, and no "
                f"train*.parquet. Unpack {ARCHIVE} there, say where it is with data_dir, or allow "
                "the download"
            )
        _download(data_dir / FOLDER, progress)
        published = data_dir / FOLDER
    return _open_published(published, split, side)


def _published(data_dir: Path) -> Path | None:
    """The folder as it was published, whole or not."""
    for folder in (data_dir / FOLDER, data_dir):
        if (folder / "wnids.txt").is_file() or (folder.name == FOLDER and folder.is_dir()):
            return folder
    return None


def _open_published(root: Path, split: Split, side: int) -> EncodedImages:
    if not (root / "wnids.txt").is_file():
        raise DataError(f"'{root}' has no wnids.txt, so a part of it is missing. {_REMEDY}")
    ids = read_ids(root / "wnids.txt")
    sizes: dict[str, int] = {}
    labels: list[int] = []
    if split != "test":
        sizes, labels = class_images(root, "train", ids, inner="images", remedy=_REMEDY)
    if split != "train":
        found, of_found = _val(root, ids)
        sizes |= found
        labels += of_found
    return open_files(
        root,
        sizes,
        name="tiny-imagenet",
        split=split,
        side=side,
        labels=labels,
        class_names=_names(root / "words.txt", ids),
    )


def _val(root: Path, ids: list[str]) -> tuple[dict[str, int], list[int]]:
    """Bytes by name, and labels, of the images in `val`."""
    numbers = {wnid: label for label, wnid in enumerate(ids)}
    path, folder = root / "val" / "val_annotations.txt", root / "val" / "images"
    for wanted, there in ((path, path.is_file()), (folder, folder.is_dir())):
        if not there:
            raise DataError(f"no {wanted.relative_to(root)} in '{root}'. {_REMEDY}")
    labels: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, rest = line.partition("\t")  # then the class, and the corners of a box
        wnid = rest.partition("\t")[0]
        if wnid not in numbers:
            raise DataError(
                f"'{path}', line {number}: expected the name of an image and one of the "
                f"{len(ids)} ids in wnids.txt, found {line!r}. {_REMEDY}"
            )
        labels[name] = numbers[wnid]
    sizes = list_images(folder).sizes
    missing = sorted(labels.keys() - sizes.keys())
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(labels)} images in '{path}' are not in val/images, such "
            f"as {missing[0]}. {_REMEDY}"
        )
    found = {f"val/images/{name}": size for name, size in sizes.items()}
    return found, [labels.get(name, -1) for name in sizes]


def _names(words: Path, ids: list[str]) -> list[str]:
    """What a class is called: its first word; all of them where two begin alike; else its id."""
    if not words.is_file():
        return ids
    lines = words.read_text(encoding="utf-8").splitlines()
    known = dict(line.split("\t", 1) for line in lines if "\t" in line)
    called = [known.get(wnid, wnid) for wnid in ids]
    first = [text.partition(",")[0] for text in called]
    return [f if first.count(f) == 1 else c for f, c in zip(first, called, strict=True)]


def _open_parquet(folder: Path, split: Split, side: int) -> EncodedImages:
    parts = parquet_splits(folder)
    wanted: dict[Split, str] = {"train": "train", "test": "val"}
    for part, what in wanted.items():
        if part not in parts:
            raise DataError(
                f"'{folder}' has no {what}*.parquet: Tiny ImageNet is made of train*.parquet and "
                "val*.parquet in one folder. Put both there"
            )
    images = open_parquet(folder, split=split, side=side)
    if images.labels is None or len(images.class_names) not in (0, NUM_CLASSES):
        found = f"{len(images.class_names)} classes" if images.class_names else "no labels"
        raise DataError(
            f"'{folder}' has {found}, and Tiny ImageNet {NUM_CLASSES}; to use what it holds, give "
            "its path in place of 'tiny-imagenet'"
        )
    images.name = "tiny-imagenet"
    return images


def _download(folder: Path, progress: Progress | None) -> None:
    """Fetch, compare, unpack beside `folder` and rename, so that it is there whole or not."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{FOLDER}-") as unpacked:
            archive = fetch(ARCHIVE, ARCHIVE_MD5, Path(unpacked), progress)
            with zipfile.ZipFile(archive) as members:
                wanted = [name for name in members.namelist() if name.startswith(f"{FOLDER}/")]
                members.extractall(unpacked, wanted)
            if not folder.exists():  # another process may have been faster
                os.replace(Path(unpacked) / FOLDER, folder)
    except OSError as error:
        raise DataError(f"cannot unpack {ARCHIVE} to '{folder}': {error}") from error
