"""The numbers in README.md are those of docs/results."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_shows_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    made = table()
    tables = made.cifar_table(), made.race_table(), made.rivals_table(), made.other_table()
    for line in (line for lines in tables for line in lines):
        assert line in readme
