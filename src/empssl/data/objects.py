"""Images that a program holds as objects: arrays, lists, data sets of other libraries, image sets.

Of each kind this says how an image is had, what it is called, what it is divided by and what its
fingerprint covers; from there on it is read as files are.
"""

import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from empssl.data.any_image import CHANNELS, Source, opened
from empssl.data.base import ImageSet, MemoryImages, check_side
from empssl.data.decode import DEFAULT_SIDE, Reason, UndecodableError, reasoned
from empssl.data.encoded import EncodedImages
from empssl.data.in_memory import in_memory
from empssl.data.label_file import in_order
from empssl.data.splits import divided
from empssl.data.value_range import DEFAULT_DECODING, Decoding
from empssl.errors import DataError, UsageError
from empssl.progress import progress
from empssl.types import Split

# As `data`. Hugging Face's Dataset is known by its columns, lest its library be needed: so, Any.
ImagesLike = (
    str | os.PathLike[str] | ImageSet | Dataset[Any] | np.ndarray | Tensor | Sequence[Any] | Any
)  # fmt: skip
EXPECTED = (
    "expected a path or the name of a data set, an ImageSet, a map-style torch.utils.data.Dataset "
    "or a Hugging Face Dataset of images, an array (image, height, width) or (image, height, "
    "width, channel), a list of paths or of images, or a pair of such an array or list and its "
    "labels"
)
_RECORDED = re.compile(r"<\w+ of \d+ images?>")
_SAMPLED = 64  # images of a data set that its fingerprint covers


