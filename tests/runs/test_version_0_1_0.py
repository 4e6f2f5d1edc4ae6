"""A run that version 0.1.0 made, before files and measures had the names of today."""

import shutil
from pathlib import Path

import pytest

from empssl import evaluate, examine, report, train
from empssl.runs.run import Run

RUN = Path(__file__).with_name("version_0_1_0")
ONE_IMAGE = 100 / 360  # points; rounding of another processor may turn one or two


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_it_scores_as_it_did(run: Path) -> None:
    [before] = Run(run).evaluations()
    asked = before["asked"] if "asked" in before else before["protocol"]
    found = evaluate(
        run, "digits", probes=("linear", "ridge", "knn"), layers=("backbone", "head"),
        train_size=200, device="cpu",
    )  # fmt: skip
    assert asked
    was = {(r["probe"], r["layer"], r["crops"]): r["accuracy"] for r in before["results"]}
    now = {(r.probe, r.layer, r.crops): r.accuracy for r in found.results}
    assert now == pytest.approx(was, abs=2.5 * ONE_IMAGE)
    assert len(now) == 6


def test_its_measures_have_the_names_of_today(run: Path) -> None:
    for entry in Run(run).metrics():
        assert {"coding_rate_ratio", "participation_ratio", "embedding_std"} <= entry.keys()
        assert not {"fill", "participation", "spread"} & entry.keys()
    [quality] = Run(run).qualities()
    assert "coding_rate_ratio" in {row["measure"] for row in quality["readings"]}


def test_its_label_free_measures_are_as_they_were(run: Path) -> None:
    [before] = Run(run).qualities()
    found = examine(run, device="cpu")
    was = {(r["measure"], r["layer"]): r["value"] for r in before["readings"]}
    now = {(r.measure, r.layer): r.value for r in found.readings}
    turned = {key for key in was if key[0] == "rotation"}  # per cent of images
    assert now.keys() == was.keys()
    for key, value in was.items():
        assert now[key] == pytest.approx(value, abs=0.5 if key in turned else 0, rel=1e-2), key


def test_it_has_a_report(run: Path) -> None:
    assert "coding rate ratio" in report(run).read_text().lower()


def test_it_is_resumed(run: Path) -> None:
    """It is finished, so there is no step left; the weights stay as they are."""
    before = Run(run).identity
    train("digits", out=run, resume=True, device="cpu")
    assert Run(run).identity == before
