"""Few labels, every layer, fewer patches and class by class: what `evaluate` is asked besides."""

import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tiny import few_digits, train_tiny

import empssl
from empssl.cli import main
from empssl.data import MemoryImages, open_images
from empssl.errors import DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.features import features, labeled_images, patch_subset_features
from empssl.evaluation.few_shot import DRAWS, STRENGTH, shots
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes.linear import lbfgs_probe
from empssl.evaluation.results import Evaluation
from empssl.runs.run import Run

TRAIN, TEST = 320, 80
LAYERS = ("stem", "stage1", "stage2", "stage3", "backbone", "head", "projection", "joint")


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    """The first digits only, in this process."""
    with few_digits(TRAIN, TEST):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("more") / "run", whitened=64)


@pytest.fixture(scope="module")
def found(run: Path) -> Evaluation:
    return empssl.evaluate(
        run, "digits", layers=["stem", "head", "joint"], crops=["grid2"], few_shot=[1, 3],
        curve=[1, 2, 4], breakdown=True,
    )  # fmt: skip


def split(run: Path, part: Literal["train", "test"]) -> MemoryImages:
    side = Encoder.from_pretrained(run).image_side
    return labeled_images(open_images("digits", split=part, side=side))[0]


def test_every_layer_is_scored_from_input_to_output(run: Path) -> None:
    found = empssl.evaluate(run, "digits", probes=["knn"], layers=["all"], crops=["grid1"])
    assert [row.layer for row in found.results] == list(LAYERS)
    random = [row for row in found.baselines if row.model == "random-0"]
    assert [row.layer for row in random] == list(LAYERS)


def test_only_the_usual_layers_are_scored_unasked(run: Path) -> None:
    plain = empssl.evaluate(run, "digits", probes=["knn"], crops=["grid1"], baselines=False)
    assert [row.layer for row in plain.results] == ["backbone", "head", "joint"]
    assert (plain.few_shot, plain.curves, plain.results[0].breakdown) == ([], [], None)


def test_a_question_more_changes_no_score(found: Evaluation, run: Path) -> None:
    plain = empssl.evaluate(
        run, "digits", layers=["head", "joint"], crops=["grid2"], baselines=False
    )
    asked = [row for row in found.results if row.layer in ("head", "joint")]
    assert [replace(row, breakdown=None) for row in asked] == plain.results


def test_the_curve_ends_at_the_score_of_the_whole_bag(found: Evaluation) -> None:
    scores = {
        (row.probe, row.layer, row.model): row.accuracy for row in found.results + found.baselines
    }
    assert len(found.curves) == 3 * 2 * 3  # probes, networks, layers
    for curve in found.curves:
        assert curve.patches == [1, 2, 4]
        assert curve.accuracies[-1] == scores[curve.probe, curve.layer, curve.model]
        assert (curve.train_size, curve.test_size) == (TRAIN, TEST)
    # One patch of four tells less, over all layers.
    first, last = (statistics.fmean(c.accuracies[at] for c in found.curves) for at in (0, -1))
    assert first < last - 3


def test_the_best_epoch_on_test_is_not_told_of_bags_of_many_sizes(run: Path) -> None:
    options: dict[str, Any] = {"probes": ["linear_sgd"], "crops": ["grid2"], "layers": ["stem"]}
    alone = empssl.evaluate(run, "digits", baselines=False, **options)
    curve = empssl.evaluate(run, "digits", baselines=False, curve=[1], **options)
    assert alone.results[0].details["best_on_test"] >= alone.results[0].accuracy
    assert "best_on_test" not in curve.results[0].details
    assert curve.results[0].accuracy == alone.results[0].accuracy


def test_a_smaller_bag_is_the_mean_of_its_patches(run: Path) -> None:
    encoder, images = Encoder.from_pretrained(run), split(run, "test")
    crops = Crops.parse("grid2")
    one, three, whole = patch_subset_features(encoder, images, crops, ["head", "joint"], [1, 3])
    assert torch.equal(whole["head"], features(encoder, images, crops, ["head"])["head"])
    views = crops.views(encoder.policy, images.pixels, torch.arange(TEST))
    with torch.inference_mode():
        each = torch.stack([encoder.network.embed(view)["head"] for view in views])
    gaps = (each - one["head"]).abs().amax(2)  # (view, image)
    assert float(gaps.amin(0).max()) < 0.02 * float(each.abs().max())
    assert len(gaps.argmin(0).unique()) == 4  # not the same patch of every image
    # Four patches but one, and the one that is left is no patch of the smallest bag.
    rest = 4 * whole["head"] - 3 * three["head"]
    left = (each - rest).abs().amax(2).argmin(0)
    assert bool((left != gaps.argmin(0)).all())


