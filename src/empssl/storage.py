"""Files that outlast a crash: written whole and to the disk, and held by one process at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from empssl.errors import CheckpointError, RunInUseError

PARTIAL = ".partial-"


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until its content is on the disk; its name may still not be."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, where they are not there yet, and wait for the disk."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync(folder.parent)


def replace(path: Path, content: str | bytes) -> None:
    """Replace a small file: the old content or the new one, never a part.

    Raises:
        CheckpointError: the storage refused.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    with writing(path):
        try:
            write(partial, content.encode() if isinstance(content, str) else content)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writes of this folder's files left behind when they were interrupted."""
    for partial in folder.glob(f".*{PARTIAL}*"):
        discard(partial)


def discard(path: Path) -> None:
    """Remove a file or folder as far as the storage allows; for what does no harm if it stays."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # which raises nevertheless, now and then
        else:
            path.unlink(missing_ok=True)


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

    Who removes the file does so last, while holding it. Else two processes could each hold a file
    of its name.

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
        with writing(what):
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                raise RunInUseError(
                    f"{what} is in use by {stream.read().strip() or 'another process'}"
                ) from error
            if not _is_at(stream, file):
                raise RunInUseError(f"{what} was in use until now; try again")
        with suppress(OSError):  # who holds it is good to know, but a full disk may refuse
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {os.uname().nodename}")
            stream.flush()
        yield


def _is_at(stream: TextIO, path: Path) -> bool:
    """Whether a path still leads to the file that was opened by it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
