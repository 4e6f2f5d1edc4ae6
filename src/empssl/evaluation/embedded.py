"""Embeddings that `empssl embed` wrote, to be scored without the network that made them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from empssl.errors import DataError, UsageError
from empssl.shapes import Embeddings, Labels

# What has to be alike in embeddings that are compared with each other.
SOURCE = ("model_sha256", "layer", "crops", "seed", "image_side", "data")


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
            table = pq.read_table(path)
            made = json.loads((table.schema.metadata or {})[b"empssl"])
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise DataError(
                f"{path} is no file of embeddings ({error}); write one with `empssl embed`, or "
                "give a run directory"
            ) from error
        if "label" not in table.column_names:
            raise DataError(f"{path} has no labels to evaluate with; embed labeled images")
        valid = table["valid"].to_numpy() & (table["label"].to_numpy() >= 0)
        kept = table.filter(pa.array(valid))
        flat = kept["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        width = table.schema.field("embedding").type.list_size
        return cls(
            path, made, torch.from_numpy(np.array(flat)).view(-1, width),
            torch.from_numpy(np.array(kept["label"].to_numpy())), _trained_on(kept),
        )  # fmt: skip


def _trained_on(rows: pa.Table) -> int | None:
    if "trained_on" not in rows.column_names or rows["trained_on"].null_count:
        return None
    return int(rows["trained_on"].to_numpy().sum())


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
