"""Test images that are given apart from the train images."""

import html
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_images import photo
from tiny import few_digits, train_tiny

from empssl.cli import main
from empssl.data import MemoryImages, open_images
from empssl.errors import DataError, UsageError
from empssl.evaluation.embed import embed
from empssl.evaluation.evaluate import evaluate
from empssl.evaluation.features import number_alike
from empssl.experiments.protocol import EvalProtocol
from empssl.reports.run_report import report
from empssl.runs.run import Run

EACH, SIDE = 12, 16
CHEAP: dict[str, Any] = {"probes": ["knn"], "crops": ["grid1"], "layers": ["head"],
                         "baselines": False}  # fmt: skip


def fill(root: Path, kinds: Sequence[str], *, first: int = 0, each: int = EACH) -> Path:
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for k in range(each):
            number = first + 1000 * ord(kind[0]) + k
            (root / kind / f"{first + k:03d}.png").write_bytes(photo(number, side=SIDE))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("data") / "photos", "abc")


@pytest.fixture(scope="module")
def others(photos: Path) -> Path:
    return fill(photos.parent / "others", "abc", first=100, each=3)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    return train_tiny(out, data=str(photos), epochs=0.5, image_side=SIDE)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def labeled(images: Any) -> tuple[np.ndarray, list[int]]:
    return images.pixels.permute(0, 2, 3, 1).numpy(), images.labels.tolist()


def test_what_is_divided_by_hand_has_the_scores_of_what_is_divided_here(tmp_path: Path) -> None:
    with few_digits(160, 40):
        run = train_tiny(tmp_path / "run", whitened=8)
        asked: dict[str, Any] = {"probes": ["ridge", "knn"], "crops": ["grid1"], "few_shot": [2]}
        whole = evaluate(run, "digits", **asked)
        train, test = (labeled(open_images("digits", split=part)) for part in ("train", "test"))
        apart = evaluate(run, train, test_data=test, **asked)
    assert apart.results == whole.results
    assert apart.baselines == whole.baselines
    assert apart.few_shot == whole.few_shot
    assert {part: tally.trained_on for part, tally in apart.images.items()} == {
        "train": 160, "test": 0,
    }  # fmt: skip
    assert not apart.protocol["transfer"]


def test_all_images_of_one_are_train_and_all_of_the_other_test(
    run: Path, photos: Path, others: Path
) -> None:
    found = evaluate(run, photos, test_data=others, **CHEAP)
    assert (found.results[0].train_size, found.results[0].test_size) == (3 * EACH, 9)
    assert (found.images["train"].trained_on, found.images["test"].trained_on) == (3 * EACH, 0)
    assert f"{photos}: 36 train images, {others}: 9 test images" in found.table()


def test_pictures_in_both_and_pictures_of_training_are_counted(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    mixed = fill(tmp_path / "mixed", "abc", first=100, each=3)
    for k in range(2):
        shutil.copy(photos / "b" / f"{k:03d}.png", mixed / "b" / f"copy{k}.png")
    found = evaluate(run, photos, test_data=mixed, near_copies=True, **CHEAP)
    test = found.images["test"]
    assert (test.used, test.in_train, test.trained_on, test.near_trained_on) == (11, 2, 2, 0)
    assert "2 of 11 test images are in train too" in found.table()
    assert "the encoder was trained on 2 of 11 test images too, without their labels\n" in (
        found.table() + "\n"
    )


@pytest.mark.parametrize("known", [True, False])
def test_test_images_of_training_are_told_of(
    known: bool, run: Path, photos: Path, others: Path
) -> None:
    if not known:
        (run / "trained_images.safetensors").unlink()
    own = evaluate(run, others, test_data=photos, **CHEAP)
    assert own.protocol["saw_test"]
    assert not own.protocol["transfer"]
    other = evaluate(run, photos, test_data=others, **CHEAP)
    assert not other.protocol["saw_test"]
    assert not other.protocol["transfer"]


def test_the_same_images_twice_are_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(photos, tmp_path / "part"))
    for file in part.glob("*/00[1-9].png"):
        file.unlink()
    with pytest.raises(UsageError, match=r"every image of test_data, .*part, is among the train"):
        evaluate(run, photos, test_data=part, **CHEAP)


