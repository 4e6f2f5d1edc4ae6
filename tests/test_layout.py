"""The layout of the package: what may import what, and one name for one thing."""

import ast
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import empssl

ROOT = Path(empssl.__file__).parent
# From the bottom up. A room imports from lower floors only; within a package files may import each
# other, but not in a circle.
FLOORS = [
    {"_version", "errors", "types"},
    {"help", "plugins", "progress", "rng", "runs"},
    {"config", "device"},
    {"data", "distributed", "optim", "views"},
    {"commands", "metrics", "models"},
    {"evaluation", "objectives"},
    {"reports", "sklearn", "training"},
    {"diagnostics"},
    {"experiments"},
    {"empssl"},  # the package itself, which imports verbs when they are asked for
    {"cli"},
    {"__main__"},
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
MOST_PACKAGES = 14


@cache
def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("empssl", *path.relative_to(ROOT).with_suffix("").parts))
        found.append((name.removesuffix(".__init__"), ast.parse(path.read_text())))
    return found


def imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, wherever in it; `a.b` for `from a import b`."""
    found = set()
    known = {name for name, _ in modules()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                inner if (inner := f"{node.module}.{alias.name}") in known else node.module
                for alias in node.names
            }
    return found & known


def room(module: str) -> str:
    return (module + ".").split(".")[1] or "empssl"


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name, _ in modules()}
    assert rooms == set(FLOOR)
    assert (
        len([path for path in ROOT.iterdir() if (path / "__init__.py").exists()]) <= MOST_PACKAGES
    )


def test_contributing_has_the_floor_of_every_room() -> None:
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .+ \|$", page, flags=re.M)
    assert {room: int(floor) - 1 for floor, room in rows} == FLOOR
    assert [int(floor) for floor, _ in rows] == sorted((int(f) for f, _ in rows), reverse=True)


def test_imports_run_downhill() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, tree in modules() for other in imported(tree)
        if room(name) not in ("empssl", room(other)) and FLOOR[room(other)] >= FLOOR[room(name)]
    ]  # fmt: skip
    assert wrong == []


def test_no_file_of_a_package_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, tree in modules():
        own = {other for other in imported(tree) if room(other) == room(name) != "empssl"}
        graph[name] = own - {name.rpartition(".")[0]}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_class_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for name, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_package_only_hands_names_on() -> None:
    """Its `__init__` has imports, tables and functions of a few lines that choose from them."""
    long = []
    for name, tree in modules():
        if not (ROOT / Path(*name.split(".")[1:]) / "__init__.py").exists() or name == "empssl":
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) or (
                isinstance(node, ast.FunctionDef) and len(node.body) > 12
            ):
                long.append(f"{name}.{node.name}")
    assert long == []


def test_no_module_needs_what_only_unix_has() -> None:
    """Of the standard library; a lock, which does, says so in a sentence."""
    code = (
        "import sys, pathlib, psutil  # which has its own of each system\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "from importlib import import_module\n"
        f"for name in {[name for name, _ in modules() if name != 'empssl.__main__']!r}:\n"
        "    import_module(name)\n"
        "from empssl.errors import CheckpointError\n"
        "from empssl.runs.files import hold\n"
        "try:\n"
        "    with hold(pathlib.Path(sys.argv[1]), pathlib.Path('run')): pass\n"
        "except CheckpointError as error: print(error)"
    )
    with TemporaryDirectory() as folder:
        words = [sys.executable, "-c", code, f"{folder}/lock"]
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == (
        "run cannot be locked: this system has no flock; use Linux, macOS or WSL\n"
    ), done.stderr


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("empssl", {"train", "Encoder", "evaluate", "examine", "embed", "report", "compare"}),
        ("empssl.objectives", {"Objective", "Loss", "OBJECTIVES", "build_objective"}),
        ("empssl.models", {"ResNet", "TimmBackbone", "Network", "BACKBONES", "build_network"}),
        ("empssl.views", {"Patches", "RandomCrops", "Policy", "POLICIES"}),
        ("empssl.metrics", {"rankme", "lidar", "uniformity", "alignment", "effective_rank"}),
        ("empssl.evaluation.probes", {"PROBES", "Score", "lbfgs_probe", "knn_score"}),
        ("empssl.data", {"DATASETS", "KnownDataset", "open_images"}),
        ("empssl.sklearn", {"EncoderTransformer"}),
    ],
)
def test_public_names_are_listed_and_there(package: str, expected: set[str]) -> None:
    module = importlib.import_module(package)
    assert expected <= set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_every_class_of_an_objective_is_public() -> None:
    objectives = importlib.import_module("empssl.objectives")
    assert {entry.__name__ for entry in objectives.OBJECTIVES.values()} <= set(objectives.__all__)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["--plugin", "none", "--help"]])
def test_torch_is_not_imported_before_a_verb_is_known(words: list[str]) -> None:
    script = (
        "import sys, empssl, empssl.cli\n"
        "empssl.cli.main(sys.argv[1:])\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)
