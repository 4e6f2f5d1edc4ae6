"""`empssl reproduce`: the paper's numbers, plans whose exhibits share runs, documents, verdicts."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import few_digits

import empssl
from empssl import cli
from empssl.config import build
from empssl.data import open_images
from empssl.errors import FailedRunsError, StoppedError, UsageError
from empssl.evaluation.evaluate import Probe
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes import lbfgs_probe
from empssl.experiments.folder import Folder
from empssl.experiments.paper import cost, scores
from empssl.experiments.paper import reproduce as reproduce_module
from empssl.experiments.paper import results as finding_module
from empssl.experiments.paper.base import Claim, Experiment, Number, emp, rival
from empssl.experiments.paper.claim_table import paragraphs
from empssl.experiments.paper.claims import (
    BASES,
    EQUAL,
    Basis,
    ClaimResult,
    Pairwise,
    Snapshot,
    check_claim,
    t_interval,
)
from empssl.experiments.paper.cost import PaperForecast
from empssl.experiments.paper.discrepancies import DISCREPANCIES
from empssl.experiments.paper.document import fidelity
from empssl.experiments.paper.exhibits import EXHIBITS
from empssl.experiments.paper.plan import EvalRequest, PaperPlan
from empssl.experiments.paper.reproduce import Reproduction
from empssl.experiments.paper.reproduce import reproduce as reproduce_any
from empssl.experiments.paper.results import ReproducedNumber
from empssl.experiments.paper.scale import LAPTOP, SCALES
from empssl.experiments.paper.scores import Untrained
from empssl.models import WhitenedPatches, build_network
from empssl.runs.run import Run
from empssl.training import trainer
from empssl.types import Split
from empssl.views import POLICIES

TRAIN, TEST = 160, 40
GRID = "grid1@0.75"  # EMP-SSL's own here, and the bag that every method is given
SPLITS: tuple[Split, ...] = ("train", "test")
HEADS = {name: {"hidden": 16, "dim": 8} for name in ("paper", "official", "rival")}


def smallest(experiment: Experiment) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "backbone": {"name": "resnet10", "width": 2}, "whitened": 0, "batch": 8,
        "optimizer": {"name": "lars"},
    }  # fmt: skip
    return settings | ({"views": {"side": None}} if experiment.method == "emp" else {})


TINY = replace(
    LAPTOP, epochs={1: 0.05, 10: 0.1, 20: 0.15, 30: 0.2, 400: 0.2, 1000: 0.2}, kept=(0.1,),
    patches={2: 2, 20: 2, 50: 3, 200: 4}, batches={50: 4, 100: 8, 200: 16}, crops="grid1",
    bag="grid1@0.75", bags={"random128": "random2"}, small=smallest, heads=HEADS, own="demo",
    goals={"cifar10": 0.5, "cifar100": 99.9},
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    """A scale that tests can afford, and the first digits only."""
    with few_digits(TRAIN, TEST) as patch:
        patch.setitem(SCALES, "laptop", TINY)
        yield


def reproduce(out: Path, *names: str, **changes: Any) -> Reproduction:
    where = {"data": {"cifar10": "digits"}, "data_dir": out / "nowhere", "device": "cpu"}
    found = reproduce_any(names, out=out, **(where | changes))
    assert isinstance(found, Reproduction)
    return found


def record(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two figures, which tests read and do not change: they share a run."""
    out = tmp_path_factory.mktemp("made") / "out"
    reproduce(out, "figure6", "figure7")
    return out


# The paper's numbers.


def test_every_table_and_figure_of_results_is_an_exhibit() -> None:
    tables = [f"table{number}" for number in range(1, 7)]
    assert list(EXHIBITS)[:12] == tables + [f"figure{number}" for number in range(3, 9)]


def test_tables_have_the_numbers_of_the_paper() -> None:
    def theirs(name: str) -> list[float | None]:
        return [number.theirs for number in EXHIBITS[name].numbers]

    # Rows of paper.txt, method by method.
    assert theirs("table1")[:6] == [91.0, 92.6, 92.1, 92.3, 91.4, 85.1]
    assert theirs("table1")[12:18] == [48.8, 51.0, None, None, None, 38.1]
    assert theirs("table2")[:4] == [28.2, 56.5, 66.3, 91.0]
    assert theirs("table2")[20:26] == [80.6, 90.7, 93.1, 82.6, 91.5, 93.4]
    assert theirs("table2")[46:] == [55.1, 67.8, 72.4, 57.7, 70.1, 73.3]
    assert theirs("table3")[10:14] == [35, 8, 142, 5]
    assert theirs("table4")[6:] == [77.6, 80.2, 79.2, 74.0, 76.9, 78.9]
    assert theirs("table5") == [
        91.0, 51.7, 92.6, 55.2, 92.1, 51.5, 92.3, 50.8, 91.4, 52.9, 93.1, 64.5, 93.4, 64.8,
    ]  # fmt: skip
    assert theirs("table6")[-4:] == [72.4, 85.7, 73.3, 85.9]


