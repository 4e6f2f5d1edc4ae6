"""Files that are replaced whole, and files that one process at a time holds."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from empssl.errors import CheckpointError, RunInUseError


def replace(path: Path, text: str) -> None:
    """Replace a small text file: the old content or the new one, never a part.

    Raises:
        CheckpointError: the storage refused.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path):
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the place where the storage refused.

    Raises:
        CheckpointError: it did.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error}") from error


@contextmanager
def hold(file: Path, what: Path) -> Iterator[None]:
    """Keep other processes from what a lock file stands for; freed by the system when one dies.

    Args:
        file: the lock; made if it is not there.
        what: what it stands for, for the message.

    Raises:
        RunInUseError: another process holds it.
        CheckpointError: the storage refused.
    """
    with writing(what):
        stream = open(file, "a+")  # noqa: SIM115 (closed below)
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise RunInUseError(
                f"{what} is in use by {stream.read().strip() or 'another process'}"
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {os.uname().nodename}")
        stream.flush()
        yield
