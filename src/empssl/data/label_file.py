"""Labels that lie in a table beside the images, as Hugging Face's ImageFolder has them."""

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path

from empssl.errors import DataError
from empssl.runs.files import open_regular

NAMES = ("metadata.csv", "metadata.jsonl", "labels.csv")
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
LABEL_COLUMNS = ("label", "labels", "class", "category")


def labels_beside(root: Path, tables: Iterable[str]) -> dict[str, str]:
    """The label of each image that a table names, by the image's name relative to `root`.

    A table without a column of files or without one of labels says nothing.

    Args:
        root: the data set.
        tables: names of the tables, relative to `root`; images are named relative to each.

    Raises:
        DataError: a table cannot be read, or gives one image two labels.
    """
    found: dict[str, str] = {}
    for table in tables:
        folder = posixpath.dirname(table)
        for name, label in _rows(root / table):
            path = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
            if found.setdefault(path, label) != label:
                raise DataError(
                    f"'{root / table}' gives {path!r} the labels {found[path]!r} and {label!r}; "
                    "name each image once"
                )
    return found


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with (
            open_regular(path, follow=True) as binary,
            io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file,
        ):
            if path.suffix == ".jsonl":
                rows = (json.loads(line) for line in file if line.strip())
            else:
                head = file.readline()
                file.seek(0)
                delimiter = max(",;\t", key=head.count)
                rows = (dict(row) for row in csv.DictReader(file, delimiter=delimiter))
            for row in rows:
                name, label = (_value(row, keys) for keys in (FILE_COLUMNS, LABEL_COLUMNS))
                if name is not None and label is not None:
                    yield name, label
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, csv.Error) as error:
        raise DataError(f"the table of labels '{path}' cannot be read: {error}") from error


def _value(row: dict[str | None, object], keys: tuple[str, ...]) -> str | None:
    """What the first of these columns holds, if it holds something."""
    named = {str(key).strip().lower(): value for key, value in row.items()}
    for key in keys:
        value = named.get(key)
        if isinstance(value, str | int | float) and str(value).strip():
            return str(value).strip()
    return None


def in_order(labels: Iterable[str]) -> list[str]:
    """Class names in the order in which they are numbered: as numbers if all are, else as text.

    >>> in_order(["10", "9"]), in_order(["cat", "ant"])
    (['9', '10'], ['ant', 'cat'])
    """
    names = sorted(set(labels))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names
