"""Whatever a disk refuses, loses or changes: there is a good checkpoint, and it is found."""

import errno
import shutil
from pathlib import Path

import lives
import pytest
import torch
from disk import KILL, SHORT, Disk, materialise, power_losses
from lives import numbered
from tiny import same
from victim import Victim

from empssl.errors import CheckpointError
from empssl.runs.run import Run

CONFIG = {"recipe": "demo", "objective": {"name": "emp"}}
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS)


def begun(path: Path) -> Run:
    """A run with two checkpoints."""
    run = Run.create(path, CONFIG)
    for step in (1, 2):
        run.add_metrics({"step": step - 1})
        run.save_checkpoint(step, numbered(step))
    return run


def calls_of_a_save(folder: Path) -> list[str]:
    run = begun(folder / "counted")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(run.path, patch)
        run.save_checkpoint(3, numbered(3))
    return disk.calls


def loses_nothing(run: Run, fault: int | str) -> None:
    """The newest checkpoint is the old or the new one, and the run goes on from it."""
    found, _, problems = run.load_checkpoint()
    assert len(problems) == (fault == SHORT)  # what was lost on the way is seen and told
    assert found.state["step"] in (2, 3)
    assert same(found, numbered(found.state["step"]))
    with run.lock():
        assert [p.name for p in run.path.rglob("*") if ".partial-" in p.name] == []
        run.save_checkpoint(3, numbered(3))
    assert same(run.load_checkpoint()[0], numbered(3))


def test_no_failing_call_of_a_save_costs_the_last_checkpoint(quick: Path) -> None:
    calls = calls_of_a_save(quick)
    cases = [(at, fault) for at in range(len(calls)) for fault in ERRORS]
    cases += [(at, SHORT) for at, name in enumerate(calls) if name == "write"]
    messages: list[str] = []
    run = begun(quick / "run")
    shutil.copytree(run.path, quick / "kept")
    for at, fault in cases:
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(run.path, patch, failing=at, fault=fault)
            try:
                run.save_checkpoint(3, numbered(3))
            except CheckpointError as error:
                messages.append(str(error))
        assert len(disk.calls) > at
        loses_nothing(run, fault)
        shutil.rmtree(run.path)
        shutil.copytree(quick / "kept", run.path)
    assert len(cases) >= 120
    assert all(str(run.path) in message for message in messages)
    # The others are of removing old ones, which may fail.
    assert len(messages) >= 0.7 * len(cases)


def test_no_kill_during_a_save_costs_the_last_checkpoint(quick: Path) -> None:
    run = begun(quick / "run")
    shutil.copytree(run.path, quick / "kept")
    count = len(calls_of_a_save(quick))
    for at in range(count):
        assert Victim(lives.save_and_die, run.path, at).end().code == -9
        loses_nothing(run, KILL)
        shutil.rmtree(run.path)
        shutil.copytree(quick / "kept", run.path)
    assert count >= 40


def test_no_power_loss_costs_a_checkpoint_that_was_written(quick: Path) -> None:
    path = quick / "disk" / "run"
    path.parent.mkdir()
    written: list[int] = []  # by checkpoint, how much of the log is behind it
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(path.parent, patch)
        with Run.creating(path, CONFIG) as run:
            run.plan = {"steps": 3}
            planned = len(disk.log)
            for step in (1, 2, 3):
                run.add_metrics({"step": step - 1})
                run.save_checkpoint(step, numbered(step))
                written.append(len(disk.log))
            run.save_model(numbered(3))
            written.append(len(disk.log))
    states = 0
    for at, state in power_losses(path.parent, disk.log):
        states += 1
        place = quick / "states" / "now"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        materialise(state, path.parent, place)
        assert at < planned or Run(place / "run").plan == {"steps": 3}
        promised = sum(behind <= at for behind in written)
        where = f"after {at} of {len(disk.log)}, {disk.log[at - 1][:2]}"
        survives(place / "run", min(promised, 3), where)
        if promised == 4:
            assert same(Run(place / "run").load_model()[0], numbered(3)), where
    assert states >= 500


def survives(path: Path, promised: int, where: str) -> None:
    """A checkpoint that was written before is there, with the metrics that belong to it."""
    if promised == 0 and not (path / "config.yaml").exists():
        Run.check_free(path, overwrite=False)  # a new run may be made here
        return
    run = Run(path)
    assert run.config == CONFIG, where
    if promised == 0 and not run.has_checkpoints:
        return
    assert run.plan == {"steps": 3}, where
    found, *_ = run.load_checkpoint()
    step = found.state["step"]
    assert step >= promised, where
    assert same(found, numbered(step)), where
    run.trim_metrics(step)
    assert [entry["step"] for entry in run.metrics()] == list(range(step)), where


def test_200_flipped_bytes_and_cut_files_are_caught_and_named(quick: Path) -> None:
    run = begun(quick / "run")
    newest = run.path / "checkpoints" / "step-000000002"
    files = sorted(newest.iterdir())
    draw = torch.Generator().manual_seed(0)
    caught = 0
    for case in range(200):
        path = files[case % len(files)]
        whole = path.read_bytes()
        at = int(torch.randint(len(whole), (), generator=draw))
        bit = 1 << int(torch.randint(8, (), generator=draw))
        cut = case % 5 == 4
        path.write_bytes(whole[:at] + (b"" if cut else bytes([whole[at] ^ bit]) + whole[at + 1 :]))
        found, folder, (problem,) = run.load_checkpoint()
        assert (folder.name, found.state["step"]) == ("step-000000001", 1)
        assert newest.name in problem
        assert path.name in problem or path.name == "manifest.json"
        caught += 1
        path.write_bytes(whole)
    assert caught == 200
    assert {path.name for path in files} == {
        "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json",
    }  # fmt: skip


# A disk that is really full, as far as a process without rights can make it so


@pytest.mark.parametrize("size", [1_000, 10_000, 40_000])
def test_a_disk_that_takes_no_more_ends_training_with_4(
    size: int, images: Path, quick: Path
) -> None:
    run = quick / "run"
    end = Victim(lives.with_small_files, size, lives.train_command(images, run)).end()
    assert end.code == 4, end.error
    assert "File too large" in end.error.splitlines()[-1]
    assert str(run) in end.error.splitlines()[-1]
    assert "Traceback" not in end.error
