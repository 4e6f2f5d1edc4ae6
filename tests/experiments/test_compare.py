"""`empssl compare`: grids that survive interruption, and tables that say what the runs say."""

import json
import re
import shutil
import signal
import statistics
from collections.abc import Callable, Iterator
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_images import photo
from pages import Elements
from tiny import differences, few_digits, start, train_tiny

import empssl
from empssl import cli
from empssl.errors import DataError, FailedRunsError, RunInUseError, StoppedError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.experiments import runner
from empssl.experiments.compare import compare as compare_any
from empssl.experiments.cost import Forecast
from empssl.experiments.folder import Folder
from empssl.experiments.grid import EqualBudget, decisive
from empssl.experiments.maps import maps
from empssl.experiments.protocol import EvalProtocol
from empssl.experiments.results import Comparison
from empssl.experiments.run_spec import RunSpec, RunStatus
from empssl.experiments.table import ComparisonTable
from empssl.reports.charts import apart
from empssl.runs.run import Run
from empssl.training import trainer
from empssl.training.recipes import resolve
from empssl.training.train import train

# Sixty-four whitened patches: the baseline that needs no network takes no time either.
SHARED: dict[str, Any] = {
    "data": "digits", "recipe": "demo", "batch": 8, "backbone": {"width": 4},
    "projector": {"hidden": 16, "dim": 8}, "whitened": 64, "precision": "32-true",
    "equal": "patches=64", "probes": ("knn",), "crops": "grid1",
}  # fmt: skip
WEAK = {"weak": {"name": "emp", "invariance_weight": 5.0, "optimizer": {"lr": 0.1}}}
BROKEN = {"broken": {"name": "emp", "invariance_weight": 1e300}}


TRAIN, TEST = 320, 80  # images: to score them all would take most of these tests' time


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    """The first digits only, in this process."""
    with few_digits(TRAIN, TEST):
        yield


class PulledPlug(BaseException):
    """Ends a grid as a kill does: nothing may handle it."""


def compare(out: Path, **changes: Any) -> Comparison:
    found = compare_any(out=out, **({"objectives": ["emp"], "patches": [2]} | SHARED | changes))
    assert isinstance(found, Comparison)
    return found


def forecast(out: Path, **changes: Any) -> Forecast:
    grid = {"objectives": ["emp"], "patches": [2], "dry_run": True}
    found = compare_any(out=out, **(grid | SHARED | changes))
    assert isinstance(found, Forecast)
    return found


def compare_runs(runs: list[Path], out: Path, **changes: Any) -> Comparison:
    found = compare_any(
        runs, out=out, **({"data": "digits", "probes": ("knn",), "crops": "grid1"} | changes)
    )
    assert isinstance(found, Comparison)
    return found


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "compare.json").read_text())
    return found


def states(out: Path) -> dict[str, str]:
    return {spec["name"]: spec["state"] for spec in record(out)["cells"]}


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """When each file below was changed, and which file it is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with each training step."""
    original, taken = trainer.training_step, []

    def counted(*arguments: Any, **options: Any) -> Any:
        taken.append(None)
        return original(*arguments, **options)

    monkeypatch.setattr(trainer, "training_step", counted)
    return taken


def pull_plug() -> None:
    raise PulledPlug


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    """Two objectives, two n and two seeds, that tests read and do not change."""
    out = tmp_path_factory.mktemp("grid") / "out"
    result = compare(
        out, objectives=["emp", "weak"], patches=[2, 4], seeds=[0, 1], set=WEAK,
        probes=("ridge", "knn"),
    )  # fmt: skip
    return out, result


@pytest.fixture
def copy(grid: tuple[Path, Comparison], tmp_path: Path) -> Path:
    """The same, to be changed: for tests that need something finished.

    Without its table, which is not replaced by that of a smaller grid.
    """
    table = shutil.ignore_patterns("compare.*")
    return Path(shutil.copytree(grid[0], tmp_path / "copy", ignore=table))


# The runs of a grid.


def test_a_notebook_shows_a_comparison_as_its_table(grid: tuple[Path, Comparison]) -> None:
    _, result = grid
    assert repr(result) == "<Comparison on digits: 8 of 8 runs>"
    assert result._repr_html_() == f"<pre>{escape(result.rows.text())}</pre>"


def test_every_cell_is_trained_and_scored(grid: tuple[Path, Comparison]) -> None:
    found = states(grid[0])
    names = {f"{o}-n{n}-seed{s}" for o in ("emp", "weak") for n in (2, 4) for s in (0, 1)}
    assert found == dict.fromkeys(names, "finished")
    assert {path.name for path in (grid[0] / "runs").iterdir()} == names


def test_equal_patches_are_equal(grid: tuple[Path, Comparison]) -> None:
    runs = [Run(path) for path in (grid[0] / "runs").iterdir()]
    assert {run.metrics()[-1]["patches"] for run in runs} == {64}
    assert {(run.config["patches"], run.plan["steps"]) for run in runs} == {(2, 4), (4, 2)}


