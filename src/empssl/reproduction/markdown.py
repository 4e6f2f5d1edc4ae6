"""Pieces of Markdown that every document of an exhibit is made of."""

from collections.abc import Sequence


def signed(value: float) -> str:
    """Points with their sign, and one digit.

    >>> [signed(x) for x in (1.25, -0.31, -0.01)]
    ['+1.2', '−0.3', '−0.0']
    """
    return f"{value:+.1f}".replace("-", "−")


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    rule = ["---"] * len(lines[0])
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (lines[0], rule, *lines[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
