"""Two processes and one run directory: one of them writes to it."""

import fcntl
from pathlib import Path

import lives
import pytest
from victim import Victim

from empssl.runs.run import Run

CONFIG = {"recipe": "demo", "objective": {}, "process": "the first"}
RACES = {"new": 20, "overwrite": 15, "resume": 15}


def test_there_are_as_many_races_as_promised() -> None:
    assert sum(RACES.values()) >= 50


@pytest.mark.parametrize("kind", RACES)
def test_of_two_processes_exactly_one_wins(kind: str, quick: Path) -> None:
    for number in range(RACES[kind]):
        out = quick / str(number)
        if kind != "new":
            Run.create(out, CONFIG)
        both = [Victim(lives.race, kind, out, me) for me in (0, 1)]
        codes = [victim.end().code for victim in both]
        winner, other = codes.index(0), codes[1 - codes.index(0)]
        # One that comes a little later is told that there is a run already.
        assert other in ((8,) if kind == "resume" else (2, 8)), codes
        expected = "the first" if kind == "resume" else winner
        assert Run(out).config["process"] == expected


def test_the_lock_of_a_killed_process_is_taken_over_10_times(quick: Path) -> None:
    run = Run.create(quick / "run", CONFIG)
    for _ in range(10):
        assert Victim(lives.hold_and_die, run.path).end().code == -9
        assert "process" in (run.path / ".lock").read_text()
        with run.lock():
            pass


def test_a_lock_that_was_removed_while_it_was_waited_for_is_none(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from empssl.errors import RunInUseError
    from empssl.runs import files

    file = quick / "lock"
    real = fcntl.flock

    def removed(*arguments: int) -> None:
        real(*arguments)
        file.unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    with pytest.raises(RunInUseError, match="try again"), files.hold(file, quick):
        pass