def sets(names: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]) -> list[MemoryImages]:
    return [
        MemoryImages(torch.zeros(len(of), 3, 4, 4, dtype=torch.uint8), name="x", split=part,
                     fingerprint=part, labels=torch.tensor(of), class_names=called)
        for called, of, part in zip(names, labels, ("train", "test"), strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        ((("ant", "bee", "cow"), ("bee", "cow")), ((0, 1, 2), (1, 0, -1)), ["cow", "bee", ""]),
        ((("ant", "bee"), ("owl", "ant")), ((0, 1), (0, 1)), ["owl", "ant"]),
        ((("ant", "bee"), ()), ((0, 1), (1, 0)), ["bee", "ant"]),
        (((), ()), ((0, 1), (1, 0)), ["1", "0"]),
        (((), ("ant", "bee")), ((0, 1), (1, 0)), ["bee", "ant"]),
    ],
)
def test_classes_are_the_same_by_name_and_else_by_number(
    names: Any, labels: Any, expected: list[str]
) -> None:
    train, test = sets(names, labels)
    number_alike(train, test)
    assert test.labels is not None
    numbers = test.labels.tolist()
    assert [test.class_name(n) if n >= 0 else "" for n in numbers] == expected
    for number, name in zip(numbers, expected, strict=True):
        if name in names[0]:
            assert train.class_name(number) == name
        elif names[0] and name:
            assert number >= len(names[0])


def test_a_class_that_only_test_has_is_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    more = fill(tmp_path / "more", "bz", first=100, each=2)
    with pytest.raises(DataError, match=r"test images of .*more have the class z, of which train"):
        evaluate(run, photos, test_data=more, **CHEAP)


def test_scores_of_other_test_data_are_kept_beside_each_other(run: Path, photos: Path) -> None:
    generator = np.random.default_rng(0)
    one, other = (generator.integers(0, 256, (6, SIDE, SIDE, 3), np.uint8) for _ in range(2))
    labels = ["a", "b", "c"] * 2
    given = [(one, labels), (other, labels), (one, labels[::-1]), (one.copy(), list(labels))]
    for test in given:
        evaluate(run, photos, test_data=test, **CHEAP)
    assert len(Run(run).evaluations()) == 3
    evaluate(run, photos, **CHEAP)
    assert len(Run(run).evaluations()) == 4


def test_a_comparison_takes_no_scores_of_other_test_data(
    run: Path, photos: Path, others: Path
) -> None:
    asked = EvalProtocol(str(photos), ("knn",), "grid1")
    options = CHEAP | {"layers": ["backbone", "head"]}
    evaluate(run, photos, test_data=others, **options)
    assert asked.find(Run(run)) is None
    evaluate(run, photos, **options)
    assert asked.find(Run(run)) is not None


def test_the_command_line_and_a_report_name_the_test_data(
    run: Path, photos: Path, others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(run), str(photos), "--probes", "knn", "--crops", "grid1"]
    assert main([*words, "--test-data", str(others), "--no-baselines"]) == 0
    assert f"{others}: 9 test images" in capsys.readouterr().out
    page = html.unescape(report(run, images=8).read_text())
    assert "photos, tested on others" in page
    assert f"empssl evaluate {run} {photos} --test-data {others} --layers all" in page
    assert main([*words, "--test-data", ""]) == 2
    assert "--test-data is empty" in capsys.readouterr().err


def test_files_of_embeddings_come_with_their_own(
    run: Path, photos: Path, others: Path, tmp_path: Path
) -> None:
    file = embed(run, photos, out=tmp_path / "a.parquet", crops="grid1")
    with pytest.raises(UsageError, match="leave out test_data"):
        evaluate(file, file, test_data=others, probes=["knn"])
