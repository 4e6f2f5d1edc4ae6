"""Parquet files in the Hugging Face schema: an image {bytes, path} column, perhaps a label."""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from empssl.data.decode import DEFAULT_SIDE, UndecodableError
from empssl.data.encoded import EncodedImages
from empssl.data.label_file import in_order
from empssl.data.parquet_batches import bounded_batches, opened_parquet
from empssl.data.splits import TEST_WORDS, TRAIN_WORDS, divided, held_out, part
from empssl.data.value_range import DEFAULT_DECODING, Decoding
from empssl.errors import DataError
from empssl.runs.files import open_regular
from empssl.types import Division, Split

T = TypeVar("T")


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder, or else of the folders in it, or in those; sorted."""
    for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet"):
        found = sorted(
            file for file in folder.glob(pattern)
            if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )  # fmt: skip
        if found:
            return found
    return []


def holds_images(file: Path) -> bool:
    """Whether a file has an image column.

    Raises:
        DataError: it is no parquet.
    """
    return bool(_image_columns(_schema(file)))


def parquet_splits(folder: Path) -> dict[Split, list[Path]]:
    """The parquet files of each split, by their names, or else by their folders'."""
    words = {file: _word(file.relative_to(folder)) for file in parquet_files(folder)}
    given: dict[Split, list[Path]] = {}
    known: dict[Split, tuple[tuple[str, ...], ...]] = {"train": (TRAIN_WORDS,), "test": TEST_WORDS}
    for split, groups in known.items():
        for group in groups:
            if found := [file for file, word in words.items() if word in group]:
                given[split] = found
                break
    return given


def _word(file: Path) -> str | None:
    """Which part a file holds: as its name says, or else the nearest folder's."""
    for name in reversed((*file.parts[:-1], file.stem)):
        if (found := part(name)) is not None:
            return found.word
    return None


