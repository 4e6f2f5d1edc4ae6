"""Lengths of time as people write them."""

import re

from empssl.errors import UsageError

_MOST = 1e10  # seconds, 300 years: steps have to be counted
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds in `90s`, `10m`, `1h30m`, `1.5h` or `2d`.

    Raises:
        UsageError: it is none of these, zero, or centuries.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds < _MOST or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"'{text}' is no duration; write it as 90s, 10m, 1h30m or 2d")
    return float(seconds)


def format_duration(seconds: int | float) -> str:
    """A length of time as `parse_duration` reads it, in one or two of its units.

    >>> [format_duration(seconds) for seconds in (3.2, 90, 5400, 200_000)]
    ['3s', '1m30s', '1h30m', '2d7h']
    """
    left = max(1, round(seconds))
    words: list[str] = []
    for unit, size in reversed(_SECONDS.items()):
        number, left = divmod(left, size)
        if number or words:
            words.append(f"{number}{unit}" if number else "")
    return "".join(words[:2])