def test_few_labels_are_scored_beside_the_baselines(found: Evaluation) -> None:
    trained = [row for row in found.few_shot if row.model == found.results[0].model]
    assert {row.shots for row in trained} == {1, 3}
    assert {row.model for row in found.few_shot} == {
        found.results[0].model, "random-0", "whitened-patches",
    }  # fmt: skip
    for row in found.few_shot:
        assert (row.train_size, row.test_size, len(row.accuracies)) == (10 * row.shots, TEST, DRAWS)
        assert row.mean == pytest.approx(statistics.fmean(row.accuracies))
        assert row.deviation == pytest.approx(statistics.stdev(row.accuracies))
        assert row.deviation > 0
    one, three = (statistics.fmean(r.mean for r in trained if r.shots == n) for n in (1, 3))
    assert one < three - 3


def test_few_labels_are_probed_as_by_hand(found: Evaluation, run: Path) -> None:
    encoder, crops = Encoder.from_pretrained(run), Crops.parse("grid2")
    train, test = (split(run, part) for part in ("train", "test"))
    x, y = (features(encoder, part, crops, ["head"])["head"] for part in (train, test))
    assert train.labels is not None
    assert test.labels is not None
    [row] = [
        row for row in found.few_shot
        if (row.probe, row.layer, row.shots, row.model) == ("linear", "head", 3, encoder.identity)
    ]  # fmt: skip
    by_hand = []
    for draw in range(DRAWS):
        rows = shots(train.labels, 3, seed=draw)
        learned = lbfgs_probe(x[rows], train.labels[rows], y, test.labels, strengths=[STRENGTH])
        by_hand.append(learned.accuracy)
    assert row.accuracies == by_hand


def test_confusion_counts_every_test_image_once(found: Evaluation) -> None:
    for row in found.results + found.baselines:
        broken = row.breakdown
        assert broken is not None
        assert sum(map(sum, broken.confusion)) == TEST
        right = sum(broken.confusion[at][at] for at in range(10))
        assert 100 * right / TEST == pytest.approx(row.accuracy)
        assert broken.classes == list("0123456789")


def test_probes_with_probabilities_say_how_sure_they_are(found: Evaluation) -> None:
    for row in found.results + found.baselines:
        assert row.breakdown is not None
        calibration = row.breakdown.calibration
        assert (calibration is not None) == (row.probe == "linear")
        if calibration is not None:
            assert sum(part.count for part in calibration.bins) == TEST
            assert calibration.num_bins == 15


def test_the_table_has_a_section_for_each_question(found: Evaluation, run: Path) -> None:
    table = found.table()
    assert "over 10 draws" in table
    assert "1: " in table
    assert "expected calibration error" in table
    assert "15 bins" in table
    assert "transfer" not in table
    assert json.loads(found.to_json()) in Run(run).evaluations()


def test_shuffled_labels_score_chance(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import empssl.evaluation.evaluate as module

    opened = module.open_images

    def shuffled(name: str, **options: object) -> MemoryImages:
        images = opened(name, **options)
        assert isinstance(images, MemoryImages)
        assert images.labels is not None
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(len(images)))
        return MemoryImages(
            images.pixels, name="digits", split=images.split, labels=images.labels[order],
            fingerprint="shuffled",
        )  # fmt: skip

    monkeypatch.setattr(module, "open_images", shuffled)
    chance = empssl.evaluate(run, "digits", crops=["grid1"], few_shot=[3], baselines=False)
    assert all(row.accuracy < 28 for row in chance.results)  # a tenth, and five standard errors
    assert all(row.mean < 20 for row in chance.few_shot)


def test_a_question_that_cannot_be_answered_is_refused(run: Path) -> None:
    for options, message in (
        ({"curve": [5]}, "--curve is 5; give numbers from 1 to 4, the patches that there are"),
        ({"curve": [0]}, "--curve is 0"),
        ({"few_shot": [0]}, "--few-shot is 0"),
    ):
        with pytest.raises(UsageError, match=message):
            empssl.evaluate(run, "digits", crops=["grid2"], **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="99 images of every class were asked for"):
        empssl.evaluate(run, "digits", probes=["knn"], crops=["grid1"], few_shot=[99])


