"""Modules of a user's own that add to the tables: objectives, backbones, probes, data sets.

A plugin is any module that can be imported. It puts an entry into a table, such as
`empssl.objectives.OBJECTIVES["mine"] = Mine`, and from then on its name is as good as any other.
`--plugin MODULE` has each process of a command import it before the rest of the command is read;
in a program it is enough to import it. A run records the names of the modules as text, and nothing
is imported by them.
"""

import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from empssl.errors import UsageError

loaded: list[str] = []  # by `--plugin`, in this process
PACKAGE = __name__.partition(".")[0]


def load(names: Iterable[str]) -> None:
    """Import modules, from where Python looks for them or from the current folder.

    Raises:
        UsageError: one is not found, or fails while it is imported.
    """
    for name in names:
        # Last, so that a file here does not take the place of a library that others import.
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())
        try:
            import_module(name)
        except Exception as error:
            raise UsageError(_failure(name, error)) from error
        if name not in loaded:
            loaded.append(name)


def origins(entries: Iterable[Any]) -> list[str]:
    """The modules of those functions and classes that are not of this package, each once."""
    found = (str(getattr(entry, "__module__", "__main__")) for entry in entries)
    return sorted({name for name in found if name.partition(".")[0] not in (PACKAGE, "__main__")})


def folders(names: Sequence[str]) -> list[str]:
    """Where modules that have been imported lie, for processes that are to import them too."""
    tops = (sys.modules.get(name.partition(".")[0]) for name in names)
    files = [Path(file) for top in tops if (file := getattr(top, "__file__", None))]
    return [str(f.parents[1] if f.name == "__init__.py" else f.parent) for f in files]


def _failure(name: str, error: Exception) -> str:
    """Why a module cannot be imported, with the line of it that failed."""
    if isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0]):
        return (
            f"--plugin {name}: there is no module '{name}' in {os.getcwd()} or where Python looks "
            "for modules; give its name as `import` has it, without .py"
        )
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"--plugin {name} cannot be imported: {type(error).__name__}: {error}{where}; mend it"
