"""`empssl reproduce`: the paper's numbers, plans whose exhibits share runs, documents, verdicts."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import few_digits

import empssl
from empssl import cli, reproduction, training
from empssl.errors import CellsFailedError, StoppedError, UsageError
from empssl.reproduction import Forecast, Reproduction, forecast, scores
from empssl.reproduction import reproduce as reproduce_any
from empssl.reproduction.document import fidelity
from empssl.reproduction.exhibit import Claim, Number
from empssl.reproduction.exhibits import EXHIBITS
from empssl.reproduction.experiment import Experiment, emp, rival
from empssl.reproduction.fidelity import DISCREPANCIES
from empssl.reproduction.finding import Finding, Point
from empssl.reproduction.plan import Look
from empssl.reproduction.scale import LAPTOP, SCALES
from empssl.reproduction.verdict import judge
from empssl.run import Run

TRAIN, TEST = 160, 40
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
    bags={"random128": "random2"}, small=smallest, heads=HEADS, own="demo",
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
    [six] = [n for n in record(made, "figure6")["numbers"] if "200 patches" in n["method"]]
    [seven] = [n for n in record(made, "figure7")["numbers"] if "batch 100" in n["method"]]
    assert six["ours"]["runs"] == seven["ours"]["runs"]


def plan(out: Path, *names: str, **changes: Any) -> Forecast:
    found = reproduce_any(
        names, out=out, **({"data": {"cifar10": "digits", "cifar100": "digits"}, "dry_run": True,
                            "data_dir": out, "device": "cpu"} | changes),
    )  # fmt: skip
    assert isinstance(found, Forecast)
    return found


def test_a_dry_run_counts_each_run_once_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_teraflops", lambda *_: 2.0)
    found = plan(tmp_path / "out", "table2", "table5", "figure3", data={"cifar10": "digits"})
    assert not (tmp_path / "out").exists()
    longest = [cost for cost in found.costs if cost.run.startswith("emp-digits-n4")]
    assert [cost.used_by for cost in longest] == [["table2", "table5", "figure3"], ["figure3"],
                                                  ["figure3"]]  # fmt: skip
    assert len(found.costs) == 5 + 2 * 3
    for cost in found.costs:
        assert cost.train_seconds == pytest.approx(cost.pflop * 1e15 / 2e12)
    assert re.search(r"11 of 11 runs to train: at most .* s, and .* of features", found.table())
    [(why, names)] = found.left_out.items()
    assert why.startswith("cifar100 is not in")
    assert "EMP-SSL (20 patches) on cifar100" in names
    assert "scores on cifar100" in names


def test_a_dry_run_measures_this_machine(tmp_path: Path) -> None:
    found = plan(tmp_path / "out", "table1", data={"cifar10": "digits"}, seeds=1)
    assert len(found.teraflops) == 2  # patches and crops
    assert all(speed > 0 for speed in found.teraflops.values())


def test_a_finished_run_costs_nothing_more(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_teraflops", lambda *_: 1 / 0)
    found = plan(made, "figure6", data={"cifar10": "digits"})
    assert {(cost.state, cost.looks, cost.train_seconds) for cost in found.costs} == {
        ("finished", 0, 0.0)
    }


def test_all_is_every_exhibit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_teraflops", lambda *_: 1.0)
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
        seen = json.loads((made / "scores" / run / "digits-last-grid1.json").read_text())
        [row] = [r for r in seen["results"] if (r["probe"], r["layer"]) == ("linear", "head")]
        assert number["ours"]["mean"] == row["accuracy"]
        assert number["difference"] == pytest.approx(row["accuracy"] - number["theirs"]["value"])
        last = Run(made / "runs" / run).metrics()[-1]
        assert number["ours"]["curves"][0][-1]["pflop"] == last["pflop"]
    text = (made / "figure3.md").read_text()
    assert "| EMP-SSL (20 patches) | cifar10 | cifar10 | 30 | 93.1 | " in text
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
    assert "EMP-SSL (200 patches) on imagenet100: 224-pixel images are too much work" in text
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

    monkeypatch.setattr(training, "training_step", never)
    monkeypatch.setattr(scores, "evaluate", never)
    before = {path: path.read_text() for path in made.rglob("scores/*/*.json")}
    reproduce(made, "figure6", "figure7")
    assert {path: path.read_text() for path in made.rglob("scores/*/*.json")} == before


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Do something right before a step, counted from the start of the process."""

    def plant(step: int, action: Callable[[], None]) -> None:
        original, taken = training.training_step, iter(range(10**6))

        def planted(*arguments: Any, **options: Any) -> Any:
            if next(taken) == step:
                action()
            return original(*arguments, **options)

        monkeypatch.setattr(training, "training_step", planted)

    return plant


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
            CellsFailedError, match="1 of 4 runs and baselines failed: emp-digits-n3-"
        ) as failed:
            reproduce(tmp_path, "figure6")
    assert failed.value.exit_code == 10
    numbers = {n["method"]: n["ours"] for n in record(tmp_path, "figure6")["numbers"]}
    assert numbers["EMP-SSL (50 patches)"]["state"] == "failed"
    assert numbers["EMP-SSL (50 patches)"]["why"] == "ValueError: the disk is on fire"
    assert numbers["EMP-SSL (200 patches)"]["state"] == "done"
    text = (tmp_path / "figure6.md").read_text()
    assert "- EMP-SSL (50 patches) on cifar10: ValueError: the disk is on fire" in text
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


