"""Which values become black and white, where pixels have more than 8 bits: alike in a data set.

Cameras and microscopes write 12 bits into files of 16, and floats of any range. Each image by its
own darkest and brightest pixel would make a dim cell and a bright one alike, so the range is that
of the data set, unless percentiles are asked for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from empssl.errors import UsageError

Limits = tuple[float, float]
Range = Limits | Literal["auto", "full", "percentile"]
# As they are asked for: two numbers or a name; none for what is there already.
RangeWords = Sequence[float | int | str]
_NAMED = ("auto", "full", "percentile")

MAX_PIXELS = 64_000_000
PERCENTILES = (0.1, 99.9)
FEW_LEVELS = 16  # of 256
FEW_LEVELS_SHARE = 0.05  # of the images looked at; more than this are worth a warning
SIXTEEN_BITS = 65535.0
REMEDY = "say with --range LO HI which become black and white, or give --range percentile"
_BLOCK = 2**20  # values turned into float64 at a time


class AmbiguousRangeError(Exception):
    """Nothing says which value of an image is white.

    Args:
        found: the values.
        remedy: what can be done.
    """

    def __init__(self, found: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{found}; {remedy}" if remedy else found)
        self.found = found


@dataclass(frozen=True)
class Decoding:
    """How image files become 8-bit pixels; recorded with a run, so that all verbs read alike.

    Attributes:
        range: of images with more than 8 bits a value, what becomes black and white. Two numbers;
            `full`, all that the file's integers can hold, or floats from 0 to 1; `percentile`, each
            image's own 0.1 and 99.9 percentiles, after which intensities of two images compare no
            more; `auto`, the bit depth in which a sample of the data set fits, and `full` of an
            image that belongs to none. Images of 8 bits are not changed.
        max_pixels: an image with more is refused by its header.
    """

    range: Range = "auto"
    max_pixels: int = MAX_PIXELS

    def changed(
        self,
        range: RangeWords = (),  # noqa: A002 (the option's name)
        max_pixels: int | None = None,
    ) -> "Decoding":
        """With what was asked for in place of its own.

        Args:
            range: two numbers or a name; nothing keeps the range.
            max_pixels: None keeps the limit.

        Raises:
            UsageError: it is no range, or no limit.

        >>> Decoding().changed(["0", 4095]).range, Decoding().changed("percentile").range
        ((0.0, 4095.0), 'percentile')
        """
        if max_pixels is not None and max_pixels < 1:
            raise UsageError(f"max_pixels is {max_pixels}, expected 1 or more")
        return Decoding(
            _parsed(range) if isinstance(range, str) or len(range) else self.range,
            self.max_pixels if max_pixels is None else max_pixels,
        )

    @classmethod
    def recorded(cls, found: Mapping[str, Any]) -> "Decoding":
        """As JSON gives it back; what is not there is as by default.

        Raises:
            UsageError: it is no range, or no limit.
        """
        try:
            return cls().changed(found.get("range", ()), found.get("max_pixels"))
        except (AttributeError, TypeError) as error:
            raise UsageError(f"{found!r} says no range of values: {error}") from error

    @property
    def limits(self) -> Limits | None:
        """The range, where it is the same for all images whatever their type."""
        return None if isinstance(self.range, str) else self.range

    @property
    def text(self) -> str:
        """The range for a person."""
        return self.range if isinstance(self.range, str) else " to ".join(map(number, self.range))


DEFAULT_DECODING = Decoding()


@dataclass(frozen=True)
class Values:
    """What numbers of more than 8 bits an image holds.

    Attributes:
        low: the smallest.
        high: the largest.
        white: what is white in the full range of its type; None where nothing says.
    """

    low: float
    high: float
    white: float | None


def to_8_bit(
    values: np.ndarray, decoding: Decoding, white: float | None
) -> tuple[UInt8[np.ndarray, "..."], Values]:
    """Numbers of an image as levels from 0 to 255, rounded; what is beyond the range is clipped.

    Args:
        values: integers or floats of any shape.
        decoding: says the range.
        white: the largest of an integer type; None for floats, and where it is not known.

    Raises:
        AmbiguousRangeError: neither the range nor the type says what is white, or some value is
            not finite.
    """
    low, high = _bounds(values)
    if decoding.range == "percentile":
        black, top = (float(x) for x in np.percentile(values, PERCENTILES))
    elif decoding.limits is not None:
        black, top = decoding.limits
    elif white is not None:
        black, top = 0.0, white
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        black, top, white = 0.0, 1.0, 1.0
    else:
        kind = "floats" if values.dtype.kind == "f" else f"{8 * values.dtype.itemsize}-bit integers"
        raise AmbiguousRangeError(f"{kind} from {number(low)} to {number(high)}")
    found = Values(low, high, white)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _table(black, top)[values], found
    flat, levels = values.reshape(-1), np.empty(values.size, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        levels[part] = _levels(flat[part].astype(np.float64), black, top)
    return levels.reshape(values.shape), found


def _bounds(values: np.ndarray) -> Limits:
    """The smallest and the largest.

    Raises:
        AmbiguousRangeError: one is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise AmbiguousRangeError("floats that are not finite", "")
    return low, high


