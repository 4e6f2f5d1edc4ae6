"""Ctrl-C and SIGTERM, whenever they come: the step is finished and kept; the exit code says so.

How long that takes is told in steps: no test here has a clock.
"""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lives
import pytest
from bad_images import photo
from test_crashes import finish, mismatches, whole
from tiny import start
from victim import Death, Victim

from empssl.runs.run import Run

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
__all__ = ["whole"]


@dataclass(frozen=True)
class Phase:
    """When a signal comes to a run, and the steps that are done when it ends."""

    where: str
    call: int = 0
    when: str = "before"
    steps: int | None = None  # None: nothing was begun


TRAINING = {
    "listing the images": Phase("empssl.data.folder:list_images"),
    "the first batch": Phase("empssl.data.sampler:Sampler.draw", 0, steps=1),
    "the middle of a step": Phase("empssl.optim:LARS.step", 2, steps=3),
    # That of step 2: the signal is seen when step 3 is done.
    "a checkpoint being written": Phase("empssl.runs.files:write", 11, steps=3),
    "the last step": Phase("empssl.optim:LARS.step", lives.STEPS - 1, steps=lives.STEPS),
}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", TRAINING)
def test_training_stops_after_the_step_and_goes_on_to_the_same_end(
    phase: str, number: signal.Signals, images: Path, whole: Path, quick: Path
) -> None:
    found, run = TRAINING[phase], quick / "run"
    death = Death(found.where, found.call, found.when, number)  # type: ignore[arg-type]
    end = Victim(lives.typed, lives.train_command(images, run), death=death).end()
    last = end.error.splitlines()[-1]
    if found.steps is None:
        assert (end.code, last) == (SIGNALS[number], "empssl: interrupted")
        assert not run.exists()
        return
    assert Run(run).load_checkpoint()[0].state["step"] == len(Run(run).metrics()) == found.steps
    if found.steps == lives.STEPS:
        assert end.code == 0
    else:
        assert end.code == SIGNALS[number]
        assert last.startswith(f"empssl: stopped after step {found.steps} of {lives.STEPS}")
        finish(images, run)
    different = set(mismatches(whole, run)) - {"config.yaml"}  # it was another command's
    assert different == set()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_embedding_stops_after_the_batch_and_goes_on_from_there(
    number: signal.Signals, images: Path, whole: Path, quick: Path
) -> None:
    words = ["embed", str(whole), str(images), "--out", str(quick / "out.parquet")]
    death = Death("empssl.evaluation.encoder:Encoder.embed", 2, number=number)
    end = Victim(lives.typed, words, death=death).end()
    assert end.code == SIGNALS[number]
    assert "stopped after image 12 of 26" in end.error.splitlines()[-1]
    again = Death("empssl.evaluation.encoder:Encoder.embed", 4)  # of the 7 batches 3 are there
    assert Victim(lives.typed, words, death=again).end().code == 0


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_evaluating_stops_and_leaves_nothing(
    number: signal.Signals, whole: Path, quick: Path
) -> None:
    for i in range(20):
        (quick / "classes" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        (quick / "classes" / str(i % 2) / f"{i}.png").write_bytes(photo(i, side=16))
    death = Death("empssl.evaluation.encoder:Encoder.embed_growing", number=number)
    words = ["evaluate", str(whole), str(quick / "classes")]
    end = Victim(lives.typed, words, death=death).end()
    assert (end.code, end.error.splitlines()[-1]) == (SIGNALS[number], "empssl: interrupted")
    assert Run(whole).evaluations() == []


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_modules_are_imported_ends_the_command(
    number: signal.Signals, quick: Path
) -> None:
    """Also where the module that is being imported answers it with an error, as NumPy's does."""
    script = (
        "import builtins, signal, sys\n"
        f"signal.signal({int(signal.SIGINT)}, signal.default_int_handler)\n"
        "original = builtins.__import__\n"
        "def planted(name, *rest):\n"
        "    if name.startswith('torch.nn'):\n"
        "        builtins.__import__ = original\n"
        "        try:\n"
        f"            signal.raise_signal({int(number)})\n"
        "        except BaseException as error:\n"
        "            raise ImportError('the C-extensions failed') from error\n"
        "    return original(name, *rest)\n"
        "from empssl.__main__ import run\n"
        "builtins.__import__ = planted\n"
        "run()"
    )
    process = start("train", "digits", "--out", str(quick / "run"), script=script)
    _, error = process.communicate()
    assert (process.returncode, error.strip()) == (SIGNALS[number], "empssl: interrupted")
    assert not (quick / "run").exists()


def test_there_are_8_phases_and_2_signals() -> None:
    phases = [*TRAINING, "embedding", "evaluating", "importing"]
    assert len(phases) * len(SIGNALS) == 16


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_second_signal_ends_it_at_once_and_the_checkpoint_before_is_good(
    number: signal.Signals, images: Path, whole: Path, quick: Path
) -> None:
    run = quick / "run"
    death = Death("empssl.runs.files:write", 11, number=number, times=2)
    end = Victim(lives.typed, lives.train_command(images, run), death=death).end()
    assert (end.code, end.error.splitlines()[-1]) == (SIGNALS[number], "empssl: interrupted")
    assert Run(run).load_checkpoint()[0].state["step"] == 1
    finish(images, run)
    assert set(mismatches(whole, run)) <= {"config.yaml"}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_process_that_waits_for_others_says_so_and_ends_at_a_signal(
    number: signal.Signals, quick: Path
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes the connection, and never answers
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(silent.getsockname()[1]), "RANK": "1",
        "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "empssl", "train", "digits", "--out", str(quick / "run")],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with silent, silent.accept()[0]:
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == SIGNALS[number]
    assert "interrupted while waiting for the 2 processes of this run" in error.splitlines()[-1]


# A log that nobody reads any more


@pytest.mark.parametrize("log", ["full", "gone", "closed"])
def test_training_goes_on_without_its_error_stream(
    log: str, images: Path, whole: Path, quick: Path
) -> None:
    end = Victim(lives.without_log, log, lives.train_command(images, quick / "run")).end()
    assert end.code == 0
    assert set(mismatches(whole, quick / "run")) <= {"config.yaml"}
