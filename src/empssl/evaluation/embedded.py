"""Embeddings that `empssl embed` wrote, to be scored without the network that made them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch

from empssl.data.parquet_batches import bounded_batches, opened_parquet
from empssl.errors import DataError, UsageError
from empssl.records import Side
from empssl.schema import conform
from empssl.shapes import Embeddings, Labels

# What has to be alike in embeddings that are compared with each other.
SOURCE = ("model_sha256", "layer", "crops", "seed", "image_side", "range", "data")
_COLUMNS: dict[str, Callable[[pa.DataType], bool]] = {
    "label": pa.types.is_integer,
    "valid": pa.types.is_boolean,
    "embedding": lambda kind: pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32(),
}


class Made(TypedDict):
    """How embeddings were made, as `embed` recorded it in the file."""

    model_sha256: str
    run: str
    data: str
    split: str
    fingerprint: str
    layer: str
    crops: str
    seed: int
    image_side: Side


@dataclass(frozen=True)
class Embedded:
    """The valid and labeled rows of a file.

    Attributes:
        path: of the file.
        made: how the embeddings were made, as `embed` recorded it.
        trained_on: how many are of images that the encoder was trained on; None where the file
            does not say.
    """

    path: Path
    made: dict[str, Any]
    embeddings: Embeddings
    labels: Labels
    trained_on: int | None = None

    @classmethod
    def read(cls, path: str | Path) -> "Embedded":
        """Read a file of `empssl embed`.

        Raises:
            DataError: it is no such file, or has no labels.
        """
        path = Path(path)
        try:
            with opened_parquet(path) as file:
                schema = file.schema_arrow
            content = json.loads((schema.metadata or {})[b"empssl"])
            made: dict[str, Any] = conform(content, Made, f"what {path} says of itself", DataError)
        except (KeyError, ValueError, RecursionError, DataError) as error:
            raise DataError(
                f"{path} is no file of embeddings ({error!r}); write one with `empssl embed`, or "
                "give a run directory"
            ) from error
        if "label" not in schema.names:
            raise DataError(f"{path} has no labels to evaluate with; embed labeled images")
        for name, is_right in _COLUMNS.items():
            kind = schema.field(name).type if name in schema.names else None
            if kind is None or not is_right(kind):
                raise DataError(f"{path} is no file of embeddings: its column {name} is {kind}")
        columns = [*_COLUMNS, *(name for name in schema.names if name == "trained_on")]
        batches = bounded_batches(path, columns)
        table = pa.Table.from_batches(batches, pa.schema([schema.field(n) for n in columns]))
        labels = table["label"].cast(pa.int64(), safe=False).fill_null(-1).to_numpy()
        kept = table.filter(pa.array(table["valid"].fill_null(False).to_numpy() & (labels >= 0)))
        kept = kept.filter(kept["embedding"].is_valid())
        flat = kept["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(
            path, made,
            torch.from_numpy(np.array(flat)).view(-1, schema.field("embedding").type.list_size),
            torch.from_numpy(np.array(kept["label"].cast(pa.int64()).to_numpy())),
            _trained_on(kept),
        )  # fmt: skip


def _trained_on(rows: pa.Table) -> int | None:
    found = rows["trained_on"] if "trained_on" in rows.column_names else None
    if found is None or found.null_count or not pa.types.is_boolean(found.type):
        return None
    return int(found.to_numpy().sum())


def check_one_source(train: Embedded, test: Embedded) -> None:
    """See that two files come from one network, made alike, of different images of one data set.

    Raises:
        UsageError: they do not.
    """
    for key in SOURCE:
        one, other = train.made.get(key), test.made.get(key)
        if one != other:
            raise UsageError(
                f"{train.path} and {test.path} were made differently: {key} is {one} and {other}; "
                "embed both with one run, layer and crops"
            )
    if train.made["fingerprint"] == test.made["fingerprint"] or "all" in (
        train.made["split"], test.made["split"],
    ):  # fmt: skip
        raise UsageError(
            f"{train.path} and {test.path} share images: they hold the splits "
            f"{train.made['split']} and {test.made['split']} of {train.made['data']}; "
            "embed --split train and --split test"
        )
