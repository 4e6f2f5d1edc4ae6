"""Rows of embeddings that something can be measured of."""

from torch import Tensor

from empssl.errors import DataError
from empssl.finite import check_finite

_ROUNDING = 1e-12  # of the mean square: what float32 leaves of rows that are all the same


def check_rows(embeddings: Tensor, least: int = 2) -> None:
    """Refuse what is too few or not finite.

    Args:
        embeddings: (sample, feature), or (view, sample, feature).
        least: rows that it takes.

    Raises:
        DataError: as said.
    """
    for rows in embeddings.flatten(0, -3) if embeddings.ndim > 2 else [embeddings]:
        check_finite(rows, "embeddings")
    if embeddings.shape[-2] < least:
        raise DataError(
            f"embeddings of {embeddings.shape[-2]} images were given, expected {least} or more; "
            "embed more images"
        )


def check_views(views: Tensor) -> None:
    """Refuse views that cannot be compared, or rows as `check_rows` does.

    Raises:
        DataError: as said.
    """
    if len(views) < 2:
        raise DataError(
            f"{len(views)} view of each image was given, expected 2 or more; embed more patches"
        )
    check_rows(views)


def alike(embeddings: Tensor) -> bool:
    """Whether all rows are the same but for rounding: collapse, where variances are noise."""
    rows = embeddings.detach().flatten(0, -2).double()
    variance = rows.var(0, correction=0).sum()
    return bool(variance <= _ROUNDING * rows.square().sum(-1).mean())