@dataclass(eq=False, repr=False)
class GivenImages:
    """What was given as an object: not yet read, and known for what it is.

    Attributes:
        kind: what it is called; with the number of images, all that a run records of it.
        names: of the images.
        get: an image by index. Raises UndecodableError, and UsageError for what is no image.
        digest: what the fingerprint is made of.
        keys: what an image is divided by into train and test.
        labels: one for each image: numbers, text, None where unknown; None if there are none.
        class_names: by number, where they are known.
        seen: labels by index, of a data set whose images bring them along; filled by `get`.
        strict: whether labels that are no classes are an error; otherwise there are none.
        side: the images' own, if they have one.
        threads: by which images are had.
    """

    kind: str
    names: Sequence[str]
    get: Callable[[int], Source]
    digest: Callable[[], bytes]
    keys: Callable[[], Sequence[str | bytes]]
    labels: Sequence[Any] | None = None
    class_names: Sequence[str] = ()
    seen: dict[int, Any] | None = None
    strict: bool = True
    side: int | None = None
    threads: int | None = None
    _fingerprint: str = ""
    _classes: tuple[Tensor | None, tuple[str, ...]] | None = None
    _whole: MemoryImages | None = field(default=None)
    _whole_as: tuple[int, Decoding | None] = (0, None)

    def __repr__(self) -> str:
        count = len(self.names)
        return f"<{self.kind} of {count} image{'s' * (count != 1)}>"

    @property
    def fingerprint(self) -> str:
        if not self._fingerprint:
            self._fingerprint = hashlib.sha256(self.digest()).hexdigest()
        return self._fingerprint

    def open(
        self,
        *,
        split: Split | Literal["auto"] = "auto",
        side: int | None = None,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> ImageSet:
        """The images as a set; see `images_from`."""
        check_side(side)
        if not len(self.names):
            raise DataError(f"data is {self}: there is nothing to read in it")
        with suppress(UndecodableError):
            self.get(0)  # of the wrong kind, it says so at once
        side = side or self.side or DEFAULT_SIDE
        labels, class_names = self._labeled(side, decoding)
        rows = range(len(self.names))
        if split == "test" and labels is None:
            raise DataError(
                f"{self} has no test split: it has no labels. Give labels with the images, or take "
                "the split 'all'"
            )
        if split == "auto" or labels is None:
            split = "all"
        if split == "all" or labels is None:
            return self._part(rows, split, side, decoding, labels, class_names)
        splits = divided(self.keys(), labels.tolist())
        chosen = [row for row in rows if splits[row] == split]
        if not chosen:
            raise DataError(f"none of the images of {self} is in the {split} split")
        return self._part(chosen, split, side, decoding, labels[chosen], class_names)

    def _source(self, index: int) -> Source:
        """As `get`; where one image is of another kind than the first, it is a bad one."""
        try:
            return self.get(index)
        except UsageError as error:
            raise UndecodableError("unreadable", str(error)) from error

    def _part(
        self,
        rows: Sequence[int],
        split: Split,
        side: int,
        decoding: Decoding,
        labels: Tensor | None,
        class_names: Sequence[str],
    ) -> ImageSet:
        """Some of the images, or all."""
        names = [self.names[row] for row in rows]
        name, fingerprint = str(self), self.fingerprint
        if split != "all":
            fingerprint = hashlib.sha256(f"{fingerprint} {split}".encode()).hexdigest()
        whole, (known_side, known_decoding) = self._whole, self._whole_as
        if whole is not None and side == known_side and known_decoding in (None, decoding):
            every = len(rows) == len(whole)
            place = {row: at for at, row in enumerate(rows)}
            images = MemoryImages(
                whole.pixels if every else whole.pixels[torch.tensor(rows)],
                name=name, split=split, fingerprint=fingerprint, labels=labels,
                class_names=class_names, names=names,
                valid=whole.valid[torch.tensor(rows)],
                bad=[
                    replace(bad, index=place[row], name=self.names[row])
                    for row, bad in whole.bad.items() if row in place
                ],
            )  # fmt: skip
            images.decoding, images.notices, images.reported = (
                whole.decoding, whole.notices, whole.reported,
            )  # fmt: skip
            return images
        return EncodedImages(
            lambda index: self._source(rows[index]), names, name=name, split=split, side=side,
            fingerprint=fingerprint, labels=labels, class_names=class_names, decoding=decoding,
            threads=self.threads,
        )  # fmt: skip

    def _labeled(self, side: int, decoding: Decoding) -> tuple[Tensor | None, tuple[str, ...]]:
        if self._classes is None:
            labels = self.labels if self.seen is None else self._brought(side, decoding)
            self._classes = _as_classes(labels, self.class_names, self)
        return self._classes

    def _brought(self, side: int, decoding: Decoding) -> Sequence[Any] | None:
        """The labels that images bring along.

        Those that the data set declares are believed if some images agree. Otherwise all are read,
        and kept, if they fit in memory: to read them again would take as long.
        """
        _ = self.fingerprint  # for which some images are read, unless they have been
        seen, declared = cast(dict[int, Any], self.seen), self.labels
        if not seen:
            return None
        if declared is not None and all(_alike(declared[row], seen[row]) for row in seen):
            return declared
        rows = range(len(self.names))
        with progress("reading images and labels", len(rows)) as advance:
            found = in_memory(
                self._part(rows, "all", side, decoding, None, ()), progress=advance
            )  # fmt: skip
            if isinstance(found, MemoryImages):
                self._whole, self._whole_as = found, (side, decoding)
            for row in rows:
                if row not in seen and found is not self._whole:
                    with suppress(UndecodableError):
                        self._source(row)
                    advance(row + 1)
        return [seen.get(row) for row in rows]


def images_from(
    data: ImagesLike,
    *,
    split: Split | Literal["auto"] = "auto",
    side: int | None = None,
    decoding: Decoding = DEFAULT_DECODING,
) -> ImageSet:
    """Images that a program holds as objects, as an image set.

    - An array (image, height, width) or (image, height, width, channel) with 1, 3 or 4 channels,
      or a tensor with its channels before the height: uint8, uint16, or floats from 0 to 1. The
      fingerprint covers every value.
    - A list of paths, PIL images, arrays or the bytes of files. The fingerprint covers the names
      below the folder that holds all files, and their sizes; and the content of all else.
    - A pair of one of those and its labels: a number or text for each, None or -1 where unknown.
    - A map-style `torch.utils.data.Dataset` that gives an image, or an image and its label. It is
      read by one thread, in order, and once if it fits in memory: what it changes at random stays
      as it was then. The fingerprint covers the number of images and up to 64 of them, evenly
      spread.
    - A Hugging Face `datasets.Dataset`, without its format or transform: its column of images and
      `label`, or else the first column of classes. The fingerprint is as before.
    - An `ImageSet`, whose side is the default then.

    What cannot be read is a bad image, as with files, and counts against the same budget.

    Args:
        data: one of these.
        split: all, which is auto, is every image; train and test divide 80 : 20 what has labels:
            lists of paths by these, arrays and images by their content, and what else there is by
            its number. Without labels, train is all of them.
        side: pixels; 64 by default.
        decoding: which values become black and white, where there are more than 256.

    Raises:
        UsageError: it is something else, labels do not fit, or `side` is no side of an image.
        DataError: there are no images, none can be used, or there are no labels to divide by.

    >>> photos = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    >>> images = images_from((photos, ["cat", "dog", "cat", None]), side=8)
    >>> images.name, images.class_names, images.labels.tolist()
    ('<array of 4 images>', ('cat', 'dog'), [0, 1, 0, -1])
    """
    return given_images(data).open(split=split, side=side, decoding=decoding)


def given_images(data: Any) -> GivenImages:
    """What an object is, without reading its images.

    Raises:
        UsageError: it holds no images that are known how to be had.
    """
    if isinstance(data, GivenImages):
        return data
    if isinstance(data, ImageSet):
        return _of_image_set(data)
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _of_columns(data)
    if isinstance(data, DataLoader):
        raise UsageError("data is a DataLoader, which gives batches; give its data set: .dataset")
    if isinstance(data, Dataset):
        return _of_dataset(data)
    if isinstance(data, tuple) and len(data) == 2 and _is_many(data[0]) and _is_column(data[1]):
        return replace(given_images(data[0]), labels=_listed(data[1]))
    if isinstance(data, np.ndarray) and data.dtype.kind in "OU" and data.ndim == 1:
        data = data.tolist()  # of paths, or of images of several sizes
    if isinstance(data, np.ndarray | Tensor):
        return _of_array(data)
    if isinstance(data, list | tuple):
        return _of_list(data)
    what = "None" if data is None else f"of type {type(data).__name__}"
    hint = ""
    if isinstance(data, Mapping):
        hint = f". Give one of its values: {', '.join(map(repr, list(data)[:5]))}"
    raise UsageError(f"data is {what}; {EXPECTED}{hint}")


def is_recorded_object(data: str) -> bool:
    """Whether this is what a run records of images that a program gave as an object.

    >>> is_recorded_object("<array of 1000 images>"), is_recorded_object("photos")
    (True, False)
    """
    return _RECORDED.fullmatch(data) is not None


def _of_image_set(images: ImageSet) -> GivenImages:
    def get(index: int) -> Source:
        batch = images.read([index])
        if not batch.valid[0]:
            raise UndecodableError(cast(Reason, batch.bad[0].reason), batch.bad[0].error)
        return batch.pixels[0].permute(1, 2, 0).cpu().numpy()

    names = [images.sample_name(index) for index in range(len(images))]
    given = GivenImages(
        type(images).__name__, names, get, images.fingerprint.encode, lambda: names,
        labels=None if images.labels is None else images.labels.tolist(),
        class_names=images.class_names, side=images.side,
        threads=None if isinstance(images, EncodedImages) else 1,
    )  # fmt: skip
    if isinstance(images, MemoryImages):
        given._whole, given._whole_as = images, (images.side, None)
    return given


def _of_array(array: np.ndarray | Tensor) -> GivenImages:
    """Many images of one size."""
    shape, last = tuple(array.shape), 1 if isinstance(array, Tensor) else array.ndim - 1
    found = f"data is an array of shape {shape} and type {array.dtype}"
    if isinstance(array, Tensor):
        found = found.replace("an array", "a tensor")
    channel = shape[last] if array.ndim == 4 else 1
    if array.ndim not in (3, 4) or channel not in CHANNELS:
        hint = ""
        if array.ndim == 4 and {shape[1], shape[3]} & {*CHANNELS}:
            order = "permute(0, 3, 1, 2)" if last == 1 else "transpose(0, 2, 3, 1)"
            hint = f". Channels come {'first' if last == 1 else 'last'} here: {order}"
        raise UsageError(f"{found}; {EXPECTED}{hint}")
    if array.ndim == 3 and shape[0 if isinstance(array, Tensor) else 2] in CHANNELS:
        raise UsageError(
            f"{found}, which is that of one image; {EXPECTED}. Many gray images take an axis of "
            f"one channel: {'x[:, None]' if isinstance(array, Tensor) else 'x[..., None]'}"
        )

    def get(index: int) -> Source:
        return opened(array[index], index)[1]

    return _of_contents("tensor" if isinstance(array, Tensor) else "array", len(array), get)


def _of_contents(kind: str, count: int, get: Callable[[int], Source]) -> GivenImages:
    """Images in memory, known by their content."""
    keys: list[bytes] = []

    def contents() -> list[bytes]:
        if not keys:
            keys.extend(_content(get, index) for index in range(count))
        return keys

    names = list(map(str, range(count)))
    return GivenImages(kind, names, get, lambda: b"".join(contents()), contents)


def _of_list(images: Sequence[Any]) -> GivenImages:
    """Paths, or images of any kind, in the order given."""
    for index, image in enumerate(images):
        if hasattr(image, "read") and not isinstance(image, Image.Image | bytes | bytearray):
            raise UsageError(
                f"image {index} is an open file, which can be read once; give its path or its bytes"
            )
    paths = {
        index: os.path.abspath(os.path.expanduser(os.fsdecode(image)))
        for index, image in enumerate(images) if isinstance(image, str | os.PathLike)
    }  # fmt: skip

    def get(index: int) -> Source:
        return Path(paths[index]) if index in paths else opened(images[index], index)[1]

    try:
        top = os.path.commonpath([os.path.dirname(path) for path in paths.values()] or ["/"])
        inner = {at: Path(path).relative_to(top).as_posix() for at, path in paths.items()}
    except ValueError:  # on several drives
        inner = paths
    names = [
        os.fsdecode(image) if index in paths else str(index) for index, image in enumerate(images)
    ]
    given = _of_contents("list", len(images), get)

    def keys() -> Sequence[str | bytes]:
        return [inner.get(index) or _content(get, index) for index in range(len(images))]

    def digest() -> bytes:
        """As of a folder: names and sizes."""
        parts = []
        for index, key in enumerate(keys()):
            if index in paths:
                key = os.fsencode(key) + b"\0%d\0" % _size(paths[index])
            parts.append(cast(bytes, key))
        return b"".join(parts)

    return replace(given, names=names, digest=digest, keys=keys)


def _of_dataset(data: Dataset[Any]) -> GivenImages:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise UsageError(
            f"data is a {type(data).__name__}, which has no length or no order; give a map-style "
            "torch.utils.data.Dataset, with __len__ and __getitem__"
        )
    seen: dict[int, Any] = {}
    count = len(data)

    def get(index: int) -> Source:
        item = _had(data, index)
        if isinstance(item, tuple | list) and item:
            if len(item) > 1:
                seen[index] = item[1]
            item = item[0]
        return opened(item, index)[1]

    declared = getattr(data, "targets", None)  # as torchvision's data sets have them
    if not _is_column(declared) or len(declared) != count:
        declared = None
    classes = getattr(data, "classes", ())
    named = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
    return replace(
        _sampled(type(data).__name__, count, get), seen=seen, strict=False,
        labels=None if declared is None else _listed(declared), class_names=classes * named,
    )  # fmt: skip


def _of_columns(data: Any) -> GivenImages:
    """A Hugging Face Dataset, which is known by its columns."""
    if isinstance(data, Mapping):
        first = next(iter(data), "train")
        raise UsageError(
            f"data is a {type(data).__name__} with {', '.join(map(repr, data))}; give one of them, "
            f"such as data[{first!r}]"
        )
    columns, features = list(data.column_names or ()), dict(data.features or {})
    if not hasattr(data, "__len__"):
        raise UsageError(
            f"data is a {type(data).__name__}, which has no length; give a Dataset, not one that "
            "is streamed"
        )
    kinds = {name: type(features.get(name)).__name__ for name in columns}
    found = [name for name in columns if kinds[name] == "Image"] or [
        name for name in ("image", "img") if name in columns
    ]
    image = "image" if "image" in found else found[0] if len(found) == 1 else None
    if image is None:
        what = "several image columns and none is called 'image'" if found else "no image column"
        raise UsageError(
            f"{what} in data: expected one, found "
            f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}"
        )
    classes = [name for name in columns if kinds[name] == "ClassLabel"]
    label = "label" if "label" in columns else next(iter(classes), None)
    plain = data.with_format(None) if hasattr(data, "with_format") else data

    def get(index: int) -> Source:
        cell = _had(plain, index)[image]
        if isinstance(cell, Mapping):  # not decoded
            path = cell.get("path")
            cell = cell["bytes"] if cell.get("bytes") is not None else path and Path(path)
        if cell is None:
            raise UndecodableError("not-embedded", "null")
        return opened(cell, index)[1]

    return replace(
        _sampled(type(data).__name__, len(data), get), strict=False,
        labels=None if label is None else list(plain[label]),
        class_names=getattr(features.get(label), "names", None) or (),
    )  # fmt: skip


