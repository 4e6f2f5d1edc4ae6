"""Names at the ends of lines, which a reader finds faster than a legend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from empssl.reporting.chart import Line, Note, path

_GAP = 12.0  # units that a name needs above the next
_LETTER = 5.4  # mean width of one
_MOST = 16  # letters; the legend has the rest


@dataclass(frozen=True)
class End:
    """Where the line of a name ends, and how it looks."""

    name: str
    look: str
    x: float
    y: float


def room(names: Sequence[str], width: float) -> float:
    """The share of a drawing's width that names take at its right."""
    return (min(max(map(len, names), default=0), _MOST) * _LETTER + 14) / width


def named(ends: Sequence[End], height: float) -> tuple[list[Note], list[Line]]:
    """Names beside the ends, moved apart where they would cover each other.

    A name that had to move has a thin line to its end.

    Returns:
        Nothing, if there is no room for all of them.
    """
    if len(ends) * _GAP > height + _GAP:
        return [], []
    order = sorted(ends, key=lambda end: end.y)
    places = apart([end.y for end in order], height)
    x = max((end.x for end in order), default=0.0)
    notes, lines = [], []
    for end, y in zip(order, places, strict=True):
        short = end.name if len(end.name) <= _MOST else end.name[: _MOST - 1] + "…"
        notes.append(Note(x, y, short, "end"))
        if abs(y - end.y) > 2 or x - end.x > 2:
            ways = np.array([[end.x, end.y], [x + 5, y]])
            lines.append(Line(path(*ways.T), f"leader {end.look}"))
    return notes, lines


def apart(wanted: Sequence[float], height: float) -> list[float]:
    """Ascending places at least a name's height apart, near those that are wanted.

    >>> apart([10.0, 12.0, 50.0], 100.0)
    [5.0, 17.0, 50.0]
    >>> apart([95.0, 99.0], 100.0)
    [88.0, 100.0]
    """
    # Groups of names that touch are placed as one, around the mean of what its members want.
    groups: list[list[float]] = []  # each the offsets at which its first name is wanted
    tops: list[float] = []
    for y in wanted:
        groups.append([y])
        tops.append(min(max(y, 0.0), height))
        while len(groups) > 1 and tops[-2] + _GAP * len(groups[-2]) > tops[-1]:
            last, above = groups.pop(), groups.pop()
            tops = tops[:-2]
            merged = above + [value - _GAP * len(above) for value in last]
            top = sum(merged) / len(merged)
            groups.append(merged)
            tops.append(min(max(top, 0.0), height - _GAP * (len(merged) - 1)))
    return [
        top + _GAP * at
        for top, group in zip(tops, groups, strict=True) for at in range(len(group))
    ]  # fmt: skip