def test_what_needs_no_training_stands_below_the_numbers(made: Path) -> None:
    [row] = record(made, "figure6")["untrained"]
    numbers = record(made, "figure6")["numbers"]
    [run] = numbers[0]["ours"]["runs"]
    options: dict[str, Any] = {"probes": ["linear"], "crops": ["grid1"], "layers": ["head"]}
    began = empssl.evaluate(made / "runs" / run, "digits", epoch=0.0, baselines=False, **options)
    whole = empssl.evaluate(made / "runs" / run, "digits", probes=["ridge"], crops=["grid1"])
    [ridge] = [row for row in whole.baselines if row.model == "whitened-patches"]
    assert row == {
        "scored_on": "cifar10", "probe": "linear", "layer": "head", "crops": "grid1",
        "random_weights": began.results[0].accuracy, "whitened_patches_ridge": ridge.accuracy,
    }  # fmt: skip
    assert "## What needs no training" in (made / "figure6.md").read_text()


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
    assert empssl.reproduce is reproduction.reproduce


# Verdicts.

A, B = emp("cifar10", 30), rival("byol", "cifar10")


def finding(experiment: Experiment, *runs: list[tuple[float, float, float]]) -> Finding:
    """Points of epoch, PFLOP and percent, by seed."""
    curves = tuple(tuple(Point(e, v, {}, pflop, 0.0) for e, pflop, v in run) for run in runs)
    values = tuple(run[-1].value for run in curves)
    return Finding(
        Number(experiment, "cifar10", "curve"), "done", "", values, 0, curves,
        seeds=tuple(range(len(runs))),
    )  # fmt: skip


def test_equal_epochs_and_equal_compute_are_two_questions() -> None:
    ours = finding(A, [(0.1, 1.0, 40.0), (1.0, 10.0, 70.0)])
    theirs = finding(B, [(0.1, 0.5, 20.0), (1.0, 5.0, 60.0), (3.0, 15.0, 80.0)])
    verdict = judge(Claim("ahead", "cifar10", (A,), (B,)), [ours, theirs])
    [epochs] = verdict.duels["equal epochs"]
    [compute] = verdict.duels["equal compute"]
    assert (epochs.at, epochs.margin, epochs.held) == ("epoch 1", 10.0, True)
    assert (compute.at, compute.held) == ("10 PFLOP", False) or compute.margin == 0
    assert compute.scores[1].mean == pytest.approx(70.0)  # halfway from 60 to 80
    assert any("At equal epochs: held (1 of 1)" in text for text in verdict.paragraphs())


