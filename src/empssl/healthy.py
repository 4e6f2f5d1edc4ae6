"""Which way a measure of embeddings is healthy."""

from typing import Literal

Healthy = Literal["higher", "lower", "near 1"]


def health(value: float, healthy: Healthy) -> float:
    """The value on a scale on which larger is healthier.

    >>> health(0.9, "near 1") > health(1.2, "near 1"), health(3.0, "lower")
    (True, -3.0)
    """
    if healthy == "near 1":
        return -abs(value - 1)
    return value if healthy == "higher" else -value