def _sampled(kind: str, count: int, get: Callable[[int], Source]) -> GivenImages:
    """Images that are costly to have: their fingerprint covers some of them."""

    def digest() -> bytes:
        rows = np.linspace(0, count - 1, min(count, _SAMPLED)).astype(int).tolist()
        return b"%d " % count + b"".join(_content(get, row) for row in rows)

    names = list(map(str, range(count)))
    return GivenImages(kind, names, get, digest, lambda: names, threads=1)


def _had(data: Any, index: int) -> Any:
    """An item of a data set, whose errors are those of one image."""
    try:
        return data[index]
    except MemoryError:
        raise
    except Exception as error:
        raise UndecodableError("unreadable", f"{type(error).__name__}: {error}") from error


def _content(get: Callable[[int], Source], index: int) -> bytes:
    """SHA-256 of an image as it is given; of its number and why, where it cannot be had."""
    try:
        source = get(index)
        with reasoned():
            if isinstance(source, Image.Image):
                what, data = f"{source.mode} {source.size}", source.tobytes()
            elif isinstance(source, np.ndarray):
                what, data = f"{source.dtype} {source.shape}", source.tobytes()
            elif isinstance(source, Path):
                what, data = f"{source.name} {_size(source)}", b""
            else:
                what, data = "bytes", source
    except (UndecodableError, UsageError):
        what, data = f"bad {index}", b""
    digest = hashlib.sha256(what.encode())
    digest.update(data)
    return digest.digest()


