import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import start

from empssl.errors import CheckpointError, RunInUseError, UsageError
from empssl.runs import files
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run

CONFIG = {"recipe": "demo", "objective": {"name": "emp"}, "data": "./a folder\nof \udcff images"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG)


def test_what_is_written_is_read_again(run: Run) -> None:
    run.plan = {"steps": 3, "fingerprint": "x"}
    run.environment = {"torch": "2.13"}
    again = Run(run.path)
    assert (again.config, again.plan, again.environment) == (CONFIG, run.plan, run.environment)


def test_parents_are_made(tmp_path: Path) -> None:
    assert Run.create(tmp_path / "a" / "b" / "run", CONFIG).config == CONFIG


def test_an_empty_directory_may_be_used(tmp_path: Path) -> None:
    assert Run.create(tmp_path, CONFIG).path == tmp_path


def test_a_path_without_a_run_is_told_from_one_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run directory"):
        Run(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        Run(tmp_path / "none")


def test_an_existing_run_is_not_replaced_unasked(run: Run) -> None:
    with pytest.raises(UsageError, match="exists"):
        Run.create(run.path, {"recipe": "paper"})
    assert run.config == CONFIG


def test_overwriting_replaces_all_of_a_run(run: Run) -> None:
    run.save_evaluation("knn", {"accuracy": 0.5})
    Run.create(run.path, CONFIG | {"recipe": "paper"}, overwrite=True)
    assert run.config["recipe"] == "paper"
    assert run.evaluations() == []


@pytest.mark.parametrize("config", [None, "name: another program\n", "[1, 2", "", "\x00"])
def test_overwriting_leaves_what_is_no_run_alone(config: str | None, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(UsageError, match="leaves it alone"):
        Run.create(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_leaves_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="leaves it alone"):
        Run.create(tmp_path / "file", CONFIG, overwrite=True)


def test_overwriting_waits_for_no_running_process(run: Run) -> None:
    with run.lock(), pytest.raises(RunInUseError):
        Run.create(run.path, CONFIG, overwrite=True)
    assert run.config == CONFIG


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="file/run could not be written"):
        Run.create(tmp_path / "file" / "run", CONFIG)


# One writer


def test_a_second_writer_is_told_who_the_first_is(run: Run) -> None:
    said = pytest.raises(RunInUseError, match=f"process {os.getpid()} on")
    with run.lock(), said as refused, Run(run.path).lock():
        pass
    assert refused.value.exit_code == 8
    with run.lock():
        pass


def test_of_many_writers_one_wins(run: Run) -> None:
    outcomes: list[str] = []
    gate, done = threading.Barrier(20), threading.Barrier(20)

    def write() -> None:
        gate.wait()
        try:
            with run.lock():
                outcomes.append("won")
                done.wait()
        except RunInUseError:
            outcomes.append("refused")
            done.wait()

    threads = [threading.Thread(target=write) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 19 + ["won"]


def test_the_lock_of_a_killed_process_is_free(run: Run) -> None:
    script = (
        "import sys, time; from empssl.runs.run import Run\n"
        "with Run(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    )
    process = start(str(run.path), script=script)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunInUseError, match=f"process {process.pid}"), run.lock():
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with run.lock():  # which waits for nobody: it is had at once, or refused
        pass


# Files


def test_a_torn_last_line_of_metrics_is_left_out(run: Run) -> None:
    for step in range(3):
        run.add_metrics({"step": step})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 3, "lo')
    assert [entry["step"] for entry in run.metrics()] == [0, 1, 2]


@pytest.mark.parametrize("content", ["", '{"step": 0'])
def test_metrics_without_a_whole_line_are_none(content: str, run: Run) -> None:
    run.metrics_path.write_text(content)
    assert run.metrics() == []


def test_a_run_without_metrics_has_none(run: Run) -> None:
    assert run.metrics() == []


def test_trimming_keeps_the_lines_before_a_step(run: Run) -> None:
    for step in range(4):
        run.add_metrics({"step": step})
    run.metrics_path.write_text(run.metrics_path.read_text() + '{"st')
    run.trim_metrics(2)
    run.add_metrics({"step": 2})
    assert [entry["step"] for entry in run.metrics()] == [0, 1, 2]


def test_trimming_keeps_the_networks_of_steps_that_are_not_taken_again(run: Run) -> None:
    for step in (2, 3, 4):
        run.save_epoch(step / 2, Checkpoint({"model": {}}, {"step": step}))
    (run.path / "epochs" / "1" / "state.json").write_text("{")
    run.trim_epochs(3)
    assert [folder.name for folder in (run.path / "epochs").iterdir()] == ["1.5"]


def test_evaluations_are_kept_by_name(run: Run) -> None:
    run.save_evaluation("linear", {"accuracy": 0.1})
    run.save_evaluation("knn", {"accuracy": 0.2})
    path = run.save_evaluation("linear", {"accuracy": 0.3})
    assert json.loads(path.read_text()) == {"accuracy": 0.3}
    assert run.evaluations() == [{"accuracy": 0.2}, {"accuracy": 0.3}]


@pytest.mark.parametrize("name", ["plan.json", "environment.json", "config.yaml"])
def test_a_damaged_file_is_named(name: str, run: Run) -> None:
    (run.path / name).write_text('{"steps": [')
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        getattr(run, name.partition(".")[0])


def test_an_interrupted_write_keeps_the_old_content(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.plan = {"steps": 1}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"plan\.json could not be written.*No space left"):
        run.plan = {"steps": 2}
    assert run.plan == {"steps": 1}


# The model


def numbered(number: int) -> Checkpoint:
    return Checkpoint({"model": {"w": torch.tensor(number)}}, {})


def test_an_unfinished_run_lends_its_newest_whole_checkpoint(run: Run) -> None:
    run.save_checkpoint(1, numbered(1))
    run.save_checkpoint(2, numbered(2))
    found, folder = run.load_model()
    assert (int(found.tensors["model"]["w"]), folder.name) == (2, "step-000000002")
    (folder / "manifest.json").unlink()
    found, folder = run.load_model()
    assert (int(found.tensors["model"]["w"]), folder.name) == (1, "step-000000001")


def test_a_finished_run_lends_its_model(run: Run) -> None:
    run.save_checkpoint(1, numbered(1))
    run.save_model(numbered(2))
    found, folder = run.load_model()
    assert (int(found.tensors["model"]["w"]), folder.name) == (2, "model")


def test_a_damaged_model_is_refused_and_can_be_written_again(run: Run) -> None:
    run.save_checkpoint(1, numbered(1))
    run.save_model(numbered(2))
    (run.path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="model is damaged"):
        run.load_model()
    run.save_model(numbered(3))
    assert int(run.load_model()[0].tensors["model"]["w"]) == 3


# What is left behind, and what cannot be kept


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_goes_with_the_next_write(run: Run) -> None:
    path = run.save_evaluation("first", {"dataset": "x"})
    alive, dead = (
        files.partial_name(path),
        path.with_name(files.partial_name(path).name.rpartition("-")[0] + f"-{dead_process()}"),
    )
    for partial in (alive, dead):
        partial.write_text("half")
    run.save_evaluation("second", {"dataset": "x"})
    assert (alive.exists(), dead.exists()) == (True, False)


def test_whether_something_can_be_kept_is_known_before(run: Run) -> None:
    before = sorted(run.path.iterdir())
    assert run.why_not_kept("evaluations") == ""
    assert sorted(run.path.iterdir()) == before  # a question leaves nothing behind
    (run.path / "quality").write_text("a file")
    assert "quality could not be written" in run.why_not_kept("quality")


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 200, "中" * 255, "\udcff" * 200])
def test_long_names_are_shortened_and_stay_apart(name: str, run: Run) -> None:
    for ending in ("a", "b"):
        run.save_evaluation(f"{name}{ending}", {"dataset": "x"})
    assert len(run.evaluations()) == 2


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "a+b"])
def test_what_is_no_file_of_its_own_is_not_written_to(mode: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("years of work")
    os.symlink(mine, tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    os.link(mine, tmp_path / "hard")
    for name in ("link", "pipe", "folder", "hard"):
        with pytest.raises(OSError, match=name):
            files.open_regular(tmp_path / name, mode)
    assert mine.read_text() == "years of work"


def test_a_file_that_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    os.symlink(tmp_path / "mine", tmp_path / "link")
    with files.open_regular(tmp_path / "link", follow=True) as file:
        assert file.read() == b"text"
    with pytest.raises(OSError, match="is a link"):
        files.open_regular(tmp_path / "link")
