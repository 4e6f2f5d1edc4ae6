"""Embeddings as a file: Parquet, CSV or NumPy, by the suffix of its name.

Each is written from the same shards, a shard at a time, in the order of their rows.
"""

import csv
import io
import json
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from empssl.errors import CheckpointError, UsageError
from empssl.runs.files import (
    PARTIAL,
    hold,
    make_folder,
    nearest_existing,
    open_regular,
    partial_name,
    sweep,
    sync,
    writing,
)

# Writes a file that is not there yet: its path, the schema of the shards, and these.
Write = Callable[[Path, pa.Schema, Iterator[pa.Table]], None]
_NOTES = b"notes"


def check_out(out: Path, *, overwrite: bool) -> None:
    """See that a file of embeddings can be written here, before anything is computed.

    Raises:
        UsageError: its name ends in no format, it is a folder, link or device or in a file, or it
            exists.
        CheckpointError: no file may be made there.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give --out the name of a file, {out}/embeddings.csv")
    if out.suffix.lower() not in WRITERS:
        raise UsageError(
            f"--out is {out}; end its name in {', '.join(WRITERS)}, which says how it is written"
        )
    if (out.exists() or out.is_symlink()) and not stat.S_ISREG(out.lstat().st_mode):
        raise UsageError(f"{out} is a link, pipe or device, which is not replaced; give a file")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; replace it with --overwrite or choose another --out")
    with writing(out):
        above = nearest_existing(out.parent)
        if not above.is_dir():
            raise UsageError(f"{out} cannot be made: {above} is a file; choose another --out")
    if not _takes_files(above):
        raise CheckpointError(
            f"{out} cannot be written: no file can be made in {above}; choose another --out"
        )


def names_path(out: Path) -> Path:
    """Where the rows of a .npy file have their names and labels, which it has no place for."""
    return out.with_name(f"{out.stem}.names.csv")


def parquet(path: Path, schema: pa.Schema, shards: Iterator[pa.Table]) -> None:
    """`index`, `name`, `label`, `valid` and `embedding`, a list; what made them in its metadata."""
    with open_regular(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:
        for table in shards:
            writer.write_table(table)


def comma_separated(path: Path, schema: pa.Schema, shards: Iterator[pa.Table]) -> None:
    """`name`, `label` where there are labels, and a column for each number of the embedding.

    The numbers of an image that could not be read are empty.
    """
    dim = schema.field("embedding").type.list_size
    kept = [field for field in schema if field.name in ("name", "label")]
    numbers = [pa.field(f"embedding_{i}", pa.float32()) for i in range(dim)]
    flat = pa.schema([*kept, *numbers])
    options = pacsv.WriteOptions(quoting_style="needed")
    with open_regular(path, "wb") as file, pacsv.CSVWriter(file, flat, write_options=options) as w:
        for table in shards:
            valid, rows = table["valid"].to_numpy(), _numbers(table, dim)
            columns = [pa.array(column, mask=~valid) for column in rows.T]
            names = [table[field.name].combine_chunks() for field in kept]
            w.write_table(pa.table([*names, *columns], flat))


def numpy(path: Path, schema: pa.Schema, shards: Iterator[pa.Table]) -> None:
    """A float32 matrix, row i that of image i; not-a-numbers where it could not be read."""
    dim, count = schema.field("embedding").type.list_size, 0
    header = {"descr": "<f4", "fortran_order": False}
    with open_regular(path, "wb") as file:

        def head() -> None:  # padded, so that the number of rows may grow
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, dim)})

        head()
        for table in shards:
            file.write(_numbers(table, dim).astype("<f4").tobytes())
            count += len(table)
        head()


WRITERS: dict[str, Write] = {".parquet": parquet, ".csv": comma_separated, ".npy": numpy}


def write(
    out: Path, partial: Path, schema: pa.Schema, shards: Callable[[], Iterator[pa.Table]]
) -> None:
    """Make the file of all shards, whole or not at all.

    Args:
        out: whose ending says in which format.
        partial: where it is written first, on the same disk.
        schema: of the shards.
        shards: reads them.

    Raises:
        CheckpointError: the storage refused.
    """
    suffix = out.suffix.lower()
    with writing(out):
        if suffix == ".npy":  # before the file, which is the sign that all is done
            _names(partial, schema, shards())
            _put(partial, names_path(out))
        WRITERS[suffix](partial, schema, shards())
        _put(partial, out)


def _put(partial: Path, path: Path) -> None:
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def _numbers(table: pa.Table, dim: int) -> np.ndarray:
    """float32 (row, dim); not-a-numbers where there is no embedding."""
    found = np.full((len(table), dim), np.nan, np.float32)
    column = table["embedding"].combine_chunks()
    found[table["valid"].to_numpy()] = column.drop_null().flatten().to_numpy().reshape(-1, dim)
    return found


def _names(path: Path, schema: pa.Schema, shards: Iterator[pa.Table]) -> None:
    kept = [field.name for field in schema if field.name != "embedding"]
    with (
        open_regular(path, "wb") as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(kept)
        for table in shards:
            writer.writerows(zip(*(table[name].to_pylist() for name in kept), strict=True))


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made in a folder, by making one: permissions do not tell all."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=f".{PARTIAL}"):
            return True
    except OSError:
        return False


class Shards:
    """The rows of a file in the making.

    A shard is there whole or not at all. One of another schema, which includes what the metadata
    say, is as good as none.

    Args:
        out: the file to make; the shards lie in a hidden folder beside it.
        schema: of its rows, and what made them.
    """

    def __init__(self, out: Path, schema: pa.Schema) -> None:
        self.out = out
        self.schema = schema
        self.folder = out.with_name(f".{out.name}.shards")
        self._joined: list[range] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from the file while the block runs.

        Raises:
            RunInUseError: another process is making it.
            CheckpointError: the storage refused.
        """
        with writing(self.out):
            make_folder(self.folder)
        with hold(self.folder / ".lock", self.out):
            sweep(self.folder)
            yield

    def notes(self, rows: range) -> Any:
        """What was noted with the shard of these rows; None if there is no such shard."""
        try:
            with self._opened(rows) as file:
                if file.metadata.num_rows != len(rows):
                    return None
                table = file.read()
            metadata = dict(table.schema.metadata)
            notes = json.loads(metadata.pop(_NOTES))
        except (OSError, ValueError, LookupError, TypeError):  # damaged; it is made again
            return None
        same = metadata == self.schema.metadata and table.schema.equals(self.schema)
        if not same or len(table) != len(rows):
            return None
        self._joined.append(rows)
        return notes

    def add(self, rows: range, table: pa.Table, notes: Any) -> None:
        """Write the shard of these rows.

        Args:
            rows: their numbers; shards come in the order of their rows.
            table: of the schema.
            notes: anything that JSON holds.

        Raises:
            CheckpointError: the storage refused.
        """
        metadata = {**self.schema.metadata, _NOTES: json.dumps(notes).encode()}
        partial = partial_name(self.folder / str(rows.start))
        with writing(self.out):
            try:
                with open_regular(partial, "wb") as file:
                    pq.write_table(
                        table.replace_schema_metadata(metadata), file, write_page_checksum=True
                    )
                sync(partial)
                partial.replace(self._file(rows))
            finally:
                partial.unlink(missing_ok=True)
        self._joined.append(rows)

    def join(self) -> None:
        """Make the file of all shards that were found or added, and remove them.

        Raises:
            CheckpointError: the storage refused.
        """
        partial = partial_name(self.folder / "joined")
        write(self.out, partial, self.schema, self._tables)
        with suppress(OSError):  # what is left does no harm
            for entry in sorted(self.folder.iterdir(), reverse=True):  # the lock last
                entry.unlink()
            self.folder.rmdir()

    def _tables(self) -> Iterator[pa.Table]:
        for rows in self._joined:
            with self._opened(rows) as file:
                yield file.read().replace_schema_metadata(self.schema.metadata)

    @contextmanager
    def _opened(self, rows: range) -> Iterator[pq.ParquetFile]:
        with (
            open_regular(self._file(rows)) as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as file,
        ):
            yield file

    def _file(self, rows: range) -> Path:
        return self.folder / f"{rows.start:012d}.parquet"
