"""Several processes end together, are started alike, and go on where others left off."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ranks
from bad_images import photo
from conftest import in_memory
from tiny import SETTINGS, command, train_tiny, weights

from empssl.data.sampler import Sampler
from empssl.distributed import watchdog
from empssl.errors import UsageError
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training import train as train_module
from empssl.training import trainer
from empssl.training.train import train

Ends = dict[str, dict[str, Any]]  # by case
SECONDS = 10  # from a fault until all processes are gone: what is promised
STEPS = 9
EPOCHS = {"epochs": 0.05, "precision": "64-true"}  # what `ranks` trains: 9 steps
CAUSES = {
    "kill": r"empssl: process {who} is gone, in step 2; continue with --resume",
    "raise": r"RuntimeError: planted\nin process {who} of 2, in step 2",
    "hang": r"empssl: process {who} did not go on, no step for {patience} s: .*process {who} in "
    r"step 2 at faulty \(ranks.py:\d+\).*; continue with --resume",
    "skip": r"empssl: the processes wait for different things, no step for {patience} s: .*process "
    r"{who} in step 2 at all_reduce_max .*; continue with --resume",
}
PLAN = "reading images|training: |empssl: 1,437 of|empssl: 10 classes in 1437 train images"
DIFFERENCES = {
    "settings": "seed is 0 in process 0 and 1 in process 1",
    "data": "the images' fingerprint is '[0-9a-f]{64}' in process 0 and 'another' in process 1",
    "code": "empssl's code is '[0-9a-f]{12}' in process 0 and 'another' in process 1",
}


def images(folder: Path, broken: int) -> Path:
    folder.mkdir()
    for number in range(24):
        (folder / f"{number:02d}.png").write_bytes(photo(number, side=16))
    for number in range(broken):
        (folder / f"broken-{number}.png").write_bytes(photo(number, side=16)[:60])
    return folder


def draws(path: Path) -> dict[int, list[int]]:
    """The samples of each step."""
    return dict(map(json.loads, path.read_text().splitlines()))


def train_noted(out: Path, patch: pytest.MonkeyPatch, **changes: Any) -> dict[int, list[int]]:
    """Train in this process alone; the samples of each step."""
    path = out.with_suffix(".samples")
    patch.setattr(Sampler, "draw", ranks.noting(Sampler.draw, path))
    train_tiny(out, **EPOCHS | changes)
    return draws(path)


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in Run(run).metrics()]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    yield from in_memory()


@pytest.fixture(scope="module")
def one(folder: Path) -> tuple[Path, dict[int, list[int]]]:
    """A run of one process that nothing happened to, and its samples."""
    with pytest.MonkeyPatch.context() as patch:
        return folder / "one", train_noted(folder / "one", patch)


def ends_of(cases: list[str], folder: Path) -> Ends:
    """How two processes came through each case."""
    done = subprocess.run(
        [sys.executable, ranks.__file__, str(folder), *cases], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(end["case"] for end in found) == sorted(cases)
    return {end["case"]: end for end in found}


@pytest.fixture(scope="module")
def failed(folder: Path) -> Ends:
    return ends_of(ranks.FAULTS, folder)


@pytest.fixture(scope="module")
def refused(folder: Path) -> Ends:
    return ends_of(ranks.UNLIKE, folder)


@pytest.fixture(scope="module")
def ends(folder: Path) -> Ends:
    images(folder / "bad.images", broken=4)  # at most 5 of 28 may be
    images(folder / "too-many.images", broken=8)  # at most 6 of 32
    save = Run.save_checkpoint

    def save_and_stop(run: Run, step: int, content: Checkpoint) -> None:
        save(run, step, content)
        if step == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(Run, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(folder / "resume-it", **EPOCHS)
    return ends_of(ranks.OTHERS, folder)


# Faults


def test_there_are_8_faults() -> None:
    assert len(ranks.FAULTS) == 8


@pytest.mark.parametrize("fault", ranks.FAULTS)
def test_after_a_fault_all_processes_end_and_one_says_why(fault: str, failed: Ends) -> None:
    end, (kind, who) = failed[fault], fault.split()
    code = 1 if kind == "raise" else 9
    assert end["codes"] == [-9 if fault == f"kill {rank}" else code for rank in range(2)]
    lines = [line for line in end["said"].splitlines() if not re.match(PLAN, line)]
    assert sum(line.startswith(("empssl", "Traceback")) for line in lines) == 1
    if kind != "raise":  # which is a bug, and leaves its traceback
        assert len(lines) == 1
    assert re.search(CAUSES[kind].format(who=who, patience=ranks.PATIENCE) + "$", "\n".join(lines))


@pytest.mark.parametrize("fault", ranks.FAULTS)
def test_after_a_fault_the_checkpoint_of_the_last_step_is_whole(
    fault: str, folder: Path, failed: Ends
) -> None:
    saved, _, problems = Run(folder / failed[fault]["case"].replace(" ", "-")).load_checkpoint()
    assert (saved.state["step"], problems) == (ranks.STEP, [])


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Store(dict[str, Any]):
    """What two processes tell each other, without processes."""

    set = dict.__setitem__
    get = dict.__getitem__  # type: ignore[assignment]

    def check(self, keys: list[str]) -> bool:
        return keys[0] in self

    def multi_get(self, keys: list[str]) -> list[Any]:
        return [self[key] for key in keys]

    def compare_set(self, key: str, _: str, value: Any) -> Any:
        return self.setdefault(key, value)


class Left(Exception):  # noqa: N818 (it is what a process does)
    """In place of the end of a process."""


@dataclass
class Wait:
    """In place of the event that ends a watch: time passes, and another process says something."""

    clock: Clock
    other: Callable[[], None]

    def wait(self, seconds: float) -> bool:
        self.clock.sleep(seconds)
        self.other()
        return False


def watch_of(rank: int, clock: Clock, store: Store, other: Callable[[], None]) -> Any:
    """The watch of one of two processes that have begun a step."""
    watch = object.__new__(watchdog._Watch)
    watch.rank, watch.world, watch.patience = rank, 2, float(ranks.PATIENCE)
    watch.store, watch._ended, watch._verdict = store, Wait(clock, other), None  # type: ignore
    watch._main, watch._count, watch._heard = None, 0, dict.fromkeys(range(2), (0, clock.now))
    watch.begin(ranks.STEP)
    return watch


@pytest.mark.parametrize("rank", range(ranks.WORLD))
@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_all_that_is_waited_for_after_a_fault_takes_less_than_ten_seconds(
    kind: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own: a process whose main thread never wakes ends itself."""
    clock, store, said = Clock(), Store(), itertools.count(2)
    beat = {"step": ranks.STEP, "place": "here", "waits": True}

    def other() -> None:
        if kind == "hang":  # it lives, and hears why the run ends
            store[f"beat {1 - rank}"] = json.dumps(beat | {"count": next(said)})
            if "cause" in store:
                store[f"heard {1 - rank}"] = ""

    def leave(*_: Any) -> None:
        _[1]()
        raise Left

    store[f"beat {1 - rank}"] = json.dumps(beat | {"count": 1})
    monkeypatch.setattr(watchdog, "time", clock)
    monkeypatch.setattr(watchdog, "_end", leave)
    with pytest.raises(Left):
        watch_of(rank, clock, store, other)._watch()
    assert ranks.PATIENCE < clock.now <= SECONDS


