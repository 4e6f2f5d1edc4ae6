"""A long table that is written in shards, so that a job that ends early goes on where it was."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from empssl.embedding_files import write
from empssl.storage import hold, make_folder, open_regular, partial_name, sweep, sync, writing

_NOTES = b"notes"


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