def open_parquet(
    path: Path,
    *,
    split: Split | Literal["auto"],
    side: int = DEFAULT_SIDE,
    decoding: Decoding = DEFAULT_DECODING,
    division: Division = "stable",
    limit_bytes: int = 2**33,
) -> EncodedImages:
    """The images of one parquet file, or of a folder of them; the encoded bytes stay in memory.

    In a folder, files or folders that are named for training and for testing are the splits, as
    `train-0.parquet` and `validation-0.parquet` are; the words are those of `open_folder`.
    Otherwise, images with labels are divided 80 : 20 by `split.divided`, by what was encoded, so
    that an image stays on its side in another file or row; and `train` is all of those without.
    The image column is the one declared so, or else the one of structs with
    `bytes`; several need one called `image`. The label is the column `label`, or else the first
    that is declared a class: whole numbers, also as floats, or truth values or text, whose sorted
    values in all files are the classes then. A file without that column, as test parts may be, has
    images without a label.

    A row without bytes is a bad image, `not-embedded`; a path in it is not followed.

    Args:
        path: a file or a folder.
        split: `all` is train, then test; auto is train where splits are given, else all.
        side: pixels to scale and crop to.
        decoding: as of EncodedImages.
        division: how images with labels but without given splits are divided.
        limit_bytes: of all files used.

    Raises:
        DataError: not parquet, no image column, files that disagree, no test split, too large.
    """
    every = files = parquet_files(path) if path.is_dir() else [path]
    given = parquet_splits(path) if path.is_dir() else {}
    known = {"train", "test"} <= given.keys()
    if split == "auto":
        split = "train" if known else "all"
    if known:
        every = [*given["train"], *given["test"]]
        files = [file for key in ("train", "test") if split in (key, "all") for file in given[key]]
    else:
        given = {}
    size = sum(file.stat().st_size for file in files)
    if size > limit_bytes:
        raise DataError(
            f"'{path}' has {size / 2**30:.1f} GiB of parquet, which is read into memory, and at "
            f"most {limit_bytes / 2**30:.1f} are. Write the images to a folder, one file each"
        )
    schema = _schema(files[0])
    image = _image_column(schema, files[0])
    label, class_names = _label_column(every)
    if label is not None:
        _check_alike(given.values() or [files], label)
        class_names = class_names or _named(every, label)
    batches = [batch for file in files for batch in _batches(file, schema, image)]
    table = pa.Table.from_batches(batches, pa.schema([schema.field(image)]))
    if not len(table):
        raise DataError(f"'{path}' has no rows: none in {len(files)} parquet files")
    within = path if path.is_dir() else path.parent
    names = [
        f"{file.relative_to(within).as_posix()}[{row}]"
        for file in files for row in range(_num_rows(file))
    ]  # fmt: skip
    labels = None if label is None else _labels(files, label, class_names, names)

    images = table.column(image)

    def encoded(row: int) -> bytes | None:
        cell = images[row].as_py()
        data: bytes | None = cell["bytes"] if isinstance(cell, dict) else cell
        return data

    keep = np.arange(len(names))
    if not given and labels is None:
        if split == "test":
            raise DataError(
                f"'{path}' has no test split: it has neither labels nor files called "
                f"train*.parquet and test*.parquet. Its columns: {', '.join(schema.names)}"
            )
        split = "all"
    elif not given and split != "all":
        if division == "by_name":
            splits: list[Split] = ["test" if held_out(name) else "train" for name in names]
        else:
            # A row without an image will not be used, wherever it goes.
            contents = (encoded(row) or b"%d" % row for row in range(len(names)))
            keys = [hashlib.sha256(content).digest() for content in contents]
            splits = divided(keys, [] if labels is None else labels.tolist())
        keep = np.flatnonzero([its == split for its in splits])
    if not len(keep):
        raise DataError(f"none of the {len(names)} rows of '{path}' is in the {split} split")

    def source(index: int) -> bytes:
        row = int(keep[index])
        if (data := encoded(row)) is not None:
            return data
        cell = images[row].as_py()
        where = cell.get("path") if isinstance(cell, dict) else None
        raise UndecodableError("not-embedded", f"only a path, {where!r}" if where else "null")

    opened = EncodedImages(
        source,
        [names[k] for k in keep],
        name=str(path),
        split=split,
        side=side,
        fingerprint=_fingerprint(files, split),
        labels=None if labels is None else labels[torch.from_numpy(keep)],
        class_names=class_names,
        decoding=decoding,
    )
    if split in given:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        opened.part = f"{files[0].relative_to(within).as_posix()}{more}"
    if path.is_dir() and (left := len(parquet_files(path)) - len(every)):
        opened.files = f"{len(every)} parquet files; left out: {left} of neither train nor test"
    return opened


def _schema(file: Path) -> pa.Schema:
    with opened_parquet(file) as opened:
        return opened.schema_arrow


def _num_rows(file: Path) -> int:
    with opened_parquet(file) as opened:
        return int(opened.metadata.num_rows)


def _image_column(schema: pa.Schema, file: Path) -> str:
    images = _image_columns(schema)
    if len(images) > 1:
        images = [name for name in images if name == "image"] or images
    if len(images) != 1:
        what = "several image columns and none is called 'image'" if images else "no image column"
        raise DataError(
            f"{what} in '{file}': expected one of {{bytes, path}} structs, "
            f"found {', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    kind = schema.field(images[0]).type
    if not (_holds_images(kind) or _is_binary(kind)):
        raise DataError(
            f"the column '{images[0]}' of '{file}' is declared an image and holds {kind}, "
            "expected {bytes, path} structs or bytes"
        )
    return images[0]


def _label_column(files: list[Path]) -> tuple[str | None, tuple[str, ...]]:
    """The label column of the first file that has one, and the names of the classes it declares."""
    for file in files:
        schema = _schema(file)
        declared = _declared(schema)
        classes = [n for n in schema.names if declared.get(n, {}).get("_type") == "ClassLabel"]
        label = "label" if "label" in schema.names else next(iter(classes), None)
        if label is not None:
            if not _holds_classes(file, label):
                return None, ()
            return label, tuple(map(str, declared.get(label, {}).get("names") or ()))
    return None, ()


def _holds_classes(file: Path, column: str) -> bool:
    """Whether a column says which class an image is of; a measured value does not."""
    kind = _value_type(_schema(file).field(column).type)
    if pa.types.is_floating(kind):
        values = _column(file, column)
        return bool(pc.all(pc.equal(pc.floor(values), values)).as_py() is not False)
    return _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)


