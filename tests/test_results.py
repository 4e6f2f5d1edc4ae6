"""The numbers in README.md, docs/results.md and other pages are those of docs/results."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def table() -> ModuleType:
    return benchmark("table")


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_results_shows_the_committed_ones() -> None:
    page = (ROOT / "docs" / "results.md").read_text().splitlines()
    made = table()
    tables = (
        made.cifar_table(), made.race_table(), made.rivals_table(), made.quality_table(),
        made.other_table(),
    )  # fmt: skip
    for line in (line for lines in tables for line in lines):
        assert line in page


def test_the_page_of_results_says_what_the_committed_ones_say() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    for sentence in table().sentences():
        assert sentence in page


def test_the_readme_says_what_the_committed_results_say() -> None:
    page = " ".join((ROOT / "README.md").read_text().split())
    for sentence in table().readme_sentences():
        assert sentence in page


def test_the_output_in_the_readme_has_the_scores_of_the_measured_demo() -> None:
    demo = table().load("demo")
    baselines = ("random-0", "whitened-patches", "whitened-mirrored")
    scores = {
        (row["model"] if row["model"] in baselines else "runs/demo", row["probe"], row["layer"]):
        row["accuracy"] for row in demo["results"] + demo["baselines"] if row["train_seed"] == 0
    }  # fmt: skip
    best = {
        probe: max(score for (model, other, _), score in scores.items()
                   if model in baselines and other == probe)
        for probe in {probe for _, probe, _ in scores}
    }  # fmt: skip
    [block] = re.findall(r"^```text\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    lines = [line.split() for line in block.splitlines() if "%" in line]
    assert len(lines) >= 3
    for model, probe, layer, _, accuracy, *gain in lines:
        score = scores[model, probe, layer]
        assert accuracy == f"{score:.2f}%"
        assert gain == ([f"{score - best[probe]:+.2f}"] if model == "runs/demo" else [])


def test_the_page_of_the_paper_shows_what_became_of_its_claims() -> None:
    page = (ROOT / "docs" / "results" / "paper" / "README.md").read_text().splitlines()
    for line in table().claims_table():
        assert line in page


def test_the_documents_of_the_paper_are_what_their_json_gives_by_the_rules_of_today() -> None:
    folder = ROOT / "docs" / "results" / "paper"
    made = benchmark("paper_documents").documents(folder)
    assert {file for file in made if file.endswith(".json")} == {
        path.name for path in folder.glob("*.json")
    }
    for file, text in made.items():
        assert (folder / file).read_text() == text, f"{file}: python benchmarks/paper_documents.py"


def test_the_page_on_reliability_shows_the_committed_attacks() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    lines = table().attack_table()
    at = page.index(lines[0])
    assert page[at : at + len(lines)] == lines
    assert page[at + len(lines)] == ""
    record = table().load("attack")
    kinds = record["kinds"].values()
    assert record["value"] == sum(kind["survived"] for kind in kinds)
    assert record["tried"] == sum(kind["tried"] for kind in kinds) >= 250
    assert len(record["kinds"]) == 11
    said = (
        f"{record['value']:.0f} of {record['tried']} trials were survived (seed {record['seed']}, "
    )
    assert f"{said}commit {record['commit']}, " in " ".join(page)
    assert all(place not in json.dumps(record) for place in ("/root", "/home", "/dev/shm", "/tmp"))


def test_the_page_on_fidelity_shows_the_committed_worths() -> None:
    made = (ROOT / "docs" / "results" / "paper" / "fidelity.md").read_text().splitlines()
    page = (ROOT / "docs" / "fidelity.md").read_text().splitlines()
    assert next(line for line in made if line.startswith("The base")) in page
    worths, shown = ([line.split(" | ")[-2:] for line in lines if line.startswith("| ")]
                     for lines in (made, page))  # fmt: skip
    measured = [worth for worth in worths if not worth[-1].startswith("not measured")]
    assert len(measured) > 10
    assert [worth for worth in shown if not worth[-1].startswith("not measured")] == measured
