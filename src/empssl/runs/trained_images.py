"""Which images a run learned from, known by what they show and not by where they lie."""

import hashlib
import io

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from empssl.errors import CheckpointError
from empssl.runs.checkpoint import check_header
from empssl.types import ContentHashes


class TrainedImages:
    """What the images that a run learned from show.

    Args:
        rows: `duplicates.contents` of each; order and repetitions mean nothing.
        whole: whether that is all of the run's images, as it is where they fit in memory; else
            those that steps have drawn so far.
    """

    def __init__(self, rows: ContentHashes, *, whole: bool) -> None:
        self.rows, self.whole = rows, whole

    @classmethod
    def from_bytes(cls, data: bytes) -> "TrainedImages":
        """As `to_bytes` gave them.

        Raises:
            CheckpointError: they are damaged.
        """
        try:
            check_header(io.BytesIO(data).read, "it")
            found = load(data)
            rows, whole = found["contents"], found["whole"]
            if not torch.equal(found["sha256"], _checksum(rows, whole)):
                raise ValueError("the checksum is another")
            if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype != torch.int64:
                raise ValueError(f"{rows.dtype} of shape {tuple(rows.shape)}, not pairs of int64")
            return cls(rows, whole=bool(whole))
        except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the list of trained images is damaged: {error!r}") from error

    def to_bytes(self) -> bytes:
        """Sixteen bytes an image, and a checksum."""
        rows, whole = self.rows.unique(dim=0), torch.tensor(self.whole)
        return save({"contents": rows, "whole": whole, "sha256": _checksum(rows, whole)})

    def add(self, rows: ContentHashes) -> None:
        """Count these images among them."""
        self.rows = torch.cat([self.rows, rows])


def _checksum(rows: Tensor, whole: Tensor) -> Tensor:
    digest = hashlib.sha256(rows.numpy().tobytes() + whole.numpy().tobytes()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)
