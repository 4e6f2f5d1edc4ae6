import ast
from collections import Counter

import pytest
from registry import ROOT, Fault, StaleError, registry


def test_every_fault_can_still_be_planted() -> None:
    for fault in registry():
        text = (ROOT / fault.file).read_text()
        assert fault.planted(ROOT) != text, fault.name


def test_a_fault_that_the_code_has_left_behind_is_told() -> None:
    gone = Fault(
        "area", "name", "src/empssl/distributed/signals.py", "what nobody wrote", "new", "red"
    )
    with pytest.raises(StaleError, match=r"signals.py has 'what nobody wrote' 0 times"):
        gone.planted(ROOT)
    with pytest.raises(StaleError, match="expected once"):
        Fault("area", "name", "src/empssl/distributed/signals.py", "signal", "new", "red").planted(
            ROOT
        )


def test_every_test_that_must_fail_is_there() -> None:
    """Whether it has the parameters named, `make planted` finds out: to collect takes a minute."""
    functions = {
        file: {node.name for node in ast.parse((ROOT / file).read_text()).body
               if isinstance(node, ast.FunctionDef)}
        for file in {fault.red.partition("::")[0] for fault in registry()}
    }  # fmt: skip
    for fault in registry():
        file, _, name = fault.red.partition("::")
        assert name.partition("[")[0] in functions[file], fault.name


def test_no_two_faults_have_one_name_and_there_are_as_many_as_promised() -> None:
    faults = registry()
    assert len({(fault.area, fault.name) for fault in faults}) == len(faults) >= 32


def test_contributing_says_how_many_there_are() -> None:
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    start = lines.index("| area | planted faults |") + 2
    areas = Counter(fault.area for fault in registry())
    told = lines[start : lines.index("", start)]
    assert told == [f"| {area} | {count} |" for area, count in sorted(areas.items())]