def test_equal_pflop_is_so_many_steps_of_the_network(tmp_path: Path) -> None:
    [two, four] = forecast(tmp_path, patches=[2, 4], equal="pflop=1e-6").specs
    [small] = forecast(tmp_path, backbone={"width": 2}, equal="pflop=1e-6").specs
    assert two.pflop is not None
    assert four.pflop is not None
    assert small.patches is not None
    assert two.patches is not None
    assert two.pflop == pytest.approx(1e-6, rel=0.02)
    assert four.pflop == pytest.approx(1e-6, rel=0.02)
    assert small.patches > two.patches


def test_an_option_that_came_later_leaves_older_runs_as_they_were() -> None:
    for name, option, before in (("lars", "nesterov", True), ("sgd", "decay_vectors", False)):
        now = resolve("official", {"optimizer": {"name": name}})
        older = now | {"optimizer": dict(now["optimizer"])}
        assert older["optimizer"].pop(option) is before
        assert decisive(now) == decisive(older)
        other = resolve("official", {"optimizer": {"name": name, option: not before}})
        assert decisive(other) != decisive(older)


def test_equal_seconds_are_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def train(**settings: Any) -> None:
        budgets.append(settings["budget"])
        raise DataError("not now")

    monkeypatch.setattr(runner, "train", train)
    with pytest.raises(FailedRunsError):
        compare(tmp_path, equal="seconds=90")
    assert budgets == ["90s"]
    assert forecast(tmp_path, equal="seconds=90").specs[0].seconds == 90


def test_an_objective_may_have_settings_of_its_own(grid: tuple[Path, Comparison]) -> None:
    emp, weak = (Run(grid[0] / "runs" / f"{name}-n2-seed0").config for name in ("emp", "weak"))
    assert (emp["objective"]["invariance_weight"], emp["optimizer"]["lr"]) == (200.0, 0.3)
    assert (weak["objective"]["invariance_weight"], weak["optimizer"]["lr"]) == (5.0, 0.1)
    same = decisive(emp).keys() - {"objective.invariance_weight", "optimizer.lr"}
    assert all(decisive(emp)[name] == decisive(weak)[name] for name in same)
    assert weak["optimizer"]["clip"]  # the recipe's other options stay


def test_a_cell_after_others_is_the_run_that_it_would_be_alone(
    grid: tuple[Path, Comparison], tmp_path: Path
) -> None:
    spec = grid[0] / "runs" / "weak-n4-seed1"
    alone = train(**Run(spec).config, out=tmp_path / "alone")
    assert differences(spec, alone) == []