# Starts


@pytest.mark.parametrize("what", ranks.UNLIKE)
def test_processes_started_unlike_each_other_are_refused(
    what: str, folder: Path, refused: Ends
) -> None:
    assert refused[what]["codes"] == [2, 2]
    lines = refused[what]["said"].splitlines()
    said = [line for line in lines if line.startswith("empssl") and not re.match(PLAN, line)]
    assert len(said) == 1
    assert re.match(f"empssl: {DIFFERENCES[what]}; start all with the same command", said[0])
    assert not (folder / what).exists()


# Going on


def test_two_processes_see_the_samples_of_one(
    folder: Path, one: tuple[Path, dict[int, list[int]]], ends: Ends
) -> None:
    assert ends["whole"]["codes"] == [0, 0]
    shares = [draws(folder / f"whole.samples{rank}") for rank in range(2)]
    assert {step: shares[0][step] + shares[1][step] for step in range(STEPS)} == one[1]


def test_one_process_goes_on_where_two_stopped(
    folder: Path,
    one: tuple[Path, dict[int, list[int]]],
    ends: Ends,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ends["stop"]["codes"] == [130, 130]
    assert len(Run(folder / "stop").metrics()) == ranks.STEP + 1
    samples = train_noted(folder / "stop", monkeypatch, epochs=None, resume=True)
    assert samples == {step: one[1][step] for step in range(ranks.STEP + 1, STEPS)}
    assert losses(folder / "stop") == pytest.approx(losses(one[0]), rel=1e-6)


def test_two_processes_go_on_where_one_stopped(
    folder: Path, one: tuple[Path, dict[int, list[int]]], ends: Ends
) -> None:
    assert ends["resume it"]["codes"] == [0, 0]
    shares = [draws(folder / f"resume-it.samples{rank}") for rank in range(2)]
    joined = {step: shares[0][step] + shares[1][step] for step in shares[0]}
    assert joined == {step: one[1][step] for step in range(4, STEPS)}
    assert losses(folder / "resume-it") == pytest.approx(losses(one[0]), rel=1e-6)


# Launchers

DEAD = """
import os, signal, sys
from empssl import __main__
from empssl.training import trainer
if os.environ.get("LOCAL_RANK") == "1":
    {}
__main__.run()
"""
DEATHS = {
    "before the run began": (
        "sys.exit(3)", "process 1 ended with exit code 3 before the run began"
    ),
    "in a step": (
        "trainer.training_step = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)",
        "process 1 was ended by signal 9 (SIGKILL), in step 0; continue with --resume",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("when", DEATHS)
def test_a_process_that_the_first_one_started_ends_it(when: str, tmp_path: Path) -> None:
    act, said = DEATHS[when]
    (tmp_path / "dead.py").write_text(DEAD.format(act))  # a file, as it is run again
    words = command(tmp_path / "run", "--devices", "2")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "dead.py"), *words], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 9
    assert [line for line in done.stderr.splitlines() if line.startswith("empssl: process")] == [
        f"empssl: {said}"
    ]


DYING = """
import os, signal, sys
from empssl import __main__
from empssl.training import trainer
step, seen = trainer.training_step, []
def dying(*a, **k):
    seen.append(0)
    if len(seen) == 4 and os.environ["RANK"] == "1" and not int(
        os.environ["TORCHELASTIC_RESTART_COUNT"]
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*a, **k)
trainer.training_step, trainer.CHECKPOINT_SECONDS = dying, 0.0
__main__.run()
"""


@pytest.mark.slow
def test_a_run_that_torchrun_starts_again_ends_with_equal_weights(
    folder: Path, ends: Ends, tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    words = command(tmp_path / "run", "--precision", "64-true", "--epochs", "0.05")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--max-restarts", "1", "--monitor-interval", "0.2", str(tmp_path / "dying.py"), *words],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [entry["step"] for entry in Run(tmp_path / "run").metrics()] == list(range(STEPS))
    found, expected = weights(tmp_path / "run"), weights(folder / "whole")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["mine", "none"])  # the second is torchrun's where none is given
def test_a_run_of_another_launch_is_not_gone_on_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train_tiny(tmp_path / "run", steps=2)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: False)
    with pytest.raises(UsageError, match="exists; continue it with --resume"):
        train_tiny(out, steps=2)
    train_tiny(out, steps=1, overwrite=True)  # nor where this launch failed before it replaced it
    assert len(Run(out).metrics()) == 1


# Bad images


def ledger(run: Path) -> list[tuple[str, int]]:
    rows = map(json.loads, Run(run).bad_samples_path.read_text().splitlines())
    return sorted((row["name"], row["step"]) for row in rows)


def test_bad_images_of_all_processes_are_written_down(
    folder: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ends["bad"]["codes"] == [0, 0]
    monkeypatch.setattr(train_module, "in_memory", lambda images, **_: images)
    changes = EPOCHS | {"epochs": 3.0, "image_side": 16}
    train(str(folder / "bad.images"), out=tmp_path / "one", **SETTINGS | changes)
    assert ledger(folder / "bad") == ledger(tmp_path / "one")
    assert len(ledger(folder / "bad")) == 4


def test_too_many_bad_images_in_all_processes_end_all_of_them(
    ends: Ends,
) -> None:
    assert ends["too many"]["codes"] == [3, 3]
    assert ends["too many"]["said"].count("7 of 32 images cannot be used") == 1
