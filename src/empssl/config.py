"""A spec is a name and keyword arguments, `{"name": "emp", "distortion": 0.2}`.

A table in each room maps names to classes or functions. The signature of the entry is the schema:
nothing else lists its options or repeats its defaults.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from empssl.errors import UsageError, nearest
from empssl.runs.schema import fits, kind

Spec = dict[str, Any]
Table = Mapping[str, Callable[..., Any]]
F = TypeVar("F", bound=Callable[..., Any])


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
    name = str(spec.get("name"))
    if name not in table:
        raise UsageError(f"no '{name}' here: {nearest(name, table)}")
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
        return dict(base)
    if isinstance(changes, str):
        changes = {"name": changes}
    if changes.get("name", base["name"]) != base["name"]:
        return dict(changes)
    return base | changes