def test_ranges_over_seeds_that_touch_are_said_to() -> None:
    ours = finding(A, [(1.0, 1.0, 70.0)], [(1.0, 1.0, 60.0)])
    theirs = finding(B, [(1.0, 1.0, 61.0)], [(1.0, 1.0, 62.0)])
    verdict = judge(Claim("ahead", "cifar10", (A,), (B,)), [ours, theirs])
    [duel] = verdict.duels["equal epochs"]
    assert (duel.held, duel.apart) == (True, False)
    assert any("the ranges over seeds overlap" in text for text in verdict.paragraphs())


def test_a_schedule_that_had_not_ended_is_named() -> None:
    ours = finding(A, [(0.1, 1.0, 40.0), (1.0, 10.0, 70.0)])
    theirs = finding(B, [(0.1, 0.5, 20.0), (1.0, 5.0, 60.0), (3.0, 15.0, 80.0)])
    verdict = judge(Claim("ahead", "cifar10", (A,), (B,)), [ours, theirs])
    assert [duel.early for duel in verdict.duels["equal epochs"]] == [("BYOL",)]
    assert any("as claimed, one seed; BYOL in mid-schedule" in t for t in verdict.paragraphs())
    ended = judge(Claim("ahead", "cifar10", (A,), (B,)), [ours, finding(B, [(1.0, 10.0, 60.0)])])
    assert [duel.early for duel in ended.duels["equal epochs"]] == [()]


def test_a_seed_that_is_missing_shifts_no_other() -> None:
    points = finding(A, [(1.0, 1.0, 70.0)], [(1.0, 1.0, 60.0)])
    late = replace(finding(A, [(0.5, 0.5, 50.0)]), seeds=(1,))  # seed 0 of it failed
    theirs = finding(B, [(1.0, 1.0, 61.0)])
    verdict = judge(Claim("ahead", "cifar10", (A,), (B,)), [late, points, theirs])
    [duel] = verdict.duels["equal compute"]
    assert duel.scores[0].mean == 65.0


def test_layers_are_compared_like_with_like() -> None:
    def seen(experiment: Experiment, backbone: float, head: float, value: float) -> Finding:
        point = Point(1.0, value, {"backbone": backbone, "head": head}, 1.0, 0.0)
        return replace(finding(experiment, [(1.0, 1.0, value)]), curves=((point,),))

    verdict = judge(
        Claim("ahead", "cifar10", (A,), (B,)),
        [seen(A, 50.0, 60.0, 60.0), seen(B, 55.0, 58.0, 55.0)],
    )
    margins = {name: duel.margin for name, [duel] in verdict.duels.items()}
    assert margins == {
        "equal epochs": 5.0, "equal compute": 5.0, "equal compute, by the backbone of both": -5.0,
        "equal compute, by the head of both": 2.0,
    }  # fmt: skip


def test_data_of_one_last_name_are_told_apart() -> None:
    def key(on: str) -> str:
        return Look(on, None, "grid2", "linear").key

    assert key("/d/cifar10/data") != key("/d/cifar100/data")
    assert key("cifar10") == "cifar10-last-grid2"


def test_what_was_not_run_is_not_judged() -> None:
    verdict = judge(Claim("ahead", "cifar10", (A,), (B,)), [finding(A, [(1.0, 1.0, 70.0)])])
    assert not any(verdict.duels.values())
    assert verdict.lacking == ("EMP-SSL (200 patches) and BYOL",)


def test_a_change_is_worth_the_mean_of_its_paired_differences() -> None:
    numbers = EXHIBITS["fidelity"].numbers
    # Of the base, and of the first two changes; seed 1 of the second one failed.
    values = {0: {0: 60.0, 1: 70.0, 2: 75.0}, 1: {0: 61.0, 2: 78.0}, 2: {1: 65.0}}
    found = [
        replace(finding(n.experiment), number=n, values=tuple(values.get(at, {}).values()),
                seeds=tuple(values.get(at, {})))
        for at, n in enumerate(numbers)
    ]  # fmt: skip
    table = fidelity(found)
    assert "| the paper's | +2.0 (+1.0 to +3.0) |" in table
    assert "| −5.0, one seed |" in table
    assert table.count("not yet measured") == len(numbers) - 3


def test_the_page_on_fidelity_has_every_discrepancy() -> None:
    page = (Path(__file__).parents[1] / "docs" / "fidelity.md").read_text()
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
