"""What the run wrote down about itself: settings, plan, environment, bad samples."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entries:
    """Names and values under a heading."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reason:
    """Why images could not be used: how many, and the first of them."""

    reason: str
    count: int
    example: str
    error: str


def entries(title: str, content: dict[str, Any]) -> list[Entries]:
    """A heading for what is plain, and one for each part that has parts of its own."""
    plain = {key: value for key, value in content.items() if not isinstance(value, dict)}
    parts = {key: value for key, value in content.items() if isinstance(value, dict)}
    found = [Entries(title, [(key, _written(value)) for key, value in plain.items()])]
    return [entry for entry in found if entry.rows] + [
        Entries(key, [(name, _written(value)) for name, value in part.items()])
        for key, part in parts.items()
    ]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def bad_samples(rows: Sequence[dict[str, Any]]) -> list[Reason]:
    """The reasons why images could not be used, the most frequent first.

    Args:
        rows: lines of bad_samples.jsonl.
    """
    first = {row["reason"]: row for row in reversed(rows)}
    return [
        Reason(reason, count, first[reason]["name"], first[reason]["error"])
        for reason, count in Counter(row["reason"] for row in rows).most_common()
    ]
