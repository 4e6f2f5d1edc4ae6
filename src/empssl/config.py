"""A spec is a name and keyword arguments, `{"name": "emp", "distortion": 0.2}`.

A table in each package maps names to classes or functions. The signature of the entry is the
schema: nothing else lists its options or repeats its defaults. What a program gives in place of a
name, such as a module of its own, is an `ObjectSpec`.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar, get_type_hints

from empssl.errors import OR_PLUGIN, UsageError, nearest
from empssl.runs.schema import fits, kind

Spec = dict[str, Any]
Table = dict[str, Callable[..., Any]]
OBJECT = "object:"  # what the name of an object begins with, which is in no table
F = TypeVar("F", bound=Callable[..., Any])
_MOST_REPR = 1000  # letters of an object whose options are not known


class ObjectSpec(dict[str, Any]):
    """The spec of what a program gives itself: recorded by name, and used as it is.

    What is written down is a mapping as of any other spec: `name` is `object:` and the qualified
    name of its class, or of the function that it is. The options are those parameters of its
    constructor that it has as attributes of the same name, if they are plain values, or the
    keywords of a `functools.partial`; where these are not all, `repr` says the rest. A copy, and
    what is read again from a file, are that mapping alone: nothing is ever imported by its name.

    Args:
        made: the object.
    """

    def __init__(self, made: Any) -> None:
        named = made.func if isinstance(made, partial) else made
        if not (inspect.isroutine(named) or inspect.isclass(named)):
            named = type(named)
        super().__init__(
            _options(made) | {"name": f"{OBJECT}{named.__module__}.{named.__qualname__}"}
        )
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _options(made: Any) -> dict[str, Any]:
    """With what an object was made, as far as that can be told and written down."""
    if isinstance(made, partial):
        found, whole = made.keywords, not made.args
    elif inspect.isroutine(made) or inspect.isclass(made):
        return {}
    else:
        parameters = list(inspect.signature(type(made)).parameters.values())
        found = {p.name: getattr(made, p.name) for p in parameters if hasattr(made, p.name)}
        whole = len(found) == len(parameters)
    plain = {key: _as_list(value) for key, value in found.items() if _is_plain(value)}
    if not whole or len(plain) < len(found):
        text = re.sub(r" at 0x[0-9a-f]+", "", repr(made))  # where in memory, another one each time
        plain["repr"] = " ".join(text.split())[:_MOST_REPR]
    return plain


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, str) or (
        type(value) is float and math.isfinite(value)
    )  # fmt: skip


def _as_list(value: Any) -> Any:
    return [_as_list(v) for v in value] if isinstance(value, list | tuple) else value


def is_object(spec: Spec) -> bool:
    """Whether a spec stands for an object of a program; the object itself need not be here."""
    return str(spec.get("name")).startswith(OBJECT)


def object_missing(where: str, setting: str, spec: Spec) -> UsageError:
    """The error where a run needs an object of a program again, which is not kept with it.

    Args:
        where: the run, or its model.
        setting: which it was given as.
        spec: as it was recorded.
    """
    options = ", ".join(f"{k}={v!r}" for k, v in spec.items() if k not in ("name", "repr"))
    return UsageError(
        f"{where} was trained with an object of a Python program as its {setting}, "
        f"{str(spec['name']).removeprefix(OBJECT)}({options}), which is not kept with it; give the "
        f"same again from Python, as {setting}="
    )


def names_in_docstring(**names: Iterable[str]) -> Callable[[F], F]:
    """Put lists of names, as of a table, in place of `{key}` in a function's docstring.

    So `help` and the command line say what the table says.

    >>> @names_in_docstring(sizes=["small", "large"])
    ... def make() -> None: "Make one of {sizes}."
    >>> make.__doc__
    'Make one of small, large.'
    """

    def filled(function: F) -> F:
        for key, listed in names.items():
            if function.__doc__:  # python -OO has none
                function.__doc__ = function.__doc__.replace(f"{{{key}}}", ", ".join(listed))
        return function

    return filled


def complete(table: Table, spec: Spec, *, given: tuple[str, ...] = ()) -> Spec:
    """The spec with every default written out, in the order of the signature.

    Args:
        table: name to class or function.
        spec: `name` and any options.
        given: parameters that the program supplies itself; not options.

    Raises:
        UsageError: the name is not in the table, an option is not in the signature, or a value is
            not what its annotation says. Numbers are finite.

    >>> def power(*, base: float, exponent: float = 2.0) -> float: return base**exponent
    >>> complete({"power": power}, {"name": "power", "base": 3.0})
    {'name': 'power', 'base': 3.0, 'exponent': 2.0}
    """
    if isinstance(spec, ObjectSpec):
        return spec
    name = str(spec.get("name"))
    if is_object(spec):
        raise UsageError(
            f"'{name}' is an object of a Python program and cannot be made by its name; give it "
            "from Python, or choose from: " + ", ".join(sorted(table))
        )
    if name not in table:
        raise UsageError(f"no '{name}' here: {nearest(name, table)}; {OR_PLUGIN}")
    options = {
        p.name: p.default for p in inspect.signature(table[name]).parameters.values()
        if p.name not in given and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }  # fmt: skip
    for key in spec:
        if key != "name" and key not in options:
            raise UsageError(f"'{name}' has no option '{key}': {nearest(key, options)}")
    given_values = {k: _as_default(v, options[k]) for k, v in spec.items() if k != "name"}
    full = {"name": name} | options | given_values
    missing = [k for k, v in full.items() if v is inspect.Parameter.empty]
    if missing:
        raise UsageError(f"'{name}' needs a value for {', '.join(missing)}")
    hints = _hints(table[name])
    for key, value in given_values.items():
        if not fits(value, hints.get(key, Any)):
            raise UsageError(f"{key} of '{name}' is {value!r}, expected {kind(hints[key])}")
    return full


def _hints(entry: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(entry.__init__ if inspect.isclass(entry) else entry)


def _as_default(value: Any, default: Any) -> Any:
    """A whole number where the default is a float means a float: YAML writes 1.0 as 1."""
    return float(value) if type(value) is int and isinstance(default, float) else value


def build(table: Table, spec: Spec, **given: Any) -> Any:
    """Call the table's entry with the options of the spec and what the program gives.

    Raises:
        UsageError: as `complete`, or the entry rejects a value.
    """
    if isinstance(spec, ObjectSpec):
        return spec.made
    options = complete(table, spec, given=tuple(given))
    name = options.pop("name")
    try:
        return table[name](**given, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"'{name}' cannot be made: {error}") from error


def merge(base: Spec, changes: Spec | str | None) -> Spec:
    """The base with changes laid over it; another name drops the base's options.

    >>> merge({"name": "emp", "distortion": 0.2}, {"invariance_weight": 100})
    {'name': 'emp', 'distortion': 0.2, 'invariance_weight': 100}
    >>> merge({"name": "emp", "distortion": 0.2}, "vicreg")
    {'name': 'vicreg'}
    """
    if changes is None:
        return base if isinstance(base, ObjectSpec) else dict(base)
    if isinstance(changes, ObjectSpec):
        return changes
    if isinstance(changes, str):
        changes = {"name": changes}
    if changes.get("name", base["name"]) != base["name"]:
        return dict(changes)
    return base | changes
