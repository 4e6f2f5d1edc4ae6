"""What to type next about a run: a shell command, or a Python call where it takes objects."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

from empssl.config import is_object
from empssl.data.objects import is_recorded_object


def objects_of(config: Mapping[str, Any]) -> dict[str, EllipsisType]:
    """What a program gave to a run as objects, which no command line can name.

    Args:
        config: the settings of the run, as it records them.

    >>> objects_of({"data": "<array of 9 images>", "objective": {"name": "emp"}})
    {'data': Ellipsis}
    """
    return {
        name: ... for name, value in config.items()
        if (name in ("data", "test_data") and is_recorded_object(value))
        or (isinstance(value, dict) and is_object(value))
    }  # fmt: skip


def command(verb: str, placed: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """How a verb is called.

    Args:
        verb: its name.
        placed: what the command line takes by place, in its order.
        options: what it takes by name; None is left out. Of `...` in one of both, which stands for
            an object, it follows that this is a call from Python.

    >>> command("report", {"run": "runs/my photos"}, {"images": [1, 2], "download": True})
    "empssl report 'runs/my photos' --images 1 2 --download"
    >>> command("report", {"run": Path("runs/x")}, {"data": ..., "images": [1, 2]})
    'empssl.report("runs/x", data=..., images=[1, 2])'
    """
    given = {name: value for name, value in options.items() if value is not None}
    if ... in placed.values() or ... in given.values():
        return f"empssl.{verb}({keywords(dict(placed) | given).removeprefix('run=')})"
    words = ["empssl", verb, *map(str, placed.values())]
    for name, value in given.items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def keywords(values: Mapping[str, Any]) -> str:
    """Arguments of a call from Python, by name.

    >>> keywords({"out": "runs/x", "epochs": 2, "backbone": ...})
    'out="runs/x", epochs=2, backbone=...'
    """
    return ", ".join(f"{name}={_in_python(value)}" for name, value in values.items())


def _in_python(value: Any) -> str:
    if value is ...:
        return "..."
    return json.dumps(str(value)) if isinstance(value, str | Path) else repr(value)
