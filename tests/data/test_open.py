"""What every data set known by name has in common."""

import inspect
import re
from pathlib import Path

import pytest

import empssl
from empssl import cli
from empssl.data import DATASETS, MADE, NAMES, ImageSet, open_images
from empssl.data.open import is_name
from empssl.errors import DataError

PARAMETERS = ("split", "data_dir", "side", "download", "progress")
DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


@pytest.mark.parametrize("name", DATASETS)
def test_all_are_opened_by_the_same_parameters(name: str) -> None:
    known = DATASETS[name]
    parameters = dict(inspect.signature(known.open).parameters)
    if known.takes_classes:
        assert parameters.pop("classes").default is None
    assert tuple(parameters) == PARAMETERS
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert isinstance(parameters["side"].default, int)
    assert parameters["download"].default is False
    assert parameters["progress"].default is None


@pytest.mark.parametrize("name", DATASETS)
def test_a_name_is_no_path(name: str) -> None:
    assert is_name(name)
    assert not is_name(f"./{name}")
    assert is_name(f"{name}:FILE") == DATASETS[name].takes_classes


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MADE)))
def test_one_that_is_not_there_is_named_with_where_it_was_looked_for(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"{name} is not in '{tmp_path}'"):
        open_images(name, split="train", data_dir=tmp_path)


@pytest.mark.parametrize("name", MADE)
def test_one_that_needs_no_files_opens_with_splits_that_share_no_image(
    name: str, tmp_path: Path
) -> None:
    parts: dict[str, ImageSet] = {
        split: open_images(name, split=split, data_dir=tmp_path / "nowhere")  # type: ignore[arg-type]
        for split in ("auto", "train", "test", "all")
    }
    assert {images.name for images in parts.values()} == {name}
    assert parts["auto"].split == "train"
    assert parts["auto"].fingerprint == parts["train"].fingerprint
    names = {
        split: {images.sample_name(i) for i in range(len(images))}
        for split, images in parts.items()
    }
    assert not names["train"] & names["test"]
    assert names["train"] | names["test"] == names["all"]
    assert open_images(name, split="test", side=8).read([0]).pixels.shape == (1, 3, 8, 8)


def test_help_and_documentation_name_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse("train", empssl.train, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "known by name: " + ", ".join(NAMES) in shown
    assert ", ".join(NAMES) in (empssl.train.__doc__ or "")
    assert re.findall(r"^\| `([\w-]+)` \|", DOCS.read_text(), re.MULTILINE)[: len(NAMES)] == [
        *NAMES
    ]
