"""Scores of a run as `evaluate` gives them."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import STEPS_PER_EPOCH, train_tiny
from torch import Tensor

import empssl
from empssl import evaluate
from empssl.cli import main
from empssl.data import MemoryImages
from empssl.errors import DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.features import features
from empssl.evaluation.pooling import Crops
from empssl.evaluation.results import Evaluation
from empssl.reports.run_report import report
from empssl.runs import checkpoint
from empssl.runs.run import Run


@pytest.fixture(scope="module")
def tiny_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since scores are written into the run."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("scored") / "run"))


@pytest.fixture(scope="module")
def scored(tiny_run: Path) -> Evaluation:
    return empssl.evaluate(tiny_run, "digits", crops=["grid2"])


def test_every_score_says_how_it_was_made(scored: Evaluation) -> None:
    found = json.loads(scored.to_json())
    assert list(found)[:2] == ["dataset", "run"]
    assert {"protocol", "results", "baselines"} <= found.keys()
    keys = {"probe", "layer", "crops", "accuracy", "train_size", "test_size", "seed", "model"}
    for row in found["results"] + found["baselines"]:
        assert keys <= row.keys()
        assert (row["train_size"], row["test_size"]) == (1437, 360)
    asked = [f"{row['layer']} {row['probe']}" for row in found["results"]]
    probes = ("linear", "knn_whitened", "knn")
    assert asked == [f"{layer} {probe}" for layer in ("backbone", "head") for probe in probes]
    assert found["protocol"]["epoch"] == "last"


def test_a_notebook_shows_scores_in_a_line_or_as_the_table(scored: Evaluation) -> None:
    [first, *_] = scored.results
    start = f"<Evaluation of {scored.run} on digits: linear backbone {first.accuracy:.2f}%, "
    assert repr(scored).startswith(start)
    assert len(repr(scored)) < 300
    html = scored._repr_html_()
    assert (html[:5], html[-6:], "random-0" in html) == ("<pre>", "</pre>", True)


def test_baselines_stand_beside_the_scores(scored: Evaluation) -> None:
    rows = {(row.model, row.probe, row.layer) for row in scored.baselines}
    for probe in ("linear", "knn_whitened", "knn"):
        assert {("random-0", probe, layer) for layer in ("backbone", "head")} <= rows
        assert ("whitened-mirrored", probe, "none") in rows
    table = scored.table()
    assert all(model in table for model in ("random-0", "whitened-mirrored"))


def test_baselines_are_scored_by_the_probes_of_the_run_and_no_other(tiny_run: Path) -> None:
    for asked in (["linear_sgd", "knn"], ["ridge"]):
        found = empssl.evaluate(
            tiny_run,
            "digits",
            probes=asked,
            crops=["grid1"],
            layers=["head"],
            train_size=100,  # type: ignore[arg-type]
        )
        for model in ("random-0", "whitened-mirrored"):
            assert [row.probe for row in found.baselines if row.model == model] == asked


def test_the_table_has_each_score_with_its_baselines_by_the_same_probe(
    scored: Evaluation,
) -> None:
    lines = scored.table().splitlines()
    rows = [line.split() for line in lines[1 : 1 + len(scored.results + scored.baselines)]]
    assert [(row[1], row[2], row[0] == "random-0") for row in rows] == [
        (probe, *which)
        for probe in ("linear", "knn_whitened", "knn")
        for which in (
            ("backbone", False), ("backbone", True), ("head", False), ("head", True),
            ("none", False),
        )
    ]  # fmt: skip
    for own in scored.results:
        best = max(row.accuracy for row in scored.baselines if row.probe == own.probe)
        [row] = [r for r in rows if r[1:3] == [own.probe, own.layer] and r[0] != "random-0"]
        assert row[-1] == f"{own.accuracy - best:+.2f}"
    assert all(row[-1].endswith("%") for row in rows if row[2] == "none" or row[0] == "random-0")
    assert "gain: points over the best baseline by the same probe" in lines


def test_scores_are_kept_with_the_run(scored: Evaluation, tiny_run: Path) -> None:
    assert json.loads(scored.to_json()) in Run(tiny_run).evaluations()


def test_the_same_question_replaces_its_answer_and_another_adds_one(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=lambda *_: ["evaluations"]))

    def kept(**changes: Any) -> int:
        cheap = {"probes": ["knn"], "crops": ["grid1"], "layers": ["head"], "baselines": False}
        empssl.evaluate(run, "digits", **(cheap | changes))
        return len(Run(run).evaluations())

    assert [kept(), kept(), kept(train_size=100), kept(crops=["whole"]), kept(seed=1)] == [
        1, 1, 2, 3, 4,
    ]  # fmt: skip
    assert kept(train_size=100) == 4


def test_probes_learn_from_a_drawn_part_of_train(tiny_run: Path) -> None:
    found = empssl.evaluate(
        tiny_run, "digits", probes=["knn"], crops=["grid1"], layers=["head"], train_size=100
    )
    assert found.protocol["train_size"] == 100
    for row in (*found.results, *found.baselines):
        assert (row.train_size, row.test_size) == (100, 360)
    with pytest.raises(UsageError, match="5000 images to learn from were asked for, of 1437"):
        empssl.evaluate(tiny_run, "digits", train_size=5000)


def test_evaluation_leaves_the_network_as_it_was(tiny_run: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_run)
    before = {key: value.clone() for key, value in encoder.network.state_dict().items()}
    pixels = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = MemoryImages(pixels.byte(), name="noise", split="all", fingerprint="")
    features(encoder, images, Crops.parse("random4"), ["head"])
    assert all(torch.equal(before[k], v) for k, v in encoder.network.state_dict().items())
    assert not encoder.network.training


def test_a_second_evaluation_gives_the_same_scores(tiny_run: Path) -> None:
    first, second = (
        empssl.evaluate(tiny_run, "digits", crops=["random2"], probes=["ridge"], baselines=False)
        for _ in range(2)
    )
    assert first.results == second.results


def relabel(monkeypatch: pytest.MonkeyPatch, change: Callable[[str, Tensor], object]) -> None:
    """Let `change` write into the labels of each split."""
    import empssl.evaluation.evaluate as module

    opened = module.open_images

    def changed(data: str, **options: Any) -> MemoryImages:
        images = copy.copy(opened(data, **options))  # other tests share the original
        assert isinstance(images, MemoryImages)
        assert images.labels is not None
        images.labels = images.labels.clone()
        change(options["split"], images.labels)
        return images

    monkeypatch.setattr(module, "open_images", changed)


def test_unlabeled_images_of_a_labeled_set_are_left_out(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relabel(monkeypatch, lambda split, labels: labels[:100].fill_(-1))
    found = empssl.evaluate(tiny_run, "digits", probes=["knn"], crops=["grid1"], baselines=False)
    assert (found.results[0].train_size, found.results[0].test_size) == (1337, 260)


def test_labels_that_are_all_unknown_are_none(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relabel(monkeypatch, lambda split, labels: labels.fill_(-1) if split == "test" else None)
    with pytest.raises(DataError, match="the 360 test images of digits have no labels"):
        empssl.evaluate(tiny_run, "digits", probes=["knn"], crops=["grid1"], baselines=False)


def test_test_images_that_the_encoder_saw_are_told(tmp_path: Path) -> None:
    for split, saw in (("all", True), ("train", False)):
        run = train_tiny(tmp_path / split, split=split)
        found = evaluate(run, "digits", probes=["knn"], crops=["grid1"], baselines=False)
        assert found.protocol["saw_test"] is saw
        assert found.images["test"].trained_on == (360 if saw else 0)
        told = f"trained on {360 if saw else 0} of 360 test images"
        assert told in found.table().splitlines()[-1]
        page = report(run, data="digits").read_text()
        assert ("trained on 360 of the test images too, without their labels" in page) is saw


def test_no_labels_is_an_error(tiny_run: Path, tmp_path: Path) -> None:
    from bad_images import photo

    (tmp_path / "a.png").write_bytes(photo(0))
    with pytest.raises(DataError, match="no labels"):
        empssl.evaluate(tiny_run, str(tmp_path))


def test_a_network_that_was_kept_is_scored_apart_from_the_last(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", steps=4, keep_epochs=[2 / STEPS_PER_EPOCH])
    options: dict[str, Any] = {"probes": ["knn"], "crops": ["grid1"], "baselines": False}
    early = evaluate(run, "digits", epoch=2 / STEPS_PER_EPOCH, **options)
    last = evaluate(run, "digits", **options)
    assert early.protocol["epoch"] == 2 / STEPS_PER_EPOCH
    assert early.results[0].model == checkpoint.identity(next((run / "epochs").iterdir()))
    assert last.results[0].model == Run(run).identity != early.results[0].model
    assert len(Run(run).evaluations()) == 2
    with pytest.raises(UsageError, match="did not keep the network of epoch 3; it kept 0"):
        evaluate(run, "digits", epoch=3.0, **options)


def test_epoch_0_is_the_network_with_the_weights_that_it_began_with(tmp_path: Path) -> None:
    still: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.0}, "seed": 3}
    run = train_tiny(tmp_path / "run", **still)
    began = Encoder.random(run, seed=3).network.state_dict()
    for name, tensor in Encoder.from_pretrained(run).network.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, began[name]), name
    found = evaluate(run, "digits", epoch=0.0, probes=["knn"], crops=["grid1"], baselines=False)
    assert (found.results[0].model, found.protocol["epoch"]) == ("random-3", 0.0)


def test_an_unknown_probe_is_named(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny_run), "digits", "--probes", "linaer"]) == 2
    assert "linaer" in capsys.readouterr().err


@pytest.mark.slow
def test_training_beats_random_weights_on_digits(tmp_path: Path) -> None:
    run = empssl.train("digits", out=tmp_path / "demo", recipe="demo")
    found = empssl.evaluate(run, "digits")

    def accuracy(rows: list[object], probe: str, layer: str) -> float:
        [row] = [r for r in rows if (r.probe, r.layer) == (probe, layer)]  # type: ignore[attr-defined]
        return row.accuracy  # type: ignore[attr-defined, no-any-return]

    random = [row for row in found.baselines if row.model.startswith("random")]
    assert accuracy(list(found.results), "knn", "head") >= 97
    for probe in ("knn", "linear"):
        for layer in ("backbone", "head"):
            trained = accuracy(list(found.results), probe, layer)
            assert trained > accuracy(list(random), probe, layer) + 1


@pytest.mark.parametrize("verb", ["evaluate", "examine"])
def test_what_cannot_be_kept_is_said_first_and_shown(
    verb: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    for folder in ("evaluations", "quality"):
        shutil.rmtree(run / folder, ignore_errors=True)
        (run / folder).write_text("a file")
    words = {
        "evaluate": ["evaluate", str(run), "digits", "--probes", "knn", "--no-baselines"],
        "examine": ["examine", str(run), "--images", "20", "--views", "2", "--no-random"],
    }
    assert main(words[verb]) == 4
    said, error = capsys.readouterr()
    assert "head" in said
    # The last lines: within 80 columns there may be several.
    assert "not kept:" in "\n".join(said.splitlines()[-5:])
    assert "will be shown and not kept" in error.splitlines()[0]
