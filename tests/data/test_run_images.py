"""Images are those of a run by what they are, not by where they lie."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_images import photo
from tiny import SETTINGS

import empssl
from empssl.data.run_images import data_location, open_run_images
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation.examine import examine
from empssl.reports.run_report import report
from empssl.runs.run import Run
from empssl.training import train as train_module
from empssl.training.train import train

OPTIONS: dict[str, Any] = SETTINGS | {"epochs": 1.0, "image_side": 16}


def photos(folder: Path, count: int = 24, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        (folder / f"{number}.png").write_bytes(photo(number, side=16))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos` and a run that was trained there as `photos`."""
    folder = tmp_path_factory.mktemp("trained")
    photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("photos", out="run", **OPTIONS)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may change, and the working directory."""
    shutil.copytree(trained, tmp_path / "here")
    plan = tmp_path / "here" / "run" / "plan.json"
    plan.write_text(plan.read_text().replace(str(trained), str(tmp_path / "here")))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def elsewhere(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def resume(data: str, run: Path) -> None:
    train(data, out=run, resume=True)


# What is written down


def test_a_run_keeps_its_data_as_typed_and_where_that_led_to(trained: Path) -> None:
    run = Run(trained / "run")
    assert run.config["data"] == "photos"
    assert run.plan["data_path"] == str(trained / "photos")


def test_a_place_is_absolute_and_a_name_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/she")
    assert data_location("./a/../b/", None) == {"data_path": "/b", "data_dir": None}
    assert data_location("~/a", "x") == {"data_path": "/home/she/a", "data_dir": None}
    assert data_location("cifar10", "x") == {"data_path": "cifar10", "data_dir": "/x"}
    assert data_location("cifar10", None) == {"data_path": "cifar10", "data_dir": "/data"}
    assert data_location("imagenet100:c.txt", None)["data_path"] == "imagenet100:/c.txt"
    assert data_location("digits", None) == {"data_path": "digits", "data_dir": None}
    assert data_location("./digits", None)["data_path"] == "/digits"  # a folder of that name


# Resuming


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "a slash": lambda here: "photos/",
    "a dot": lambda here: "./photos",
    "absolute": lambda here: str(here / "photos"),
    "a detour": lambda here: "run/../photos",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_run_is_resumed_however_its_data_are_spelled(spelling: str, here: Path) -> None:
    config = (here / "run" / "config.yaml").read_bytes()
    resume(SPELLINGS[spelling](here), here / "run")
    assert (here / "run" / "config.yaml").read_bytes() == config


def test_a_run_is_resumed_on_images_that_have_moved_and_knows_where_they_are_then(
    here: Path,
) -> None:
    moved = (here / "photos").rename(here / "moved")
    resume("moved", here / "run")
    assert Run(here / "run").plan["data_path"] == str(moved)
    assert open_run_images(Run(here / "run")).name == "photos"


def test_other_images_are_refused_in_a_sentence(here: Path) -> None:
    photos(here / "others", first=24)
    before = (here / "run" / "plan.json").read_bytes()
    with pytest.raises(DataError, match=r"the images at others are not those that .*run was star"):
        resume("others", here / "run")
    assert (here / "run" / "plan.json").read_bytes() == before


def test_a_name_is_no_other_spelling_of_a_path(here: Path) -> None:
    with pytest.raises(UsageError, match="'digits' is another data set"):
        resume("digits", here / "run")


def test_a_run_that_knows_no_fingerprint_is_resumed_where_it_was_begun_only(here: Path) -> None:
    run = here / "run"
    (run / "plan.json").unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(here / "photos", here / "copy")
    with pytest.raises(UsageError, match="ended before it wrote down which images"):
        resume("copy", run)
    resume(f"{here}/photos/", run)


def test_a_run_of_before_that_kept_no_path_is_resumed_and_read(here: Path) -> None:
    run = Run(here / "run")
    run.plan = {key: value for key, value in run.plan.items() if not key.startswith("data_")}
    assert len(open_run_images(run)) == 24
    resume("./photos", run.path)
    assert run.plan["data_path"] == str(here / "photos")


def test_a_data_set_known_by_name_is_looked_for_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    known = empssl.data.open_images

    def noted(data: str, **options: Any) -> Any:
        found.append((data, options["data_dir"] and str(options["data_dir"])))
        return known("digits", split="train", side=16)

    monkeypatch.setattr(train_module, "open_images", noted)
    (tmp_path / "sets").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    options = SETTINGS | {"epochs": 0.01}
    train("cifar10", out=tmp_path / "run", data_dir="sets", **options)
    monkeypatch.chdir(tmp_path / "other")
    resume("cifar10", tmp_path / "run")
    assert found == [("cifar10", "sets"), ("cifar10", str(tmp_path / "sets"))]


# Reading them again: report and examine


def test_the_images_are_found_from_another_working_directory(elsewhere: Path, here: Path) -> None:
    found = open_run_images(Run(here / "run"))
    assert (len(found), found.name) == (24, "photos")


def test_a_folder_of_the_same_name_is_not_taken_for_the_runs(elsewhere: Path, here: Path) -> None:
    photos(elsewhere / "photos", count=9, first=50)
    assert len(open_run_images(Run(here / "run"))) == 24


def test_images_that_changed_are_still_opened_where_they_were(here: Path) -> None:
    (here / "photos" / "3.png").unlink()
    assert len(open_run_images(Run(here / "run"))) == 23


def test_images_that_are_nowhere_are_asked_for(elsewhere: Path, here: Path) -> None:
    (here / "photos").rename(here / "moved")
    with pytest.raises(DataError, match="say where they are now with --data") as refused:
        open_run_images(Run(here / "run"))
    assert "'photos' is no file or folder" in str(refused.value)
    assert f"'{here}/photos' is no file or folder" in str(refused.value)
    assert open_run_images(Run(here / "run"), data=str(here / "moved")).name == "photos"


def test_a_report_made_elsewhere_is_the_same(elsewhere: Path, here: Path) -> None:
    report(here / "run")
    page = (here / "run" / "report.html").read_text()
    (here / "run" / "report.html").unlink()
    assert "data:image/" in page
    assert str(here) + "/photos" not in page  # it is passed on
    (here / "photos").rename(here / "moved")
    report(here / "run", data=str(here / "moved"))
    # But for the links, which lead to where the images are.
    again = (here / "run" / "report.html").read_text()
    without = [re.sub(r' href="\.[^"]*"', "", text) for text in (again, page)]
    assert without[0] == without[1] != again
    assert ' href="../moved/' in again


@pytest.mark.parametrize("older", [False, True])
def test_a_report_with_pictures_is_not_replaced_by_one_without(older: bool, here: Path) -> None:
    page = report(here / "run")
    if older:  # it did not say what it shows
        page.write_text(page.read_text().replace('<meta name="shows"', '<meta name="hides"'))
    before = page.read_bytes()
    (here / "photos").rename(here / "moved")
    with pytest.raises(DataError, match=r"shows the run's images and is kept.*with --data.*remov"):
        report(here / "run")
    assert page.read_bytes() == before
    report(here / "run", data="moved")
    page.unlink()
    assert "The images cannot be opened any more" in report(here / "run").read_text()
    (here / "moved").rename(here / "photos")
    assert "data:image/" in report(here / "run").read_text()  # a better one replaces a poorer


def test_a_report_with_embeddings_is_not_replaced_by_one_without(here: Path) -> None:
    page = report(here / "run")
    before = page.read_bytes()
    shutil.rmtree(here / "run" / "checkpoints")
    shutil.rmtree(here / "run" / "model")
    with pytest.raises(CheckpointError, match="shows the run's weights and is kept"):
        report(here / "run")
    assert page.read_bytes() == before


def test_examining_from_elsewhere_replaces_its_own_file(elsewhere: Path, here: Path) -> None:
    options: dict[str, Any] = {"images": 12, "layers": ["backbone"], "random": False}
    first = examine(here / "run", **options)
    (here / "photos").rename(here / "moved")
    again = examine(here / "run", data=str(here / "moved"), **options)
    assert again.readings == first.readings
    assert len(Run(here / "run").qualities()) == 1


def test_what_random_weights_measured_is_kept_where_it_is_not_measured_again(here: Path) -> None:
    options: dict[str, Any] = {"images": 12, "layers": ["backbone"]}
    full = examine(here / "run", **options)
    assert examine(here / "run", random=False, **options).readings == full.readings
    (kept,) = Run(here / "run").qualities()
    assert all(reading["random"] is not None for reading in kept["readings"])
    other = examine(here / "run", random=False, seed=1, **options)
    assert all(reading.random is None for reading in other.readings)
    assert json.loads(other.to_json())
