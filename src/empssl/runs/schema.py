"""What a file must hold, by type hints, and the functions that read it: JSON or YAML.

Files of a run may come from an earlier version, a crash or somebody else. What does not fit is one
error that names the file, the field, what it is and what was expected.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from empssl.errors import CheckpointError, EmpsslError
from empssl.runs.files import open_regular

_MOST_YAML = 2**18  # bytes; PyYAML takes some four seconds for as many
_MOST_NESTED = 50  # PyYAML looks at all that are open with each sign that it reads
_MOST_SHOWN = 60  # letters of a value in a message
_KINDS: dict[Any, str] = {
    float: "a finite number", int: "a whole number", bool: "true or false", str: "text",
    NoneType: "null", dict: "a mapping", Any: "text, a number, a list or a mapping",
}  # fmt: skip


@dataclass(frozen=True)
class Between:
    """Beside a number's type, in `Annotated`: the least and the greatest that it may be.

    Attributes:
        low, high: both are allowed.
        finite: False where NaN and infinities are allowed, too.
    """

    low: int | float = -math.inf
    high: int | float = math.inf
    finite: bool = True

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low:,} to {self.high:,}"
        return f"of {self.low:,} or more" if self.low > -math.inf else ""


MeasuredNumber = Annotated[
    float, Between(finite=False)
]  # what may not be finite, and be shown as a gap
Count = Annotated[int, Between(0)]
Positive = Annotated[int, Between(1)]


# What is more than a matter of types, by TypedDict.
_RULES: dict[Any, Callable[[Any], str | None]] = {}


def rule(hint: Any) -> Callable[[Callable[[Any], str | None]], Callable[[Any], str | None]]:
    """Register a function that says what is wrong with a mapping of this TypedDict, if anything."""

    def register(function: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
        _RULES[hint] = function
        return function

    return register


class Record(dict[str, Any]):
    """A mapping from a file. A key that it lacks is an error that names the file.

    Args:
        content: the mapping.
        source: the file, and the place in it.
    """

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        super().__init__(content)
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self.source} does not say '{key}'")


class _MisfitError(Exception):
    """What does not fit, in words."""


def fits(value: Any, hint: Any) -> bool:
    """Whether a value, as JSON or YAML gives it, is what a type hint says.

    >>> fits(1, float), fits(float("nan"), float), fits([1, "x"], list[int]), fits(None, int | None)
    (True, False, False, True)
    """
    try:
        _checked(value, hint, "", "")
    except _MisfitError:
        return False
    return True


def kind(hint: Any) -> str:
    """What a type hint takes, in words.

    >>> kind(list[int] | None)
    'a list, each item a whole number or null'
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{kind(parts[0])} {parts[1]}".strip() if parts[1].finite else "a number"
    if origin in (Union, UnionType):
        return " or ".join(kind(part) for part in parts)
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (list, tuple, Sequence):
        return f"a list, each item {kind(parts[0])}"
    return _KINDS.get(dict if is_typeddict(hint) or origin is dict else hint, str(hint))


def conform(
    content: Any, hint: Any, source: str, error: type[EmpsslError] = CheckpointError
) -> Any:
    """The content of a file, after checking it; its mappings as `Record`.

    Args:
        content: as JSON or YAML gives it.
        hint: what it must be: TypedDicts, lists, mappings and plain values. Keys that a TypedDict
            does not name may hold any of these.
        source: the file, for the message.
        error: what to raise.

    Raises:
        EmpsslError: of that kind; it is something else.
    """
    if is_typeddict(hint) and not isinstance(content, dict):
        raise error(f"{source} holds no settings: it is {_shown(content)}, expected a mapping")
    try:
        return _checked(content, hint, source, "")
    except _MisfitError as misfit:
        raise error(f"{source} is damaged: {misfit}") from None
    except RecursionError:
        raise error(f"{source} is damaged: its lists and mappings are nested too deep") from None


def read_json(path: Path, hint: Any) -> Any:
    """The content of a JSON file, checked as in `conform`.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    return _parsed(json.loads, _content(path), hint, str(path))


def read_json_lines(path: Path, hint: Any) -> list[Any]:
    """What the lines of a file say, each checked as in `conform`; none if there is no file.

    A last line without an end was being written at a crash, and is left out.

    Raises:
        CheckpointError: a line is damaged or says something else.
    """
    if not path.exists() and not path.is_symlink():
        return []
    lines = _content(path).rpartition(b"\n")[0].splitlines()
    return [
        _parsed(json.loads, line, hint, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
    ]


def read_yaml(path: Path, hint: Any) -> Any:
    """The content of a YAML file, checked as in `conform`.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    return _parsed(plain_yaml, _content(path), hint, str(path))


