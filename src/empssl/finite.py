"""Embeddings that can be computed with."""

from torch import Tensor

from empssl.errors import DataError


def check_finite(embeddings: Tensor, part: str) -> None:
    """Refuse embeddings that hold no row, NaN or infinity.

    Raises:
        DataError: as said.
    """
    if len(embeddings) == 0:
        raise DataError(f"{part}: no embeddings; give at least one image")
    finite = embeddings.isfinite()
    if not finite.all():
        bad = (~finite.all(1)).nonzero().flatten()
        raise DataError(
            f"{part}: {len(bad)} of {len(embeddings)} embeddings hold NaN or infinity "
            f"(first in row {int(bad[0])}); use an earlier checkpoint, or embed in float32"
        )
