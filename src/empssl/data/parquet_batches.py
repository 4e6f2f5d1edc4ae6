"""Parquet read in batches, and no more of it than is in proportion to the file.

A kilobyte of Parquet can stand for gigabytes: a long value that is repeated is stored once, and
zeros are compressed to next to nothing. Images and embeddings hardly shrink.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from empssl.errors import DataError
from empssl.runs.files import open_regular

# Bytes in memory for each byte of a file, and how many any file may take.
MOST_TIMES, ALWAYS = 20, 2**28
_ROW = 128  # bytes that a row takes besides its values: its name, for one
_ROWS, _BATCH = 1024, 2**26  # rows of a batch, and bytes that it may take
# What a damaged file can lead to; pyarrow has no common type for it.
PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, which must be a regular file or a link to one.

    Raises:
        DataError: it is not, or is damaged.
    """
    try:
        with open_regular(path, follow=True) as stream, pq.ParquetFile(stream) as file:
            yield file
    except PARQUET_ERRORS as error:
        raise DataError(f"'{path}' cannot be read as parquet: {error}") from error


def bounded_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file, in batches: pyarrow reads no whole struct column of more than 2 GiB.

    Args:
        path: of the file.
        columns: which of them, in this order.

    Raises:
        DataError: it is damaged, or decodes to more than 20 times its size and 256 MiB.
    """
    most = max(ALWAYS, MOST_TIMES * path.stat().st_size)
    taken = 0
    with opened_parquet(path) as file:
        declared = sum(
            file.metadata.row_group(at).total_byte_size for at in range(file.num_row_groups)
        )
        _check(path, max(declared, _ROW * file.metadata.num_rows), most)
        for group in range(file.num_row_groups):
            rows = _rows_at_once(file.metadata.row_group(group), most)
            batches = file.iter_batches(rows, row_groups=[group], columns=list(columns))
            for batch in batches:
                taken += batch.nbytes + _ROW * len(batch)
                _check(path, taken, most)
                arrays = [batch.column(name) for name in columns]
                yield pa.RecordBatch.from_arrays(arrays, list(columns))


def _rows_at_once(group: pq.RowGroupMetaData, most: int) -> int:
    """Rows that fit into memory together, even if all are the longest value that there may be."""
    longest = max(1, group.total_byte_size)
    return _ROWS if group.num_rows * longest <= most else max(1, min(_ROWS, _BATCH // longest))


def _check(path: Path, taken: int, most: int) -> None:
    if taken > most:
        raise DataError(
            f"'{path}' has {path.stat().st_size:,} bytes and holds more than {most / 2**20:,.0f} "
            f"MiB; at most {MOST_TIMES} times its size and {ALWAYS / 2**20:.0f} MiB are decoded. "
            "Write the images to a folder, one file each"
        )