def plain_yaml(text: str | bytes) -> Any:
    """Parse YAML without references: a kilobyte of them can stand for any number of values.

    Raises:
        ValueError: it is not YAML, has references, or is too long.
    """
    import yaml  # most commands read none

    check_references(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def check_references(text: str | bytes) -> None:
    """See that YAML, if it is any, is not too long or nested too deep and has no references.

    Raises:
        ValueError: it is, or has.
    """
    import yaml

    if len(text) > _MOST_YAML:
        raise ValueError(f"{len(text):,} bytes of YAML, at most {_MOST_YAML:,} are read")
    depth = 0
    with suppress(yaml.YAMLError):  # whoever parses it says what is wrong
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_NESTED:
                raise ValueError(
                    f"its lists and mappings are nested {depth} deep, at most {_MOST_NESTED} are "
                    "read"
                )
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(
                    f"*{event.anchor} is a reference (alias); write out what it stands for"
                )


def read_text(path: Path) -> str:
    """The content of a text file; what is no UTF-8 as escapes.

    Raises:
        CheckpointError: it is missing or cannot be read.
    """
    return _content(path).decode("utf-8", "backslashreplace")


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _parsed(parse: Callable[[Any], Any], content: bytes, hint: Any, source: str) -> Any:
    try:
        found = parse(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is damaged: {error}") from error
    return conform(found, hint, source)


@cache
def _fields(hint: Any) -> dict[str, Any]:
    return get_type_hints(hint, include_extras=True)


def _checked(value: Any, hint: Any, source: str, where: str) -> Any:
    """The value with its mappings as records.

    Raises:
        _MisfitError: it does not fit.
    """
    if hint in (int, float):
        whole = type(value) is int and _fits_64(value)
        if whole or (hint is float and type(value) is float and math.isfinite(value)):
            return value
    elif hint in (str, bool, NoneType):
        if type(value) is hint:
            return value
    elif hint is Any:
        return _plain(value, source, where)
    elif is_typeddict(hint):
        if isinstance(value, dict):
            found = _record(value, _fields(hint), Any, source, where)
            if missing := hint.__required_keys__ - found.keys():
                raise _MisfitError(f"{where or 'it'} does not say '{min(missing)}'")
            if hint in _RULES and (problem := _RULES[hint](found)):
                raise _MisfitError(f"{where or 'it'}: {problem}" if where else problem)
            return found
    else:
        return _compound(value, hint, source, where)
    raise _misfit(value, hint, where)


def _compound(value: Any, hint: Any, source: str, where: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits: Between = parts[1]
        if not limits.finite and type(value) is float:
            return value
        if fits(value, parts[0]) and limits.low <= value <= limits.high:
            return value
    elif origin in (Union, UnionType):
        for part in parts:
            if fits(value, part):
                return _checked(value, part, source, where)
    elif origin is Literal:
        if any(type(value) is type(part) and value == part for part in parts):
            return value
    elif origin is dict:
        if isinstance(value, dict):
            return _record(value, {}, parts[1], source, where)
    elif origin in (list, tuple, Sequence):
        if isinstance(value, list | tuple):
            return [
                _checked(item, parts[0], source, f"{where}[{at}]") for at, item in enumerate(value)
            ]
    else:
        return value  # a class of the caller's own
    raise _misfit(value, hint, where)


def _record(
    value: dict[Any, Any], fields: dict[str, Any], other: Any, source: str, where: str
) -> Record:
    found = {}
    for key, item in value.items():
        name = f"{where}.{key}" if where else str(key)
        if type(key) is not str:
            raise _MisfitError(f"a key is {_shown(key)}, expected text")
        found[key] = _checked(item, fields.get(key, other), source, name)
    return Record(found, f"{source}, {where}," if where else source)


def _plain(value: Any, source: str, where: str) -> Any:
    """Any value that JSON holds: YAML also makes dates, bytes and sets."""
    for hint in (str, bool, NoneType):
        if type(value) is hint:
            return value
    if type(value) in (int, float):
        return _checked(value, MeasuredNumber, source, where)
    if isinstance(value, list):
        return [_plain(item, source, f"{where}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, dict):
        return _record(value, {}, Any, source, where)
    raise _misfit(value, Any, where)


def _fits_64(value: int) -> bool:
    return -(2**63) <= value < 2**64


def _misfit(value: Any, hint: Any, where: str) -> _MisfitError:
    return _MisfitError(f"{where or 'it'} is {_shown(value)}, expected {kind(hint)}")


def _shown(value: Any) -> str:
    if isinstance(value, list | dict) and value:
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or _fits_64(value) else "a number too large"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