# Transfer.


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark images in folders, larger than digits and uneven: 12 and 4 of each split."""
    from PIL import Image

    root = tmp_path_factory.mktemp("other")
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for name, count, light in (("bright", 12, 150), ("dark", 4, 0)):
            (root / part / name).mkdir(parents=True)
            for at in range(count):
                pixels = torch.randint(light, light + 100, (40, 40, 3), generator=generator)
                Image.fromarray(pixels.byte().numpy()).save(root / part / name / f"{at}.png")
    return root


def test_other_data_are_a_transfer_and_said_to_be(run: Path, other: Path) -> None:
    moved = empssl.evaluate(run, str(other), probes=["knn"], crops=["grid1"])
    assert moved.protocol["transfer"] is True
    assert moved.protocol["trained_on"] == "digits"
    assert moved.protocol["image_side"] == Encoder.from_pretrained(run).image_side
    assert "a transfer: the encoder was trained on digits" in moved.table()
    assert {row.test_size for row in moved.results + moved.baselines} == {16}
    assert [row.layer for row in moved.results] == ["backbone", "head", "joint"]


def test_a_transfer_keeps_the_runs_whitened_patches_and_measures_the_baselines_anew(
    run: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from empssl.models.whitened_patches import WhitenedPatches  # type: ignore[attr-defined]

    fitted, fit = [], WhitenedPatches.fit

    def counted(self: WhitenedPatches, images: torch.Tensor, *, seed: int = 0) -> WhitenedPatches:
        fitted.append(len(images))
        return fit(self, images, seed=seed)

    monkeypatch.setattr(WhitenedPatches, "fit", counted)
    cheap = {"probes": ["knn"], "crops": ["grid1"], "layers": ["joint"]}
    empssl.evaluate(run, "digits", **cheap)  # type: ignore[arg-type]
    assert fitted == []
    empssl.evaluate(run, str(other), **cheap)  # type: ignore[arg-type]
    assert fitted == [16]


def test_the_table_has_balanced_accuracy_where_classes_are_uneven(run: Path, other: Path) -> None:
    uneven = empssl.evaluate(
        run, str(other), probes=["knn"], crops=["grid1"], layers=["head"], train_size=8
    )
    [row] = [r for r in uneven.results if r.layer == "head"]
    assert row.train_size == 8
    worse = replace(row, accuracy=75.0, balanced_accuracy=50.0)
    assert "balanced" in replace(uneven, results=[worse]).table()
    even = replace(uneven, results=[replace(row, balanced_accuracy=row.accuracy)], baselines=[])
    assert "balanced" not in even.table()


# Embeddings in files.


@pytest.fixture(scope="module")
def files(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for part in ("train", "test", "all"):
        empssl.embed(run, "digits", out=folder / f"{part}.parquet", crops="grid2", split=part)
    return folder


def test_embeddings_in_files_score_as_their_run_does(found: Evaluation, files: Path) -> None:
    read = empssl.evaluate(files / "train.parquet", str(files / "test.parquet"), few_shot=[1, 3])
    own = [replace(row, breakdown=None) for row in found.results if row.layer == "head"]
    assert read.results == own
    head = [r for r in found.few_shot if (r.layer, r.model) == ("head", own[0].model)]
    assert read.few_shot == head
    assert read.protocol["train_fingerprint"] == found.protocol["train_fingerprint"]


def test_files_of_different_networks_or_ways_are_never_mixed(
    run: Path, files: Path, tmp_path: Path
) -> None:
    train = files / "train.parquet"
    other = train_tiny(tmp_path / "other", whitened=64, seed=1)
    for name, key, source, options in (
        ("network", "model_sha256", other, {"crops": "grid2"}),
        ("crops", "crops", run, {"crops": "grid1"}),
        ("layer", "layer", run, {"crops": "grid2", "layer": "backbone"}),
    ):
        made = empssl.embed(
            source, "digits", out=tmp_path / f"{name}.parquet", split="test", **options
        )  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=f"were made differently: {key} is"):
            empssl.evaluate(train, str(made))


def test_files_that_share_images_are_refused(files: Path) -> None:
    train = files / "train.parquet"
    for test in ("train", "all"):
        with pytest.raises(UsageError, match=f"share images: .* train and {test}"):
            empssl.evaluate(train, str(files / f"{test}.parquet"))


def test_a_file_of_something_else_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no embeddings")
    with pytest.raises(DataError, match="text is no file of embeddings"):
        empssl.evaluate(tmp_path / "text", str(files / "test.parquet"))
    with pytest.raises(UsageError, match="--train-size and --epoch need the run directory"):
        empssl.evaluate(files / "train.parquet", str(files / "test.parquet"), curve=[1])


def test_the_command_asks_all_at_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    words = ["evaluate", str(copied), "digits", "--probes", "knn", "--layers", "all", "--crops",
             "grid2", "--few-shot", "1", "2", "--curve", "1", "2", "--breakdown",
             "--no-baselines", "--train-size", "100", "--json"]  # fmt: skip
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in printed["results"]] == list(LAYERS)
    assert {row["shots"] for row in printed["few_shot"]} == {1, 2}
    assert printed["curves"][0]["patches"] == [1, 2, 4]
    assert {row["train_size"] for row in printed["results"]} == {100}
    assert printed["asked"]["few_shot"] == [1, 2]