def test_what_is_only_in_a_picture_has_no_number_and_says_so() -> None:
    for name, exhibit in EXHIBITS.items():
        if name.startswith("figure"):
            assert "picture" in exhibit.unread.lower()
    assert all(number.theirs is None for number in EXHIBITS["figure6"].numbers)


@pytest.mark.parametrize("scale", [LAPTOP, SCALES["paper"]])
def test_every_experiment_is_a_run_that_train_understands(scale: Any) -> None:
    for exhibit in EXHIBITS.values():
        for number in exhibit.numbers:
            settings = scale.settings(number.experiment)
            assert settings["objective"]["name"] == number.experiment.method
            epoch = number.epoch and scale.epoch(number.epoch)
            kept = (*scale.looked_at(number.experiment), scale.length(number.experiment))
            assert epoch is None or epoch in kept


def test_the_paper_scale_is_the_papers_settings() -> None:
    settings = SCALES["paper"].settings(emp("cifar10", 30))
    assert (settings["patches"], settings["batch"], settings["epochs"]) == (200, 100, 30.0)
    assert settings["backbone"] == {"name": "resnet18", "width": 64, "stem": "small"}
    simclr = SCALES["paper"].settings(rival("simclr", "cifar10"))
    assert (simclr["patches"], simclr["batch"], simclr["epochs"]) == (2, 256, 1000.0)


def test_at_laptop_scale_rivals_have_the_work_of_the_longest_run() -> None:
    """In pixels: a view of the whole image is four patches."""
    ours, theirs = (LAPTOP.settings(e) for e in (emp("cifar10", 30), rival("byol", "cifar10")))
    work = [s["patches"] * s["epochs"] for s in (ours, theirs)]
    assert work[0] == 4 * work[1]
    assert ours["patches"] * ours["batch"] == 4 * theirs["patches"] * theirs["batch"]


# Plans.


def test_exhibits_share_runs(made: Path) -> None:
    """Four n and three batches, of which one n and one batch are the same run."""
    assert len(list((made / "runs").iterdir())) == 5  # 2 and 20 patches are both 2 here
    [six] = [n for n in record(made, "figure6")["numbers"] if "4 patches" in n["method"]]
    [seven] = [n for n in record(made, "figure7")["numbers"] if "8 images a step" in n["method"]]
    assert six["ours"]["runs"] == seven["ours"]["runs"]


def plan(out: Path, *names: str, **changes: Any) -> PaperForecast:
    found = reproduce_any(
        names, out=out, **({"data": {"cifar10": "digits", "cifar100": "digits"}, "dry_run": True,
                            "data_dir": out, "device": "cpu"} | changes),
    )  # fmt: skip
    assert isinstance(found, PaperForecast)
    return found


def test_a_dry_run_counts_each_run_once_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "_teraflops", lambda *_: 2.0)
    found = plan(tmp_path / "out", "table2", "table5", "figure3", data={"cifar10": "digits"})
    assert not (tmp_path / "out").exists()
    longest = [each for each in found.costs if each.run.startswith("emp-digits-n4")]
    assert [each.used_by for each in longest] == [["table2", "table5", "figure3"], ["figure3"],
                                                  ["figure3"]]  # fmt: skip
    assert len(found.costs) == 5 + 2 * 3
    for each in found.costs:
        assert each.train_seconds == pytest.approx(each.pflop * 1e15 / 2e12)
    assert re.search(r"11 of 11 runs to train: at most .* s, and .* of features", found.table())
    [(why, names)] = found.left_out.items()
    assert why.startswith("cifar100 is not in")
    assert "EMP-SSL, 2 patches (the paper's 20) on cifar100" in names
    assert "scores on cifar100" in names


def test_a_dry_run_measures_this_machine(tmp_path: Path) -> None:
    found = plan(tmp_path / "out", "table1", data={"cifar10": "digits"}, seeds=1)
    assert len(found.teraflops) == 2  # patches and crops
    assert all(speed > 0 for speed in found.teraflops.values())