def _levels(values: np.ndarray, black: float, white: float) -> UInt8[np.ndarray, "..."]:
    scale = 255 / (white - black) if white > black else 0.0
    return (((values - black) * scale).clip(0, 255) + 0.5).astype(np.uint8)


@lru_cache(maxsize=16)
def _table(black: float, white: float) -> UInt8[np.ndarray, "65536"]:
    """The level of each 16-bit number: several times faster than arithmetic."""
    return _levels(np.arange(2**16, dtype=np.float64), black, white)


def decided(decoding: Decoding, found: Sequence[Values]) -> Decoding:
    """Where `auto` is asked for, the range of a data set, by the values of a sample.

    The smallest bit depth, 8 or more, in which all of its 16-bit images fit. Still `auto` where
    there are none.
    """
    largest = max((int(v.high) for v in found if v.white == SIXTEEN_BITS), default=0)
    if decoding.range != "auto" or not largest:
        return decoding
    white = 2 ** max(8, largest.bit_length()) - 1
    return replace(decoding, range="full" if white == SIXTEEN_BITS else (0.0, float(white)))


def range_warning(decoding: Decoding, found: Sequence[Values], looked_at: int) -> str | None:
    """What to say where images come out nearly black, nearly white or flat by the range alone."""
    if decoding.range == "percentile":
        return None
    narrow = [values for values in found if _few_levels(decoding, values)]
    if len(narrow) <= FEW_LEVELS_SHARE * looked_at:
        return None
    low, high = min(v.low for v in narrow), max(v.high for v in narrow)
    ends = {decoding.limits or (0.0, v.white or 1.0) for v in narrow}
    whole = " or ".join(f"{number(a)} to {number(b)}" for a, b in sorted(ends))
    if low >= 0 and high == int(high):  # as a camera's depth, rather than as these images happen
        low, high = 0.0, float(2 ** int(high).bit_length() - 1)
    return (
        f"{len(narrow)} of {looked_at} images looked at have {FEW_LEVELS} gray levels or fewer: of "
        f"the range {whole} they use {number(min(v.low for v in narrow))} to "
        f"{number(max(v.high for v in narrow))}; try --range {low:.10g} {high:.10g}"
    )


def _few_levels(decoding: Decoding, values: Values) -> bool:
    black, white = decoding.limits or (0.0, values.white or 1.0)
    used = min(values.high, white) - max(values.low, black)
    return values.high > values.low and used * FEW_LEVELS <= white - black


def number(value: float) -> str:
    """For a person.

    >>> number(4095.0), number(0.25)
    ('4,095', '0.25')
    """
    return f"{value:,.10g}"


def _parsed(words: RangeWords) -> Range:
    """The range that is meant.

    Raises:
        UsageError: it is none.
    """
    every = [words] if isinstance(words, str) else list(words)
    given = [v for word in every for v in (word.split() if isinstance(word, str) else [word])]
    if len(given) == 1 and given[0] in _NAMED:
        return given[0]  # type: ignore[return-value]
    try:
        low, high = map(float, given)
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    except (TypeError, ValueError):
        pass
    shown = " ".join(map(str, every))
    raise UsageError(
        f"range is {shown}; expected two numbers, what becomes black and the larger one that "
        f"becomes white, or one of {', '.join(_NAMED)}"
    )
