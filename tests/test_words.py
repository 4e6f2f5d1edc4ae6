"""One word per thing: names that were coined here are gone, and stay gone."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import empssl

ROOT = Path(empssl.__file__).parent
# In no line at all: neither a name nor a sentence needs them.
NOWHERE = {
    "gauge": "collapse_metrics",
    "grounds": "protocols",
    "forgive": "clear_failure",
    "tally": "summary",
    "healths": "values where larger is better",
    "ending_together": "watchdog",
    "carry_out": "run_job",
    "embed_growing_bags": "embed_patch_subsets",
    "Duel": "Pairwise",
}
# As a name or a part of one, split at `_` and at capitals. In sentences they are English.
NAMES = {
    "ground": "protocol, labels",
    "pieces": "segments, chunks",
    "piece": "segment, chunk",
    "carry": "activations",
    "told": "reported, warned, declared",
    "untold": "unknown",
    "plane": "points, project_2d",
    "aligned": "procrustes",
    "growth": "accuracy_curves",
    "slopes": "grad_fns",
    "health": "larger_is_better",
    "answers": "predictions",
    "judge": "check_claim",
    "linger": "wait_for_ranks",
    "joining": "startup_watchdog",
    "added": "all_reduce_autograd",
    "globalize": "convert_to_global_batchnorm",
}
# As a whole name; as a part of one they may be the field's own.
WHOLE = {
    "Training": "Trainer",
    "Cell": "RunSpec",
    "Equal": "Budget",
    "Outcome": "RunStatus",
    "Look": "EvalRequest",
    "Finding": "ReproducedNumber",
    "Depth": "LayerAccuracy",
    "Agreement": "PatchSimilarity",
    "Piece": "Segment",
    "Target": "EMANetwork",
    "Pending": "MetricsBuffer",
    "Healthy": "Direction",
    "Answers": "Predictions",
    "Growth": "AccuracyCurves",
    "participation": "participation_ratio",
    "settle": "synchronize",
    "summed": "all_reduce_sum",
    "smaller": "lower_memory_mode",
    "alone": "with_lock",
}
# Keys on disk keep their names: of a map of the paper.
KEPT = {("runs/records.py", "plane")}


def parts(name: str) -> set[str]:
    """The words of an identifier, in small letters.

    >>> sorted(parts("_ScoreProtocol_of"))
    ['of', 'protocol', 'score']
    """
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    return {word.lower() for word in words}


def sources() -> Iterator[tuple[str, str]]:
    """Every module and template of the package, and what is in it."""
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in (".py", ".jinja"):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


@cache
def identifiers() -> frozenset[tuple[str, str]]:
    """Every name of the package, with the file that has it; of a template, of its expressions."""
    found = set()
    for file, text in sources():
        if file.endswith(".jinja"):
            inside = " ".join(re.findall(r"\{[{%](.*?)[%}]\}", text, flags=re.S))
            inside = re.sub(r"\"[^\"]*\"|'[^']*'", "", inside)
            found |= {(file, name) for name in re.findall(r"[A-Za-z_]\w*", inside)}
            continue
        for node in ast.walk(ast.parse(text)):
            for kind in ("name", "id", "attr", "arg", "asname"):
                if isinstance(name := getattr(node, kind, None), str):
                    found.add((file, name))
    return frozenset(found - KEPT)


@pytest.mark.parametrize("old", NOWHERE)
def test_a_coined_word_is_in_no_line(old: str) -> None:
    lines = [
        f"{file}: {line.strip()}; the field says {NOWHERE[old]}"
        for file, text in sources() for line in text.splitlines()
        if re.search(rf"(?<![a-z]){old}(?![a-z])", line, flags=re.I)
    ]  # fmt: skip
    assert lines == []


@pytest.mark.parametrize("old", NAMES)
def test_a_coined_word_is_no_part_of_a_name(old: str) -> None:
    found = sorted(entry for entry in identifiers() if old in parts(entry[1]))
    assert found == [], f"the field says {NAMES[old]}"


@pytest.mark.parametrize("old", WHOLE)
def test_a_coined_name_is_gone(old: str) -> None:
    found = sorted(entry for entry in identifiers() if entry[1].strip("_") == old)
    assert found == [], f"the field says {WHOLE[old]}"


def test_keys_on_disk_are_still_there() -> None:
    """Or they need no exception."""
    for file, name in KEPT:
        assert re.search(rf"^    {name}: ", (ROOT / file).read_text(encoding="utf-8"), flags=re.M)