def _check_alike(parts: Iterable[list[Path]], column: str) -> None:
    """See that all files of a part have labels, or none.

    Raises:
        DataError: some have.
    """
    for files in parts:
        having = [column in _schema(file).names for file in files]
        if any(having) and not all(having):
            raise DataError(
                f"'{files[having.index(False)]}' does not have the columns of the files before it: "
                f"no {column}"
            )


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are names of classes, and not numbers of them."""
    found = pa.types
    return bool(found.is_string(kind) or found.is_large_string(kind) or found.is_boolean(kind))


def _column(file: Path, column: str) -> pa.ChunkedArray:
    """A column of a file, without the indirection of a dictionary."""
    chunks = [batch.column(0) for batch in bounded_batches(file, [column])]
    values = pa.chunked_array(chunks, _schema(file).field(column).type)
    kind = _value_type(values.type)
    return values if kind == values.type else values.cast(kind)


def _named(files: list[Path], column: str) -> tuple[str, ...]:
    """The classes of labels that are text or truth values, from all files; none of numbers."""
    found: set[str] = set()
    for file in files:
        if column in _schema(file).names and _is_text(
            _value_type(_schema(file).field(column).type)
        ):
            found |= {str(value) for value in _column(file, column).unique().to_pylist()} - {"None"}
    return tuple(in_order(found))


def _image_columns(schema: pa.Schema) -> list[str]:
    """The columns that are declared images, or else look so."""
    declared = _declared(schema)
    images = [n for n in schema.names if declared.get(n, {}).get("_type") == "Image"]
    return images or [field.name for field in schema if _holds_images(field.type)]


def _declared(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What the writer says of each column; nothing, if it says nothing that can be understood."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: kind for name, kind in features.items() if isinstance(kind, dict)}


def _holds_images(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    position = kind.get_field_index("bytes")
    return position >= 0 and _is_binary(kind.field(position).type)


def _is_binary(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _batches(file: Path, schema: pa.Schema, image: str) -> list[pa.RecordBatch]:
    found, wanted = _schema(file), schema.field(image).type
    if image not in found.names or found.field(image).type != wanted:
        raise DataError(
            f"'{file}' does not have the columns of the files before it: expected "
            f"{image} ({wanted}), found {', '.join(f'{f.name} ({f.type})' for f in found)}"
        )
    return list(bounded_batches(file, [image]))


def _read(file: Path, reading: Callable[[], T]) -> T:
    try:
        return reading()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"'{file}' is damaged: {error}") from error


def _labels(
    files: list[Path], column: str, class_names: tuple[str, ...], names: list[str]
) -> Tensor:
    """The number of each row's class; -1 where it has none."""
    numbers = {name: number for number, name in enumerate(class_names)}
    parts = []
    for file in files:
        schema = _schema(file)
        if column not in schema.names:
            parts.append(np.full(_num_rows(file), -1, np.int64))
        elif _is_text(_value_type(schema.field(column).type)):
            texts = _column(file, column).to_pylist()
            parts.append(np.array([numbers.get(str(t), -1) for t in texts], np.int64))
        else:
            found = _read(file, partial(_column(file, column).cast, pa.int64()))
            parts.append(found.fill_null(-1).to_numpy())
    values = np.concatenate(parts)
    wrong = np.flatnonzero((values < -1) | (values >= (len(class_names) or np.inf)))
    if len(wrong):
        raise DataError(
            f"{column} {values[wrong[0]]} in {names[wrong[0]]} is not one of the "
            f"{len(class_names)} classes"
        )
    return torch.from_numpy(values.copy())


def _fingerprint(files: list[Path], split: Split) -> str:
    digest = hashlib.sha256(split.encode())
    for file in files:
        with open_regular(file, follow=True) as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())  # type: ignore[arg-type]
    return digest.hexdigest()
