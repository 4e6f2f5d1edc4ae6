"""What can go wrong, and the exit code by which a script can tell which it was.

Every message says what was given, what was expected and what to do.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class EmpsslError(Exception):
    """Base of all errors that are not a bug. The command line prints only its message."""

    exit_code = 1


class UsageError(EmpsslError, ValueError):
    """A command, an option or a combination of options that cannot be carried out."""

    exit_code = 2


class DataError(EmpsslError):
    """No usable images, too many bad ones, or not the images the run was started with."""

    exit_code = 3


class CheckpointError(EmpsslError):
    """A checkpoint or run directory that is missing, damaged, foreign or cannot be written."""

    exit_code = 4


class DivergenceError(EmpsslError):
    """A loss or gradient that is not finite. No weight that is kept has changed.

    Args:
        message: what was not finite, and where it was first.
        rows: the images of this process's share of the batch in which it began; empty where that
            cannot be told.
    """

    exit_code = 5

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class OutOfMemoryError(EmpsslError):
    """Not enough memory, and nothing smaller left to try."""

    exit_code = 7


class RunInUseError(EmpsslError):
    """Another process is writing to this run directory."""

    exit_code = 8


class RankError(EmpsslError):
    """Another process of the same run failed.

    Args:
        message: which one, and why.
        exit_code: that of the cause; 9 where it had no time to say one.
        reported: whether a process has told the user already.
    """

    exit_code = 9

    def __init__(self, message: str, exit_code: int = exit_code, *, reported: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.reported = exit_code, reported


class FailedRunsError(EmpsslError):
    """Cells of a comparison that have no result. The others are in its table."""

    exit_code = 10


class StoppedError(EmpsslError):
    """The user or the system asked the run to stop. It can be resumed.

    Args:
        message: where it stopped and how to go on.
        exit_code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# After the choices of a table to which users may add.
OR_PLUGIN = "a name that a module of yours adds needs --plugin MODULE, or its import"


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint for an unknown `word`: the nearest choice if there is one, and all of them.

    >>> nearest("empp", ["emp", "vicreg"])
    "did you mean 'emp'? Choose from: emp, vicreg"
    """
    names = sorted(choices)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Choose from: {', '.join(names)}"