def test_a_finished_run_costs_nothing_more(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_teraflops", lambda *_: 1 / 0)
    found = plan(made, "figure6", data={"cifar10": "digits"})
    assert {(cost.state, cost.requests, cost.train_seconds) for cost in found.costs} == {
        ("finished", 0, 0.0)
    }


def test_all_is_every_exhibit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_teraflops", lambda *_: 1.0)
    names = ("cifar10", "cifar100", "tiny-imagenet")
    found = plan(tmp_path / "out", "all", seeds=1, data=dict.fromkeys(names, "digits"))
    assert {name for cost in found.costs for name in cost.used_by} == set(EXHIBITS)


# Documents.


def test_theirs_and_ours_stand_side_by_side(made: Path, tmp_path: Path) -> None:
    reproduce(made, "figure3", seeds=1)  # nothing new to train
    numbers = record(made, "figure3")["numbers"]
    assert [number["theirs"]["value"] for number in numbers] == [93.1, 93.4]
    for number in numbers:
        [run] = number["ours"]["runs"]
        seen = json.loads((made / "scores" / run / f"digits-last-{GRID}.json").read_text())
        [row] = [r for r in seen["results"] if (r["probe"], r["layer"]) == ("linear", "head")]
        assert number["ours"]["mean"] == row["accuracy"]
        assert number["difference"] == pytest.approx(row["accuracy"] - number["theirs"]["value"])
        last = Run(made / "runs" / run).metrics()[-1]
        assert number["ours"]["curves"][0][-1]["pflop"] == pytest.approx(last["pflop"])
    text = (made / "figure3.md").read_text()
    row = "| EMP-SSL, 2 patches (the paper's 20) | cifar10 | cifar10 | 30 | 93.1 | "
    assert row in text
    assert "cifar10 is digits here" in text
    for sentence in TINY.differs:
        assert sentence in text


def test_a_figure_is_drawn(made: Path) -> None:
    assert (made / "figure6.png").read_bytes().startswith(b"\x89PNG")
    assert "](figure6.png)" in (made / "figure6.md").read_text()
    assert (made / "figure7.svg").read_text().count("<svg") == 1


def test_a_row_that_was_not_run_is_named_with_the_reason(tmp_path: Path) -> None:
    found = reproduce(tmp_path, "table4")
    assert found.counts["table4"] == (0, 12)
    text = (tmp_path / "table4.md").read_text()
    assert text.count("| not run |") == 12
    name = "EMP-SSL, 4 patches (the paper's 200)"
    assert f"{name} on imagenet100: 224-pixel images are too much work" in text
    reasons = [number["ours"]["why"] for number in record(tmp_path, "table4")["numbers"]]
    assert all(reasons)


def test_maps_of_all_methods_have_the_same_parameters(made: Path) -> None:
    reproduce(made, "figure5")
    numbers = record(made, "figure5")["numbers"]
    assert [number["method"] for number in numbers][1:] == ["BYOL", "VICReg", "SwAV"]
    files = list((made / "scores").rglob("*-map.json"))
    seen = [json.loads(file.read_text()) for file in files]
    assert len(seen) == 4
    assert {found["parameters"] for found in seen} == {seen[0]["parameters"]}
    assert all(len(found["plane"]) == len(found["labels"]) == TRAIN for found in seen)
    assert all(-1 <= number["ours"]["mean"] <= 1 for number in numbers)
    text = (made / "figure5.md").read_text()
    assert "t-SNE of the projections" in text
    assert (made / "figure5.png").exists()


def test_both_readings_stand_side_by_side_under_four_probes(made: Path) -> None:
    reproduce(made, "readings")
    numbers = record(made, "readings")["numbers"]
    runs = {number["ours"]["runs"][0]: number["experiment"]["reading"] for number in numbers}
    configs = {reading: Run(made / "runs" / run).config for run, reading in runs.items()}
    assert configs["paper"]["projector"]["name"] == "paper"
    assert configs["official"]["optimizer"]["clip"]
    assert not configs["paper"]["optimizer"]["clip"]
    asked = {(n["ours"]["probe"], n["ours"]["layer"], n["ours"]["crops"]) for n in numbers}
    assert asked == {
        ("linear_sgd", "head", "random2"), ("linear", "head", "grid1"),
        ("linear", "backbone", "grid1"), ("knn", "head", "grid1"),
    }  # fmt: skip
    last, best = numbers[0]["ours"]["mean"], numbers[1]["ours"]["mean"]
    assert best >= last
    assert "no score" in numbers[1]["method"]


# Interruptions and failures.


def test_a_finished_reproduction_is_left_as_it_is(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(trainer, "training_step", never)
    monkeypatch.setattr(scores, "evaluate", never)
    before = {path: path.read_text() for path in made.rglob("scores/*/*.json")}
    reproduce(made, "figure6", "figure7")
    assert {path: path.read_text() for path in made.rglob("scores/*/*.json")} == before


def test_an_interrupted_reproduction_goes_on_from_there(
    made: Path, tmp_path: Path, at_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        at_step(6, lambda: signal.raise_signal(signal.SIGTERM))  # step 2 of the second run
        with pytest.raises(StoppedError, match="the same command goes on") as stop:
            reproduce(tmp_path, "figure6")
    assert stop.value.exit_code == 143
    monkeypatch.undo()
    states = [number["ours"]["state"] for number in record(tmp_path, "figure6")["numbers"]]
    assert states == ["done", "done", "begun", "begun"]
    assert "## Not finished" in (tmp_path / "figure6.md").read_text()
    reproduce(tmp_path, "figure6")
    for number, other in zip(
        record(tmp_path, "figure6")["numbers"], record(made, "figure6")["numbers"], strict=True
    ):
        assert number["ours"]["values"] == other["ours"]["values"]


def test_a_failed_run_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = scores.evaluate

    def broken(run: Path, *arguments: Any, **options: Any) -> Any:
        if "-n3-" in str(run):
            raise ValueError("the disk\nis on fire")
        return original(run, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(scores, "evaluate", broken)
        with pytest.raises(
            FailedRunsError, match="1 of 5 runs and baselines failed: emp-digits-n3-"
        ) as failed:
            reproduce(tmp_path, "figure6")
    assert failed.value.exit_code == 10
    numbers = {n["method"]: n["ours"] for n in record(tmp_path, "figure6")["numbers"]}
    three, four = "EMP-SSL, 3 patches (the paper's 50)", "EMP-SSL, 4 patches (the paper's 200)"
    assert numbers[three]["state"] == "failed"
    assert numbers[three]["why"] == "ValueError: the disk is on fire"
    assert numbers[four]["state"] == "done"
    text = (tmp_path / "figure6.md").read_text()
    assert f"- {three} on cifar10: ValueError: the disk is on fire" in text
    reproduce(tmp_path, "figure6")
    assert "## Failed" not in (tmp_path / "figure6.md").read_text()


# Words.


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["tabel2"], {}, "no exhibit 'tabel2': did you mean 'table2'?"),
        ([], {}, "name an exhibit"),
        (["table1"], {"seeds": 0}, "seeds is 0"),
        (["table1"], {"data": {"cifar1": "x"}}, "no data set 'cifar1' in the paper: did you mean"),
    ],
)
def test_what_is_unknown_is_named_with_the_nearest(
    names: list[str], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        reproduce_any(names, out=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_what_needs_no_training_stands_below_the_numbers_under_their_probe(made: Path) -> None:
    rows = record(made, "figure6")["untrained"]
    numbers = record(made, "figure6")["numbers"]
    [run] = numbers[0]["ours"]["runs"]
    ways = [(row["probe"], row["layer"], row["crops"]) for row in rows]
    assert ways == [("linear", layer, crops) for crops in (GRID, "whole")
                    for layer in ("backbone", "head")]  # fmt: skip
    options: dict[str, Any] = {"probes": ["linear"], "crops": [GRID]}
    began = empssl.evaluate(made / "runs" / run, "digits", epoch=0.0, baselines=False, **options)
    side = Run(made / "runs" / run).plan["image_side"]
    splits = [open_images("digits", split=split, side=side) for split in SPLITS]
    pixels = [images.read(range(len(images))).pixels for images in splits]
    plain = WhitenedPatches().fit(
        pixels[0], seed=0
    )  # those that the tables have had from the first
    sets = [(plain(part), images.labels) for part, images in zip(pixels, splits, strict=True)]
    linear = lbfgs_probe(*sets[0], *sets[1], seed=0)
    random = {row.layer: row.accuracy for row in began.results}
    assert {row["layer"]: row["random_weights"] for row in rows[:2]} == random
    assert {row["whitened_patches"] for row in rows} == {linear.accuracy}
    text = (made / "figure6.md").read_text()
    assert "## What needs no training" in text
    assert f"| linear, head, {GRID} | {random['head']:.1f} | {linear.accuracy:.1f} | " in text


def test_baselines_of_each_probe_are_kept_apart(made: Path) -> None:
    spec = next(iter(plan_of(made, "figure6").runs()))
    requests = [EvalRequest("digits", 0.0, "whole", probe) for probe in ("linear", "ridge", "knn")]
    found = [Untrained("cifar10", spec, request) for request in requests]
    assert len({each.name for each in found}) == len({each.whitened for each in found}) == 3
    store = scores.Scores(made)
    store.begin(found[1])
    assert not store.has_begun(found[2])
    patches = scores._whitened(found[1], spec.settings["image_side"] or 16)
    assert {row.whitened for row in store.begun(found[1])} == {patches}
    assert [(row.probe, row.layer) for row in store.begun(found[1])] == [
        ("ridge", "backbone"), ("ridge", "head"),
    ]  # fmt: skip


@pytest.mark.parametrize("probe", ["linear", "linear_sgd", "ridge", "knn"])
def test_whitened_patches_are_scored_by_the_probe_of_the_rows_above(
    probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so few digits two probes can agree by chance; here each has a number of its own."""
    accuracies = {name: float(at) for at, name in enumerate(scores.PROBES)}

    def scorer(accuracy: float) -> Callable[..., SimpleNamespace]:
        return lambda *_, **__: SimpleNamespace(accuracy=accuracy)

    stubs = {name: scorer(accuracy) for name, accuracy in accuracies.items()}
    monkeypatch.setattr(scores, "PROBES", stubs)
    [spec, *_] = plan_of(tmp_path, "figure6").runs()
    it = Untrained("cifar10", spec, EvalRequest("digits", 0.0, "whole", probe))
    assert scores._whitened(it, 16) == accuracies[probe]


def test_random_weights_of_both_sides_of_a_claim_are_the_same_network() -> None:
    """At the layers that are probed: what one row says of a network holds for all."""
    ours, theirs = (
        LAPTOP.settings(each) for each in (emp("cifar10", 30), rival("byol", "cifar10"))
    )
    states = []
    for settings in (ours, theirs):
        torch.manual_seed(0)
        network = build_network(settings["backbone"], settings["projector"])
        states.append(network.backbone.state_dict() | network.projector.block.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def plan_of(out: Path, *names: str) -> PaperPlan:
    runtime = {"data_dir": out, "download": False, "device": "cpu"}
    return PaperPlan.of(
        {name: EXHIBITS[name] for name in names}, TINY, data={"cifar10": "digits"}, seeds=None,
        runtime=runtime, folder=Folder(out),
    )  # fmt: skip


def test_compute_is_counted_by_this_version_and_not_by_the_one_that_trained(made: Path) -> None:
    plan = plan_of(made, "figure6")
    [spec, *_] = plan.runs()
    doubled = replace(spec, gflop_per_patch=2 * spec.gflop_per_patch)
    for count, run in ((1, spec), (2, doubled)):
        changed = replace(plan, specs=dict.fromkeys(plan.specs, (run,)))
        [found, *_] = finding_module.reproduced_numbers(
            changed, EXHIBITS["figure6"], scores.Scores(made), Folder(made)
        )
        assert found.last is not None
        assert found.last.pflop == pytest.approx(
            count * run.steps * run.patches_per_step * spec.gflop_per_patch / 1e6
        )


def test_same_protocol_fills_every_way_of_looking_from_runs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one rival and one seed, which decides nothing; the rival has twice the epochs."""
    few, many, byol = emp("cifar10", 30, 20), emp("cifar10", 30), rival("byol", "cifar10")
    lengths = {1: 0.05, 10: 0.1, 20: 0.15, 30: 0.1, 400: 0.2, 1000: 0.2}
    monkeypatch.setitem(SCALES, "laptop", replace(TINY, epochs=lengths, kept=(0.05, 0.1)))
    exhibit = EXHIBITS["same-protocol"]
    claims = tuple(replace(claim, behind=(byol,)) for claim in exhibit.claims)
    numbers = tuple(n for n in exhibit.numbers if n.experiment in (few, many, byol))
    monkeypatch.setitem(EXHIBITS, "same-protocol", replace(exhibit, numbers=numbers, claims=claims))
    monkeypatch.setitem(
        EXHIBITS, "table2", replace(EXHIBITS["table2"], numbers=(Number(byol, "cifar10"),
                                    Number(few, "cifar10"), Number(many, "cifar10")), claims=()),
    )  # fmt: skip
    reproduce(tmp_path, "table2", seeds=1)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(trainer, "training_step", never)
    reproduce(tmp_path, "same-protocol", seeds=1)
    found = record(tmp_path, "same-protocol")["claims"]
    assert [claim["equal"] for claim in found] == [["epochs"], ["compute"]]
    for claim in found:
        pairs = {tuple(r["pair"]) for r in claim["results"]}
        assert len(pairs) == (2 if claim["equal"] == ["epochs"] else 1)
        ways = {(r["layer"], r["crops"]) for r in claim["results"]}
        assert ways >= {(layer, crops) for layer in ("head", "backbone")
                        for crops in ("bag", "whole")}  # fmt: skip
        assert {r["outcome"] for r in claim["results"]} == {"undecided"}
    mid = {tuple(r["mid_schedule"]) for r in found[0]["results"]}
    assert mid == {("BYOL",)}
    text = (tmp_path / "same-protocol.md").read_text()
    first = text.index("same layer and same crops of both")
    assert first < text.index("as its authors probe it") < text.index("## Theirs and ours")
    assert "held" not in text.split("## Theirs and ours")[0]


def test_documents_of_another_scale_are_not_written_over(made: Path) -> None:
    with pytest.raises(UsageError, match=r"\.json is of the scale laptop"):
        reproduce(made, "figure6", scale="paper")


def test_documents_do_not_say_where_the_data_are(tmp_path: Path) -> None:
    where = str(tmp_path / "mine")
    reproduce(tmp_path / "out", "table3", data={"cifar10": where, "cifar100": where})
    assert "- cifar10 is mine here." in (tmp_path / "out" / "table3.md").read_text()
    assert record(tmp_path / "out", "table3")["data"] == {"cifar10": "mine", "cifar100": "mine"}


def test_the_command_line_lists_the_exhibits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXHIBITS)
    assert cli.main(["reproduce", "figuer3"]) == 2
    assert "did you mean 'figure3'" in capsys.readouterr().err
    assert empssl.reproduce is reproduce_module.reproduce


# Claims.

A, B = emp("cifar10", 30), rival("byol", "cifar10")
EPOCHS, COMPUTE = (Basis(equal, "head", "bag") for equal in ("epochs", "compute"))
AHEAD = Claim("ahead", "cifar10", (A,), (B,))


def reproduced(experiment: Experiment) -> ReproducedNumber:
    return ReproducedNumber(Number(experiment, "cifar10", "curve"), "done", "")


def runs(*curves: list[tuple[float, float, float]]) -> dict[int, list[Snapshot]]:
    """Points of epoch, PFLOP and percent, by seed; the last is the end of the schedule."""
    return {
        seed: [
            Snapshot(epoch, pflop, at == len(curve) - 1, {"bag": {"head": value}})
            for at, (epoch, pflop, value) in enumerate(curve)
        ]
        for seed, curve in enumerate(curves)
    }  # fmt: skip


def ends(*values: float) -> dict[int, list[Snapshot]]:
    """The ends of some seeds, after as many epochs and as much compute."""
    return runs(*([(1.0, 1.0, value)] for value in values))


def checked(ours: Any, theirs: Any, claim: Claim = AHEAD) -> ClaimResult:
    return check_claim(claim, {A: ours, B: theirs})


def compared(result: ClaimResult, basis: Basis = EPOCHS) -> Pairwise:
    found = result.find((A, B), basis)
    assert found is not None
    return found


def written(result: ClaimResult) -> str:
    return "\n\n".join(paragraphs(result, TINY.label))


def test_a_difference_of_means_within_its_spread_over_seeds_is_a_tie() -> None:
    """Seed by seed +5, -4 and +5: the mean is +2, and the interval from -10.9 to 14.9."""
    found = compared(result := checked(ends(70.0, 60.0, 75.0), ends(65.0, 64.0, 70.0)))
    assert (found.mean, found.won, found.outcome) == (2.0, 2, "tie")
    assert found.interval == pytest.approx((-10.908, 14.908), abs=1e-3)
    assert "| +2.0 [−10.9, +14.9], 2 of 3 seeds: tie |" in written(result)
    assert "At equal epochs, same layer and same crops of both: not decided" in written(result)


def test_a_small_difference_that_every_seed_has_is_one() -> None:
    """Accuracies of the seeds lie 20 points apart; a difference that is not paired is lost."""
    ours, theirs = ends(50.0, 60.0, 70.0), ends(49.0, 58.9, 68.8)
    found = compared(checked(ours, theirs))
    assert (found.won, found.outcome) == (3, "ahead")
    assert compared(checked(theirs, ours)).outcome == "behind"


def test_differences_are_paired_by_seed_and_not_by_place() -> None:
    ours = {seed: curve for seed, curve in ends(50.0, 60.0, 70.0, 80.0).items() if seed}
    found = compared(checked(ours, ends(49.0, 59.0, 69.0, 79.0)))
    assert found.seeds == (1, 2, 3)
    assert found.differences == (1.0, 1.0, 1.0)


def test_one_seed_decides_nothing() -> None:
    found = compared(result := checked(ends(70.0), ends(60.0)))
    assert (found.interval, found.outcome) == (None, "undecided")
    assert "| +10.0: ahead in one seed, not decided |" in written(result)
    assert result.status(EPOCHS) == "not decided"
    two = compared(checked(ends(70.0, 71.0), ends(60.0, 61.0)))
    assert two.outcome == "undecided"


def test_the_interval_is_students() -> None:
    """t of 0.975 and two degrees of freedom is 4.3027."""
    low, high = t_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-5)


def test_a_claim_holds_only_if_every_pair_of_it_was_measured() -> None:
    other = rival("vicreg", "cifar10")
    claim = Claim("ahead", "cifar10", (A,), (B, other))
    seen = {A: ends(70.0, 71.0, 72.0), B: ends(60.0, 61.1, 62.0)}
    result = check_claim(claim, seen)
    assert result.counts(EPOCHS) == {"ahead": 1, "not measured": 1}
    assert result.status(EPOCHS) == "not decided"
    assert result.status(Basis("epochs", "head", "whole")) == "not measured"
    both = check_claim(claim, seen | {other: ends(60.0, 61.2, 62.0)})
    assert both.status(EPOCHS) == "held"
    text = written(result)
    for what in ("epochs", "compute"):
        assert f"Not measured at equal {what}: {TINY.label(A)} − VICReg." in text


@pytest.mark.parametrize(
    ("theirs", "outcome", "status"),
    [((60.5, 59.7, 60.1), "alike", "held"), ((60.0, 66.0, 55.0), "undecided", "not decided"),
     ((70.0, 70.1, 70.2), "not alike", "did not hold")],
)  # fmt: skip
def test_runs_are_alike_only_if_the_whole_interval_is_small(
    theirs: tuple[float, ...], outcome: str, status: str
) -> None:
    claim = replace(AHEAD, alike=2.0)
    result = checked(ends(60.0, 60.0, 60.0), ends(*theirs), claim)
    assert (compared(result).outcome, result.status(EPOCHS)) == (outcome, status)


def test_equal_epochs_and_equal_compute_are_two_questions() -> None:
    ours = runs([(0.1, 1.0, 40.0), (1.0, 10.0, 70.0)])
    theirs = runs([(0.1, 0.5, 20.0), (1.0, 5.0, 60.0), (3.0, 15.0, 80.0)])
    result = checked(ours, theirs)
    epochs, compute = compared(result), compared(result, COMPUTE)
    assert (epochs.at, epochs.mean) == (1.0, 10.0)
    assert (compute.at, compute.scores[1].mean) == (10.0, pytest.approx(70.0))  # from 60 to 80
    only = checked(ours, theirs, replace(AHEAD, equal=("compute",)))
    assert {each.basis.equal for each in only.results} == {"compute"}


def test_a_schedule_that_had_not_ended_is_named() -> None:
    ours = runs([(0.1, 1.0, 40.0), (1.0, 10.0, 70.0)])
    theirs = runs([(0.1, 0.5, 20.0), (1.0, 5.0, 60.0), (3.0, 15.0, 80.0)])
    result = checked(ours, theirs)
    assert compared(result).early == compared(result, COMPUTE).early == (B,)
    assert "| epoch 1, the second in mid-schedule |" in written(result)
    assert compared(checked(ours, runs([(1.0, 10.0, 60.0)]))).early == ()


def test_the_end_of_a_schedule_is_not_guessed() -> None:
    """Of a run that was looked at before its end only, nobody knows what it takes in all."""
    ours = {0: [Snapshot(0.1, 1.0, False, {"bag": {"head": 40.0}})]}
    assert checked(ours, runs([(1.0, 1.0, 60.0)])).find((A, B), COMPUTE) is None


def test_layers_and_crops_are_compared_like_with_like() -> None:
    def seen(**scores: float) -> dict[int, list[Snapshot]]:
        ways: dict[str, dict[str, float]] = {}
        for way, value in scores.items():
            crops, layer = way.split("_")
            ways.setdefault(crops, {})[layer] = value
        return {0: [Snapshot(1.0, 1.0, True, ways)]}

    ours = seen(bag_head=60.0, bag_backbone=50.0, whole_head=40.0, whole_backbone=30.0)
    theirs = seen(bag_head=59.0, bag_backbone=52.0, whole_head=43.0, whole_backbone=34.0)
    result = checked(ours, theirs)
    at_equal_epochs = [basis for basis in BASES if basis.equal == "epochs"]
    assert {each.basis: each.mean for each in result.on(*at_equal_epochs)} == {
        Basis("epochs", "head", "bag"): 1.0, Basis("epochs", "backbone", "bag"): -2.0,
        Basis("epochs", "head", "whole"): -3.0, Basis("epochs", "backbone", "whole"): -4.0,
        Basis("epochs", "head", None): 17.0, Basis("epochs", "backbone", None): 16.0,
        Basis("epochs", None, None): 26.0,
    }  # fmt: skip
    text = written(result)
    head = next(line for line in text.splitlines() if line.startswith("| pair |"))
    assert [spec.strip() for spec in head.split("|")[3:-1]] == [
        "head, same bag", "backbone, same bag", "head, whole image", "backbone, whole image",
        "each one's own layer and crops (as their authors do)",
    ]  # fmt: skip
    sentences = [line for line in text.splitlines() if line.startswith("- ")]
    assert all("same layer and same crops" in line for line in sentences[:2])
    assert "as its authors probe it" in sentences[2]


def test_what_was_measured_in_one_way_only_says_so() -> None:
    ours = {0: [Snapshot(1.0, 1.0, True, {"bag": {"head": 60.0}})]}
    theirs = {0: [Snapshot(1.0, 1.0, True, {"whole": {"backbone": 50.0}})]}
    text = written(checked(ours, theirs))
    assert "At equal epochs, same layer and same crops of both: not measured." in text
    assert "+10.0: ahead in one seed, not decided |" in text


@pytest.mark.parametrize("scale", [LAPTOP, SCALES["paper"]])
def test_the_bag_of_a_claim_has_the_same_pixels_for_both_and_is_our_own(scale: Any) -> None:
    """Whatever the views of training were: EMP-SSL's own bag is the one that rivals are given."""
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    views = []
    for experiment in {each for e in EXHIBITS.values() for c in e.claims for each in c.experiments}:
        policy = build(POLICIES, scale.settings(experiment)["views"])
        views.append(Crops.parse(scale.bag).views(policy, pixels, torch.arange(2)))
        if experiment.ours:
            own = Crops.parse(scale.crops).views(policy, pixels, torch.arange(2))
            assert torch.equal(own, views[-1])
            assert scale.crops_of(experiment, None) == scale.bag
    assert all(torch.equal(views[0], each) for each in views)


def test_a_change_of_the_views_side_keeps_its_own_grid() -> None:
    enlarged = emp("cifar10", 30, reading="official", changes="{views: {side: 32}}")
    assert LAPTOP.crops_of(enlarged, None) == "grid2"


def test_every_claim_is_measured_at_equal_epochs_and_equal_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair of every claim, transfer too, so far as runs of both can be made."""
    monkeypatch.setitem(SCALES, "laptop", LAPTOP)
    runtime = {"data_dir": tmp_path, "download": False, "device": "cpu"}
    data = {"cifar10": "digits", "cifar100": "digits"}
    made = PaperPlan.of(
        {name: EXHIBITS[name] for name in ("table2", "table5", "table6", "same-protocol")}, LAPTOP,
        data=data, seeds=1, runtime=runtime, folder=Folder(tmp_path),
    )  # fmt: skip
    for exhibit in made.exhibits.values():
        for claim in exhibit.claims:
            seen = {}
            for experiment in claim.experiments:
                [spec] = made.runs_of(exhibit, experiment)
                end = made.scale.length(experiment)
                scores = {crops: {"head": 50.0, "backbone": 50.0} for crops in made.claim_crops}
                seen[experiment] = {0: [
                    Snapshot(epoch, made.pflop(spec, epoch), epoch == end, scores)
                    for epoch in made.claim_looks(claim, experiment)
                ]}  # fmt: skip
            result = check_claim(claim, seen)
            for equal in claim.equal:
                for basis in BASES:
                    if basis.equal == equal:
                        assert len(result.on(basis)) == len(claim.pairs)
            if "epochs" in claim.equal:
                assert {each.at for each in result.on(EPOCHS)} == {1.0}


def test_same_protocol_looks_at_every_end_and_at_equal_epochs_only(tmp_path: Path) -> None:
    """Runs of table 2, each through the same bag and the whole image, at few epochs."""
    runtime = {"data_dir": tmp_path, "download": False, "device": "cpu"}
    names = {name: EXHIBITS[name] for name in ("same-protocol", "table2")}
    data = {"cifar10": "digits", "cifar100": "digits"}
    one, two = (
        PaperPlan.of(
            {name: exhibit}, LAPTOP, data=data, seeds=None, runtime=runtime, folder=Folder(tmp_path)
        )
        for name, exhibit in names.items()
    )
    assert {spec.name for spec in one.runs() if spec.seed == 0} <= {c.name for c in two.runs()}
    assert len(one.runs()) == 3 * 7
    ends = [one.pflop(spec, 2.0) for spec in one.runs() if not spec.label.startswith("emp")]
    for spec in one.runs():
        requests = one.looks_at(spec)
        expected = {None} if spec.label.startswith("emp") else {None, 1.0}
        if spec.label.startswith("emp") and spec.n == 16:
            places = {at: one.pflop(spec, at) for at in LAPTOP.kept}
            for end in (end for end in ends if end * EQUAL < places[1.0]):
                # On both sides of where a rival ends that takes less compute.
                expected |= {max(at for at, pflop in places.items() if pflop <= end)}
                expected |= {min(at for at, pflop in places.items() if pflop >= end)} - {1.0}
        assert {request.epoch for request in requests} == expected
        assert {request.crops for request in requests} == {"grid2@0.5", "whole"}
        assert len(requests) == 2 * len(expected)


def test_data_of_one_last_name_are_told_apart() -> None:
    def key(on: str) -> str:
        return EvalRequest(on, None, "grid2", "linear").key

    assert key("/d/cifar10/data") != key("/d/cifar100/data")
    assert key("cifar10") == "cifar10-last-grid2"


def test_a_change_is_worth_the_mean_of_its_paired_differences() -> None:
    numbers = EXHIBITS["fidelity"].numbers
    # Of the base, and of the first two changes; seed 1 of the second one failed.
    values = {0: {0: 60.0, 1: 70.0, 2: 75.0}, 1: {0: 61.0, 2: 78.0}, 2: {1: 65.0}}
    found = [
        replace(reproduced(n.experiment), number=n, values=tuple(values.get(at, {}).values()),
                seeds=tuple(values.get(at, {})))
        for at, n in enumerate(numbers)
    ]  # fmt: skip
    table = fidelity(found)
    assert "| the paper's | +2.0 (+1.0 to +3.0) |" in table
    assert "| −5.0, one seed |" in table
    assert table.count("not yet measured") == len(numbers) - 3


def test_the_page_on_fidelity_has_every_discrepancy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    expected = [
        f"| {each.what} | {each.paper} | {each.code} | {each.here} | {last}"
        for each in DISCREPANCIES
        for last in [f"{number.label} | " for number in each.numbers]
        or [f"– | not measured: {each.unmeasured} |"]
    ]
    assert len(rows) == len(expected) + 1  # the line below the head
    for row, start in zip(rows[1:], expected, strict=True):
        assert row.startswith(start)
