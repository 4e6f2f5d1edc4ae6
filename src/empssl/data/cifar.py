"""CIFAR-10 and CIFAR-100, from the files of their authors' "python version"."""

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from empssl.data.base import MemoryImages
from empssl.data.decode import squares
from empssl.data.download import Progress, fetch
from empssl.errors import DataError
from empssl.types import Split

# numpy's function has no public name, but every array says by which it wants to be rebuilt.
_RECONSTRUCT = np.empty(0, np.uint8).__reduce__()[0]


@dataclass(frozen=True)
class Cifar:
    """One of the two. Files map to the MD5 sums that the authors' archives have.

    Attributes:
        folder: its name inside the archive.
        labels: the key of the labels in the files.
        class_names: the key of their names in `meta`.
    """

    folder: str
    archive: str
    archive_md5: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels: str
    class_names: str


CIFARS = {
    "cifar10": Cifar(
        folder="cifar-10-batches-py",
        archive="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        labels="labels",
        class_names="label_names",
    ),
    "cifar100": Cifar(
        folder="cifar-100-python",
        archive="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        labels="fine_labels",
        class_names="fine_label_names",
    ),
}


def open_cifar(
    name: str,
    *,
    split: Split,
    data_dir: Path,
    side: int = 32,
    download: bool = False,
    progress: Progress | None = None,
) -> MemoryImages:
    """The images in the authors' order, with their 10 classes or 100 fine ones.

    Every file is compared with the authors' MD5 sum before it is read, and then read by an
    unpickler that makes arrays and nothing else.

    Args:
        name: `cifar10` or `cifar100`.
        split: the authors' own; `all` is train, then test.
        data_dir: the authors' folder, or the one around it.
        side: pixels to scale to.
        download: fetch the authors' archive (170 MB) into `data_dir` if a file is missing.
        progress: called with the bytes fetched and the bytes in all.

    Raises:
        DataError: a file is missing, is not the authors', or cannot be fetched.
    """
    cifar = CIFARS[name]
    files = {**(cifar.train if split != "test" else {}), **(cifar.test if split != "train" else {})}
    wanted = files | cifar.meta
    folder = data_dir if _missing(data_dir, wanted) == [] else data_dir / cifar.folder
    if download and _missing(folder, wanted):
        _download(cifar, data_dir / cifar.folder, progress)
    missing = _missing(folder, wanted)
    if missing:
        raise DataError(
            f"{name} is not in '{data_dir}': no {', '.join(missing)} there or in "
            f"{cifar.folder}/. Unpack {cifar.archive} there, say where it is with data_dir, "
            "or allow the download"
        )
    batches = [_read(folder / file, md5) for file, md5 in files.items()]
    (meta,) = (_read(folder / file, md5) for file, md5 in cifar.meta.items())
    labels = np.concatenate([np.asarray(batch[cifar.labels], np.int64) for batch in batches])
    return MemoryImages(
        squares(np.concatenate([_pixels(batch) for batch in batches]), side),
        name=name,
        split=split,
        fingerprint=hashlib.sha256(" ".join(files.values()).encode()).hexdigest(),
        labels=torch.from_numpy(labels),
        class_names=meta[cifar.class_names],
    )


def _missing(folder: Path, files: dict[str, str]) -> list[str]:
    return [file for file in files if not (folder / file).is_file()]


def _pixels(batch: dict[str, Any]) -> UInt8[np.ndarray, "batch 3 32 32"]:
    pixels: UInt8[np.ndarray, "batch 3 32 32"] = batch["data"].reshape(-1, 3, 32, 32)
    return pixels


def _read(path: Path, md5: str) -> dict[str, Any]:
    data = path.read_bytes()
    _check(data, md5, path)
    content: dict[str, Any] = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    return content


def _check(data: bytes, md5: str, what: Path | str) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"'{what}' is damaged or another file: its MD5 sum is {found}, expected {md5}. "
            "Delete it and fetch it again"
        )


def _latin1(text: str, codec: str) -> bytes:
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Lists, numbers, text and arrays; a pickle that names anything else is refused unread."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f"a data file that wants to call {module}.{name} is not the authors'")
        return _ALLOWED[module, name]


def _download(cifar: Cifar, folder: Path, progress: Progress | None) -> None:
    """Only the files that are expected leave the archive, each compared with its sum."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)  # first, lest it be fetched in vain
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{cifar.folder}-") as place:
            archive = fetch(cifar.archive, cifar.archive_md5, Path(place), progress)
            folder.mkdir(exist_ok=True)
            with tarfile.open(archive, mode="r:gz") as tar:
                for file, md5 in (cifar.train | cifar.test | cifar.meta).items():
                    member = tar.extractfile(f"{cifar.folder}/{file}")
                    data = member.read() if member is not None else b""
                    _check(data, md5, f"{cifar.archive}: {file}")
                    part = folder / f"{file}.part"
                    part.write_bytes(data)
                    os.replace(part, folder / file)
    except OSError as error:
        raise DataError(f"cannot unpack {cifar.archive} to '{folder}': {error}") from error