def _size(path: str | Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _is_many(images: Any) -> bool:
    """Whether this may be the images of a pair of images and labels."""
    return isinstance(images, list | tuple | np.ndarray | Tensor)


def _is_column(values: Any) -> TypeGuard[Collection[Any]]:
    """Whether this may be labels: values in a row."""
    one = isinstance(values, str | bytes | os.PathLike | Image.Image | Mapping)
    return not one and hasattr(values, "__len__") and getattr(values, "ndim", 1) == 1


def _listed(values: Iterable[Any]) -> list[Any]:
    return cast(list[Any], values.tolist()) if hasattr(values, "tolist") else list(values)


def _alike(one: Any, other: Any) -> bool:
    return _plain(one) == _plain(other) and _is_class(_plain(one))


def _plain(label: Any) -> Any:
    """A label as Python's own numbers and text; None where there is none."""
    if getattr(label, "ndim", None) == 0 and hasattr(label, "item"):
        label = label.item()
    if isinstance(label, float):
        label = None if math.isnan(label) else int(label) if label.is_integer() else label
    return label


def _is_class(label: Any) -> bool:
    return label is None or isinstance(label, bool | int | str)


def _as_classes(
    values: Sequence[Any] | None, class_names: Sequence[str], given: GivenImages
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The number of each image's class, -1 where unknown; and what the classes are called.

    Raises:
        UsageError: there are not as many as images, or some are no classes.
    """
    if values is None:
        return None, ()
    if len(values) != len(given.names):
        raise UsageError(
            f"data is {given} with {len(values)} labels; give one label for each image, None or -1 "
            "where it is unknown"
        )
    plain = [_plain(value) for value in values]
    wrong = next((at for at, label in enumerate(plain) if not _is_class(label)), None)
    if wrong is not None:
        if not given.strict:  # a measured value, or several: nothing that says a class
            return None, ()
        raise UsageError(
            f"label {wrong} is {values[wrong]!r}; expected a whole number or text, and None or -1 "
            "where it is unknown"
        )
    if all(label is None for label in plain):
        return None, ()
    if any(isinstance(label, str | bool) for label in plain):
        class_names = in_order(str(label) for label in plain if label is not None)
        numbers = {name: number for number, name in enumerate(class_names)}
        plain = [None if label is None else numbers[str(label)] for label in plain]
    labels = torch.tensor([-1 if label is None else label for label in plain])
    beyond = (labels < -1) | (labels >= (len(class_names) or torch.inf))
    if beyond.any():
        at = int(beyond.nonzero()[0])
        classes = f"one of the {len(class_names)} classes" if class_names else "0 or more"
        raise UsageError(
            f"label {at} is {plain[at]}; expected {classes}, and -1 where it is unknown"
        )
    return labels, tuple(class_names)