def test_a_grid_leaves_nothing_behind_in_the_process(copy: Path) -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(s) for s in signals], torch.get_num_threads()
    with pytest.raises(FailedRunsError):
        compare(copy, objectives=["broken", "emp"], seeds=[7], set=BROKEN)
    assert ([signal.getsignal(s) for s in signals], torch.get_num_threads()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"equal": None}, "needs --equal"),
        ({"equal": "epochs=3"}, "equal is 'epochs=3', expected NAME=NUMBER: "),
        ({"equal": "patches=many"}, "expected a positive number after patches="),
        ({"equal": "patches=7"}, "emp with n = 2: patches=7 is 7 patches, less than one step"),
        ({"patches": [2, 2]}, "give each of them once"),
        ({"patches": []}, "no patches are given"),
        ({"patches": [1]}, "each must be 2 or more"),
        ({"objectives": ["../up"]}, "is to name run directories"),
        ({"objectives": ["empp"]}, "no 'empp' here"),
        ({"set": {"vicreg": {}}}, "'vicreg' is set but not compared"),
        ({"set": {"emp": {"distortoin": 1.0}}}, "no option 'distortoin'"),
        ({"set": {"emp": {"optimizer": {"lrr": 1.0}}}}, "no option 'lrr'"),
        ({"batch": 5000}, "a batch of 5000 images was asked for"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        compare(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_amounts_are_written_as_they_were_given() -> None:
    assert str(EqualBudget.parse("patches=216000")) == "patches=216000"


# What there is, and what is left to do.


def test_a_finished_grid_is_left_as_it_is(
    grid: tuple[Path, Comparison], steps_taken: list[Any]
) -> None:
    before = stamps(grid[0] / "runs")
    again = compare(
        grid[0], objectives=["emp", "weak"], patches=[2, 4], seeds=[0, 1], set=WEAK,
        probes=("ridge", "knn"),
    )  # fmt: skip
    assert stamps(grid[0] / "runs") == before
    assert steps_taken == []
    assert again.rows == grid[1].rows


def test_other_settings_need_another_place(grid: tuple[Path, Comparison]) -> None:
    before = stamps(grid[0])
    with pytest.raises(UsageError, match=r"other settings \(epochs .*another --out"):
        compare(grid[0], equal="patches=128")
    assert stamps(grid[0]) == before


def test_a_grid_can_grow(copy: Path, steps_taken: list[Any]) -> None:
    before = stamps(copy / "runs")
    compare(copy, seeds=[0, 1, 2])
    assert len(steps_taken) == 4
    after = stamps(copy / "runs")
    assert {path: after[path] for path in before} == before
    assert states(copy)["emp-n2-seed2"] == "finished"


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    grid: tuple[Path, Comparison], steps_taken: list[Any]
) -> None:
    before = stamps(grid[0])
    found = forecast(grid[0], seeds=[0, 5])
    assert stamps(grid[0]) == before
    assert steps_taken == []
    done, new = found.specs
    assert (done.name, done.state, done.steps, done.patches) == (
        "emp-n2-seed0", "finished", 4, 64,
    )  # fmt: skip
    assert (new.name, new.state, new.steps, new.patches) == ("emp-n2-seed5", "new", 4, 64)
    assert new.epochs == pytest.approx(4 / (TRAIN // 8))
    last = Run(grid[0] / "runs" / "emp-n2-seed0").metrics()[-1]
    assert new.pflop == pytest.approx(last["pflop"])
    assert new.seconds == pytest.approx(last["seconds"])  # as long as its like took
    assert "1 of 2 runs to train" in found.table()


def test_without_a_trained_cell_seconds_are_not_guessed(tmp_path: Path) -> None:
    assert forecast(tmp_path).specs[0].seconds is None


# A table that is there already.


ALL: dict[str, Any] = {"objectives": ["emp", "weak"], "patches": [2, 4], "seeds": [0, 1],
                       "set": WEAK, "probes": ("ridge", "knn")}  # fmt: skip


@pytest.mark.parametrize(
    ("less", "what"),
    [
        ({"seeds": [0]}, "shows emp-n2-seed1, emp-n4-seed1, weak-n2-seed1, weak-n4-seed1, which"),
        ({"seeds": [0, 1, 2], "objectives": ["emp"], "set": {}}, "shows weak-n2-seed0, "),
        ({"probes": ("knn",)}, "shows scores by ridge, which this command leaves out"),
        ({"crops": "grid2"}, "shows scores with crops grid1, and this command has grid2"),
        ({"train_size": 50}, "shows scores with train_size None, and this command has 50"),
    ],
    ids=["seeds", "objectives", "probes", "crops", "train size"],
)
def test_a_table_is_not_replaced_by_one_that_shows_less(
    less: dict[str, Any], what: str, grid: tuple[Path, Comparison], steps_taken: list[Any]
) -> None:
    before = stamps(grid[0])
    with pytest.raises(UsageError, match=f"compare.html {re.escape(what)}") as refused:
        compare(grid[0], **(ALL | less))
    assert "choose another --out, or remove " in str(refused.value)
    assert stamps(grid[0]) == before
    assert steps_taken == []


def test_a_table_that_was_removed_or_damaged_makes_room_for_a_smaller_one(
    grid: tuple[Path, Comparison], copy: Path
) -> None:
    for content in (None, "{", "[]", '{"runs": [{}]}'):
        (copy / "compare.json").unlink(missing_ok=True)
        if content is not None:
            (copy / "compare.json").write_text(content)
        compare(copy)
        assert states(copy) == {"emp-n2-seed0": "finished"}


def test_a_table_stays_while_a_run_that_it_shows_has_lost_its_scores(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(copy, seeds=[0, 1])
    before = {path.name: path.read_bytes() for path in copy.glob("compare.*")}
    shutil.rmtree(copy / "runs" / "emp-n2-seed0" / "evaluations")

    def full(*_: Any, **__: Any) -> None:
        raise DataError("the images are gone")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", full)
        with pytest.raises(FailedRunsError) as failed:
            compare(copy, seeds=[0, 1])
    assert "emp-n2-seed0 failed: DataError: the images are gone" in str(failed.value)
    assert "shows scores of emp-n2-seed0 from before, and is kept" in str(failed.value)
    assert {path.name: path.read_bytes() for path in copy.glob("compare.*")} == before
    compare(copy, seeds=[0, 1, 2])
    assert set(states(copy).values()) == {"finished"}
    assert len(states(copy)) == 3


def test_a_run_of_a_table_may_have_another_name_beside_others(copy: Path, tmp_path: Path) -> None:
    paths = [tmp_path / place / "run" for place in "ab"]
    for seed, path in enumerate(paths):
        shutil.copytree(copy / "runs" / f"emp-n2-seed{seed}", path)
    out = tmp_path / "out"
    compare_runs(paths[:1], out)
    compare_runs(paths, out)
    assert sorted(states(out)) == sorted(map(str, paths))
    with pytest.raises(UsageError, match="b/run, which this command leaves out"):
        compare_runs(paths[:1], out)


# Interruptions.


def test_a_grid_stopped_in_a_cell_goes_on_from_there(
    tmp_path: Path, at_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        at_step(5, lambda: signal.raise_signal(signal.SIGTERM))  # step 1 of the second run
        with pytest.raises(StoppedError, match="emp-n2-seed1; the same command goes on") as stop:
            compare(tmp_path / "grid", seeds=[0, 1])
    assert stop.value.exit_code == 143
    monkeypatch.undo()
    assert states(tmp_path / "grid")["emp-n2-seed0"] == "finished"
    first = stamps(tmp_path / "grid" / "runs" / "emp-n2-seed0")
    taken: list[Any] = []
    original = trainer.training_step
    monkeypatch.setattr(
        trainer, "training_step", lambda *a, **o: (taken.append(None), original(*a, **o))[1]
    )
    compare(tmp_path / "grid", seeds=[0, 1])
    assert len(taken) == 2  # of four: the other two had been taken
    assert stamps(tmp_path / "grid" / "runs" / "emp-n2-seed0") == first
    second = tmp_path / "grid" / "runs" / "emp-n2-seed1"
    alone = train(**Run(second).config, out=tmp_path / "alone")
    assert differences(second, alone) == []


def test_ctrl_c_while_scoring_says_how_to_go_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(copy / "runs" / "emp-n2-seed0" / "evaluations")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate", interrupted)
        with pytest.raises(StoppedError, match="the same command goes on") as stop:
            compare(copy)
    assert stop.value.exit_code == 130
    trained = stamps(copy / "runs" / "emp-n2-seed0" / "model")
    compare(copy)
    assert states(copy) == {"emp-n2-seed0": "finished"}
    assert "continuing" not in capsys.readouterr().err  # there was nothing left to train
    assert stamps(copy / "runs" / "emp-n2-seed0" / "model") == trained


@pytest.mark.parametrize("step", [0, 2])  # before the run's first step, and within it
def test_a_grid_that_was_killed_goes_on(
    step: int, copy: Path, at_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(copy / "runs" / "emp-n2-seed0")
    with monkeypatch.context():
        at_step(step, pull_plug)
        with pytest.raises(PulledPlug):
            compare(copy, seeds=[0, 7])
    monkeypatch.undo()
    compare(copy, seeds=[0, 7])
    assert states(copy) == {"emp-n2-seed0": "finished", "emp-n2-seed7": "finished"}
    assert stamps(copy / "runs" / "emp-n2-seed0") == before
    steps = [entry["step"] for entry in Run(copy / "runs" / "emp-n2-seed7").metrics()]
    assert steps == [0, 1, 2, 3]


# Failures.


def test_a_failed_cell_is_named_and_the_others_go_on(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailedRunsError, match="1 of 2 runs failed: broken-n2-seed7") as failed:
        compare(copy, objectives=["broken", "emp"], seeds=[7], set=BROKEN)
    assert failed.value.exit_code == 10
    assert states(copy) == {"broken-n2-seed7": "failed", "emp-n2-seed7": "finished"}
    error = record(copy)["cells"][0]["error"]
    assert error.startswith("DivergenceError: step 0: the loss is ")
    assert "\n" not in error
    table = (copy / "compare.md").read_text()
    assert f"broken-n2-seed7 failed: {error}" in table
    assert re.search(r"\| broken +\|  2 \| 0 of 1 \|", table)
    assert "broken-n2-seed7 failed: DivergenceError" in (copy / "compare.html").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_a_failed_cell_is_tried_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise DataError("the disk\nis on fire")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", full)
        with pytest.raises(FailedRunsError):
            compare(copy, seeds=[7])
    assert record(copy)["cells"][0]["error"] == "DataError: the disk is on fire"
    compare(copy, seeds=[7])
    assert states(copy) == {"emp-n2-seed7": "finished"}
    assert "failed" not in (copy / "compare.md").read_text()
    assert not list((copy / "cells").glob("*.failed"))


def test_a_bug_in_one_cell_shows_its_place_and_costs_only_that_cell(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = runner.train

    def buggy(**settings: Any) -> Path:
        return original(**settings) if settings["seed"] == 8 else Path(str(1 / 0))

    monkeypatch.setattr(runner, "train", buggy)
    with pytest.raises(FailedRunsError, match="emp-n2-seed7"):
        compare(copy, seeds=[7, 8])
    assert states(copy) == {"emp-n2-seed7": "failed", "emp-n2-seed8": "finished"}
    assert "in buggy\n" in capsys.readouterr().err


def test_a_run_that_is_damaged_fails_alone(copy: Path) -> None:
    (copy / "runs" / "emp-n2-seed0" / "model" / "manifest.json").write_text("{")
    with pytest.raises(FailedRunsError, match="1 of 2 runs failed: emp-n2-seed0"):
        compare(copy, seeds=[0, 7])
    assert states(copy)["emp-n2-seed7"] == "finished"


# Several processes.


def test_a_cell_that_another_process_holds_is_left_to_it(copy: Path) -> None:
    with Folder(copy).claim("emp-n2-seed7"):
        with pytest.raises(RunInUseError, match="at work on emp-n2-seed7") as busy:
            compare(copy, seeds=[0, 7])
        assert not (copy / "runs" / "emp-n2-seed7").exists()
    assert busy.value.exit_code == 8
    assert states(copy) == {"emp-n2-seed7": "new", "emp-n2-seed0": "finished"}
    assert "Not finished yet: emp-n2-seed7." in (copy / "compare.md").read_text()
    compare(copy, seeds=[0, 7])
    assert set(states(copy).values()) == {"finished"}


def test_what_failed_elsewhere_meanwhile_is_not_tried_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, trained = runner.train, []

    def train(**settings: Any) -> Path:
        if not trained:  # another process, while this one is at its first run
            Folder(copy).fail("emp-n2-seed8", "DataError: no")
        trained.append(settings["seed"])
        return original(**settings)

    monkeypatch.setattr(runner, "train", train)
    with pytest.raises(FailedRunsError, match="emp-n2-seed8"):
        compare(copy, seeds=[7, 8])
    assert trained == [7]


@pytest.mark.slow
def test_two_processes_share_a_grid(tmp_path: Path) -> None:
    words = [
        "compare", "--data", "digits", "--recipe", "demo", "--batch", "8", "--backbone.width", "4",
        "--projector.hidden", "16", "--projector.dim", "8", "--whitened", "64", "--objectives",
        "emp", "--patches", "2", "--seeds", "0", "1", "2", "3", "--equal", "patches=320",
        "--probes", "knn", "--crops", "grid1", "--out", str(tmp_path),
    ]  # fmt: skip
    processes = [start(*words) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert {process.returncode for process in processes} <= {0, 8}
    said = "".join(error for _, error in outputs)
    for seed in range(4):
        assert said.count(f"training emp-n2-seed{seed}\n") == 1
        assert said.count(f"scoring emp-n2-seed{seed}") == 1
        run = Run(tmp_path / "runs" / f"emp-n2-seed{seed}")
        assert run.identity is not None
        assert len(run.evaluations()) == 1


# The table.


def scores_of(out: Path, label: str, n: int, probe: str, layer: str) -> list[float]:
    """Read from the runs' own files."""
    found = []
    for seed in (0, 1):
        [evaluation] = Run(out / "runs" / f"{label}-n{n}-seed{seed}").evaluations()
        found += [
            row["accuracy"] for row in evaluation["results"]
            if (row["probe"], row["layer"]) == (probe, layer)
        ]  # fmt: skip
    assert len(found) == 2
    return found


def test_the_tables_numbers_are_the_runs_scores(grid: tuple[Path, Comparison]) -> None:
    kept = record(grid[0])
    assert kept["columns"] == [
        "ridge head", "ridge backbone", "ridge joint", "knn head", "knn backbone", "knn joint",
    ]  # fmt: skip
    assert [(row["label"], row["n"], row["seeds"]) for row in kept["rows"]] == [
        ("emp", 2, [0, 1]), ("emp", 4, [0, 1]), ("weak", 2, [0, 1]), ("weak", 4, [0, 1]),
    ]  # fmt: skip
    table = (grid[0] / "compare.md").read_text().splitlines()
    page = (grid[0] / "compare.html").read_text()
    for at, row in enumerate(kept["rows"]):
        for column, spread in row["scores"].items():
            values = scores_of(grid[0], row["label"], row["n"], *column.split())
            expected = (statistics.fmean(values), min(values), max(values))
            assert (spread["mean"], spread["low"], spread["high"]) == expected
            assert f"{statistics.mean(values):.1f}" in table[2 + at]
            assert f'data-value="{spread["mean"]}"' in page


def test_efforts_are_those_of_the_metrics(grid: tuple[Path, Comparison]) -> None:
    row = record(grid[0])["rows"][0]
    last = [Run(grid[0] / "runs" / f"emp-n2-seed{seed}").metrics()[-1] for seed in (0, 1)]
    for name in ("patches", "pflop", "seconds"):
        values = [entry[name] for entry in last]
        assert row["efforts"][name]["mean"] == pytest.approx(statistics.mean(values))
        assert row["efforts"][name]["high"] == max(values)


def test_baselines_are_scored_once_and_stand_in_the_table(grid: tuple[Path, Comparison]) -> None:
    evaluations = [
        evaluation for path in (grid[0] / "runs").iterdir()
        for evaluation in Run(path).evaluations() if evaluation["baselines"]
    ]  # fmt: skip
    assert len(evaluations) == 1
    by_hand = {
        (row["model"], row["probe"], row["layer"]): row["accuracy"]
        for row in evaluations[0]["baselines"]
    }
    random, white = record(grid[0])["baselines"]
    assert (random["label"], white["label"]) == ("random weights", "whitened patches")
    assert random["scores"]["knn head"]["mean"] == by_hand["random-0", "knn", "head"]
    assert random["scores"]["ridge joint"]["mean"] == by_hand["random-0", "ridge", "joint"]
    for layer in ("head", "backbone", "joint"):
        assert white["scores"][f"knn {layer}"]["mean"] == by_hand["whitened-patches", "knn", "none"]


def test_another_network_has_baselines_of_its_own(tmp_path: Path) -> None:
    wide = {"wide": {"name": "emp", "projector": {"hidden": 32}}}
    compare(tmp_path, objectives=["emp", "wide"], set=wide)
    labels = [row["label"] for row in record(tmp_path)["baselines"]]
    assert labels == ["random weights, emp", "random weights, wide", "whitened patches"]


def test_whitened_patches_of_several_kinds_have_a_row_each() -> None:
    statuses = []
    for model, whitened in (
        ("whitened-patches", 64),
        ("whitened-mirrored", {"name": "mirrored", "num_features": 96}),
        ("whitened-mirrored", 0),
    ):
        row = {"model": model, "probe": "linear", "layer": "none", "crops": "whole"}
        spec = RunSpec("a", "emp", 2, 0, Path("a"), {"whitened": whitened}, 4, 4, 1.0, {})
        own = row | {"model": "x", "layer": "head", "accuracy": 50.0}
        status = RunStatus(spec, "finished", scores=[own], baselines=[row | {"accuracy": 60.0}])
        assert EvalProtocol("digits", ("linear",), "grid1").rows(status.baselines)
        statuses.append(status)
    assert [row.label for row in ComparisonTable.of(statuses).baselines] == [
        "whitened patches, 64",
        "whitened patches, mirrored, num_features 96",
        "whitened patches, mirrored",
    ]


@pytest.mark.parametrize("extra", [[], [("ridge", 70.0)]])
def test_whitened_patches_stand_under_their_own_probe_only(
    extra: list[tuple[str, float]],
) -> None:
    """Whether or not an evaluation has them under ridge regression besides."""

    def row(model: str, probe: str, layer: str, accuracy: float) -> dict[str, Any]:
        crops = "whole" if layer == "none" else "grid1"
        return {"model": model, "probe": probe, "layer": layer, "crops": crops,
                "accuracy": accuracy}  # fmt: skip

    results = [row("whitened-patches", probe, "none", value)
               for probe, value in [("linear", 60.0), *extra]]  # fmt: skip
    protocol = EvalProtocol("digits", ("linear",), "grid1")
    spec = RunSpec("a", "emp", 2, 0, Path("a"), {}, 4, 4, 1.0, {})
    status = RunStatus(
        spec, "finished", scores=[row("x", "linear", "head", 50.0)],
        baselines=[*results, row("random-0", "linear", "head", 20.0)],
    )  # fmt: skip
    assert {found["probe"] for found in protocol.rows(results)} == {"linear"}
    random, white = ComparisonTable.of([status]).baselines
    assert (random.label, white.label) == ("random weights", "whitened patches")
    for baseline, value in ((random, 20.0), (white, 60.0)):
        found = baseline.scores["linear head"]
        assert found is not None
        assert found.mean == value


def test_the_record_says_what_its_numbers_depend_on(grid: tuple[Path, Comparison]) -> None:
    kept = record(grid[0])
    assert kept["equal"] == {"what": "patches", "amount": 64.0}
    assert kept["protocol"]["crops"] == "grid1"
    assert kept["empssl"] == empssl.__version__
    assert kept["versions"]["torch"] == [torch.__version__]
    spec = kept["cells"][0]
    assert spec["settings"]["objective.invariance_weight"] == 200.0
    assert spec["scored"]["test_fingerprint"]
    assert (spec["seed"], spec["n"], spec["patches"], spec["steps"]) == (0, 2, 64, 4)


def test_the_table_says_that_the_batch_was_held_fixed(grid: tuple[Path, Comparison]) -> None:
    for text in (grid[1].table(), (grid[0] / "compare.html").read_text()):
        assert "The batch is held fixed" in text


def test_seconds_of_different_machines_are_marked(
    grid: tuple[Path, Comparison], copy: Path
) -> None:
    assert record(grid[0])["notices"] == []
    run = Run(copy / "runs" / "emp-n2-seed1")
    run.environment = run.environment | {"device": "a faster one"}
    compare(copy, seeds=[0, 1])
    assert re.search(r"different devices .*; a faster one\)", record(copy)["notices"][0])


# Runs that there are.


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of two objectives' options, without scores; tests add scores only."""
    folder = tmp_path_factory.mktemp("two")
    weak = {"name": "emp", "invariance_weight": 5.0}
    return [
        train_tiny(folder / "plain", whitened=64),
        train_tiny(folder / "weak", whitened=64, objective=weak),
    ]


def test_runs_are_scored_where_they_are_not_and_told_apart(
    two_runs: list[Path], tmp_path: Path
) -> None:
    empssl.evaluate(two_runs[1], "digits", probes=["knn"], crops=["grid1"], baselines=False)
    before = stamps(two_runs[1])
    compare_runs(two_runs, tmp_path)
    assert stamps(two_runs[1]) == before
    assert [row["label"] for row in record(tmp_path)["rows"]] == [
        "emp, objective.invariance_weight 200.0", "emp, objective.invariance_weight 5.0",
    ]  # fmt: skip
    for spec, path in zip(record(tmp_path)["cells"], two_runs, strict=True):
        assert spec["name"] == path.name
        assert spec["scores"] in [evaluation["results"] for evaluation in Run(path).evaluations()]


def test_scores_of_another_protocol_do_not_count(two_runs: list[Path], tmp_path: Path) -> None:
    empssl.evaluate(two_runs[0], "digits", probes=["knn"], crops=["grid2"])
    empssl.evaluate(two_runs[0], "digits", probes=["knn"], crops=["grid1"], train_size=50)
    compare_runs(two_runs[:1], tmp_path)
    [spec] = record(tmp_path)["cells"]
    assert {(row["crops"], row["train_size"]) for row in spec["scores"]} == {("grid1", TRAIN)}
    assert spec["baselines"]


def test_every_layer_that_was_scored_has_its_column(two_runs: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(two_runs[0], tmp_path / "run")
    found = empssl.evaluate(run, "digits", probes=["knn"], crops=["grid1"], layers=["all"])
    compare_runs([run], tmp_path / "out")
    [row] = record(tmp_path / "out")["rows"]
    order = [
        "head", "backbone", "joint", "projection", "stage3", "stage2", "stage1", "stem",
    ]  # fmt: skip
    assert list(row["scores"]) == [f"knn {layer}" for layer in order]
    for score in found.results:
        assert row["scores"][f"knn {score.layer}"]["mean"] == score.accuracy
    page = (tmp_path / "out" / "compare.html").read_text()
    assert all(f">knn {layer}</th>" in page for layer in order)


def test_all_runs_may_learn_from_few_images(two_runs: list[Path], tmp_path: Path) -> None:
    compare_runs(two_runs, tmp_path, train_size=50)
    kept = record(tmp_path)
    assert kept["protocol"]["train_size"] == 50
    assert {row["train_size"] for spec in kept["cells"] for row in spec["scores"]} == {50}


def test_scores_of_earlier_weights_do_not_count(two_runs: list[Path], tmp_path: Path) -> None:
    compare_runs(two_runs[:1], tmp_path)
    run = Run(two_runs[0])
    for file in (run.path / "evaluations").iterdir():
        evaluation = json.loads(file.read_text())
        for row in evaluation["results"]:
            row |= {"model": "other weights", "accuracy": 100.0}
        file.write_text(json.dumps(evaluation))
    compare_runs(two_runs[:1], tmp_path)
    [spec] = record(tmp_path)["cells"]
    assert all(row["model"] == run.identity for row in spec["scores"])


def test_runs_of_different_data_are_refused(two_runs: list[Path], tmp_path: Path) -> None:
    other = train_tiny(tmp_path / "all", split="all", whitened=64)
    with pytest.raises(UsageError, match="plain and all were trained differently: split is train"):
        compare_runs([two_runs[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_folder_may_be_written_in_two_ways(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number, side=8))
    plain = str(tmp_path / "photos")
    ways = [plain, f"{plain}/../photos"]
    runs = [train_tiny(tmp_path / name, data=way) for name, way in zip("xy", ways, strict=True)]
    compare_runs(runs, tmp_path / "out", data=plain)
    assert [spec["state"] for spec in record(tmp_path / "out")["cells"]] == ["finished"] * 2


def test_scores_on_different_images_are_refused(two_runs: list[Path], tmp_path: Path) -> None:
    compare_runs(two_runs, tmp_path)
    files = list((two_runs[1] / "evaluations").iterdir())
    kept = [file.read_text() for file in files]
    for file, text in zip(files, kept, strict=True):
        other = json.loads(text)
        other["protocol"]["test_fingerprint"] = "other images"
        file.write_text(json.dumps(other))
    with pytest.raises(UsageError, match="scored differently: test_fingerprint"):
        compare_runs(two_runs, tmp_path)
    for file, text in zip(files, kept, strict=True):
        file.write_text(text)


def test_an_unfinished_run_is_refused(
    tmp_path: Path, at_step: Callable[..., None], two_runs: list[Path]
) -> None:
    at_step(2, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StoppedError):
        train_tiny(tmp_path / "half", steps=60)
    with pytest.raises(UsageError, match=r"half is not finished; continue it with .* --resume"):
        compare_runs([two_runs[0], tmp_path / "half"], tmp_path / "out")


def test_a_run_given_twice_is_refused(two_runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is given twice"):
        compare_runs([two_runs[0], two_runs[0] / ".." / "plain"], tmp_path)


def test_runs_and_a_grid_are_two_things(two_runs: list[Path], tmp_path: Path) -> None:
    for runs, objectives in (([], []), (two_runs, ["emp"])):
        with pytest.raises(UsageError, match="either runs to compare, or --objectives"):
            compare_any(runs, data="digits", out=tmp_path, objectives=objectives)


def test_a_run_is_no_place_for_a_comparison(two_runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="an --out of its own"):
        compare_runs(two_runs, two_runs[0])


# The page.


def test_the_page_needs_nothing_from_elsewhere(grid: tuple[Path, Comparison]) -> None:
    page = (grid[0] / "compare.html").read_text()
    elements = Elements(page).found
    links = [a[k] for _, a in elements for k in ("src", "href") if k in a]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert not {"link", "iframe", "object", "img"} & {tag for tag, _ in elements}
    assert [a for tag, a in elements if tag == "script"] == [{}]  # and its text is in the page
    assert not re.search(r"url\(|@import|https?://|fetch\(", page)


def test_every_plot_says_in_words_what_it_shows(grid: tuple[Path, Comparison]) -> None:
    drawings = [a for tag, a in Elements((grid[0] / "compare.html").read_text()).found
                if tag == "svg" and not a.get("aria-hidden")]  # fmt: skip
    labels = [a["aria-label"] or "" for a in drawings]
    axes = [label.partition(":")[0] for label in labels]
    # Patches, and PFLOP of one network, are the same for all: that is said, and not drawn.
    plots = [
        f"ridge {layer} against {axis}" for layer in ("head", "backbone", "joint")
        for axis in ("patches of an image in a step, n", "seconds of training")
    ]  # fmt: skip
    curves = [
        f"{name} against patches seen, n = {n}; at the end"
        for n in (2, 4) for name in ("coding_rate_ratio", "alignment", "uniformity")
    ]  # fmt: skip
    kinds = [(label, n) for label in ("emp", "weak") for n in (2, 4)]
    maps = [f"Map of 80 test images by {label}, n = {n}, colored by class" for label, n in kinds]
    assert axes == [*plots, *curves, *maps]
    values = scores_of(grid[0], "weak", 4, "ridge", "head")
    assert f"weak, n = 4: {statistics.mean(values):.1f}" in labels[0]
    page = (grid[0] / "compare.html").read_text()
    assert page.count("The same for all: 64 patches seen;") == 3


def test_unequal_efforts_are_drawn(tmp_path: Path) -> None:
    runs = [train_tiny(tmp_path / name, steps=s) for name, s in (("short", 2), ("long", 8))]
    compare_runs(runs, tmp_path / "out")
    page = (tmp_path / "out" / "compare.html").read_text()
    for axis in ("patches seen", "PFLOP", "seconds of training"):
        assert f'aria-label="knn head against {axis}:' in page


def test_names_on_the_page_are_shown_and_never_obeyed(copy: Path) -> None:
    run = Run(copy / "runs" / "emp-n2-seed0")
    run.environment = run.environment | {"device": "</script><script>alert(1)</script>"}
    compare(copy)
    page = (copy / "compare.html").read_text()
    assert "alert(1)" in page
    assert page.count("<script") == 1


def test_maps_are_of_the_same_images_with_the_same_parameters(
    grid: tuple[Path, Comparison],
) -> None:
    found = maps(grid[1])
    assert [(panel.row.label, panel.row.n) for panel in found.panels] == [
        ("emp", 2), ("emp", 4), ("weak", 2), ("weak", 4),
    ]  # fmt: skip
    dots = [sum(group.path.count("M") for group in panel.groups) for panel in found.panels]
    assert dots == [found.images] * 4 == [TEST] * 4
    assert "t-SNE of 80 embeddings" in found.method
    assert "perplexity 26.3, seed 0" in found.method
    points = [np.array(re.findall(r"M(\d+) (\d+)", "".join(g.path for g in panel.groups)), float)
              for panel in found.panels]  # fmt: skip
    for own in points:  # one frame holds all of them, around one middle
        np.testing.assert_allclose(own.mean(0), points[0].mean(0), atol=1)
        assert (own >= 0).all()
        assert (own <= [found.width, found.height]).all()


def test_maps_that_are_kept_are_not_made_again(
    grid: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = maps(grid[1])
    monkeypatch.delattr(Encoder, "embed")
    assert maps(grid[1]) == before


def test_a_map_of_earlier_weights_is_made_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = copy / "cells" / "emp-n2-seed0.map"
    content = json.loads(kept.read_text())
    content["of"]["model"] = "earlier"
    kept.write_text(json.dumps(content | {"points": [[0.0, 0.0]] * TEST}))
    compare(copy)
    assert json.loads(kept.read_text())["points"][0] != [0.0, 0.0]


def test_images_that_are_gone_leave_a_page_without_maps(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise DataError("digits are not there")

    monkeypatch.setattr("empssl.experiments.maps.open_images", gone)
    compare(copy)
    assert "emp-n2-seed0 has no map: digits are not there." in (copy / "compare.html").read_text()


def test_the_table_has_what_the_script_sorts_by(grid: tuple[Path, Comparison]) -> None:
    page = (grid[0] / "compare.html").read_text()
    (table,) = re.findall(r'<table class="compared sortable".*?</table>', page, re.DOTALL)
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
    rows = re.findall(r"<tr class=.*?</tr>", table, re.DOTALL)
    at = heads.index("knn head")
    for row in rows:
        specs = re.findall(r"<td([^>]*)>", row)
        assert len(specs) == len(heads)
        assert re.search(r'data-value="[\d.]+"', specs[at])  # the mean, without its range


def test_names_at_the_ends_of_lines_do_not_cover_each_other() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 5, 9):
        wanted = sorted(generator.uniform(0, 100, count).tolist())
        found = apart(wanted, 100.0)
        assert all(b - a >= 12 - 1e-9 for a, b in pairwise(found))
        assert found[0] >= -1e-9
        assert found[-1] <= 100 + 1e-9
    assert apart([10.0, 40.0, 90.0], 100.0) == [10.0, 40.0, 90.0]  # nobody is moved without need


# The command line.


WORDS = [
    "compare", "--data", "digits", "--recipe", "demo", "--batch", "8", "--backbone.width", "4",
    "--projector.hidden", "16", "--projector.dim", "8", "--whitened", "64", "--patches", "2",
    "--precision", "32-true", "--equal", "patches=64", "--probes", "knn", "--crops", "grid1",
]  # fmt: skip


def test_the_command_prints_the_table_or_json(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--objectives", "emp", "--seeds", "0", "1", "--out", str(copy)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == (copy / "compare.md").read_text()
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record(copy)
    assert cli.main([*words, "--dry-run"]) == 0
    assert "0 of 2 runs to train" in capsys.readouterr().out


def test_settings_of_an_objective_are_yaml_on_the_command_line(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "weak: {name: emp, invariance_weight: 5, optimizer: {lr: 0.1}}"
    assert cli.main([*WORDS, "--objectives", "weak", "--set", own, "--out", str(copy)]) == 0
    assert "| weak " in capsys.readouterr().out  # the runs that are there have these settings


def test_a_failed_cell_has_an_exit_code_of_its_own(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "broken: {name: emp, invariance_weight: 1.0e+300}"
    assert cli.main([*WORDS, "--objectives", "broken", "--set", own, "--out", str(copy)]) == 10
    assert "empssl: 1 of 1 runs failed: broken-n2-seed0" in capsys.readouterr().err


def test_runs_are_given_by_place(tmp_path: Path) -> None:
    values, _ = cli.parse(
        "compare", empssl.compare, ["runs/a", "runs/b", "--data", "digits", "--out", "x"]
    )
    assert values["runs"] == ["runs/a", "runs/b"]
