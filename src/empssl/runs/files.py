"""Files that outlast a crash: written whole and to the disk, and held by one process at a time.

Everything in a run directory is opened here. Its files may have come from somebody else, so links
are not followed, pipes are not waited for, and no file is written to that has a second name.
"""

import hashlib
import json
import os
import platform
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from empssl.errors import CheckpointError, RunInUseError

PARTIAL = ".partial-"
_MOST_NAME = 100  # bytes of a file name, so that what is put around it fits into the usual 255


def open_regular(
    path: Path, mode: Literal["rb", "wb", "ab", "r+b", "a+b"] = "rb", *, follow: bool = False
) -> BinaryIO:
    """Open a regular file, and nothing else: no link, pipe or device.

    Args:
        path: of the file; its folders may be links (see `check_no_links`).
        mode: as in `open`.
        follow: read what a link leads to; for files that the user names, not for those of a run.

    Raises:
        OSError: it cannot be opened, or is something else.
    """

    def opener(name: str, flags: int) -> int:
        # Emptied only once it is known what it is. Without O_NONBLOCK a pipe would be waited for.
        nofollow = 0 if follow else os.O_NOFOLLOW
        flags = flags & ~os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | nofollow
        try:
            handle = os.open(name, flags, 0o666)
        except OSError:
            if os.path.islink(name) and not follow:
                raise OSError(f"{path} is a link, and links in it are not followed") from None
            raise
        try:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(f"{path} is a folder, pipe, socket or device, expected a file")
            if mode != "rb" and info.st_nlink > 1:
                raise OSError(f"{path} has another name (a hard link), so it is not written to")
            if mode == "wb":
                os.ftruncate(handle, 0)
        except BaseException:
            os.close(handle)
            raise
        return handle

    return open(path, mode, opener=opener)


def check_no_links(root: Path, *names: str) -> Path:
    """The path of something in a directory, after seeing that no link leads out of it.

    Args:
        root: the directory, which may be a link itself.
        names: of the folders on the way, and of the file or folder.

    Raises:
        CheckpointError: one of them is a link.
    """
    path = root
    for name in names:
        path = path / name
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a link, and links in {root} are not followed; put there what it "
                "leads to"
            )
    return path


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until its content is on the disk; its name may still not be."""
    with open_regular(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def append(path: Path, line: str) -> None:
    """Add a line to a file, which is made if it is not there; it may still not be on the disk.

    Raises:
        CheckpointError: the storage refused.
    """
    with writing(path), open_regular(path, "ab") as file:
        file.write(line.encode() + b"\n")


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
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


def fitting(name: str) -> str:
    """A file name that is no longer than file systems take, unlike that of any other text.

    >>> fitting("digits"), len(fitting("x" * 300)), len(fitting("ü" * 300).encode()) <= 100
    ('digits', 100, True)
    """
    data = os.fsencode(name)
    if len(data) <= _MOST_NAME:
        return name
    return data[: _MOST_NAME - 9].decode("utf-8", "ignore") + f"-{short_hash(name)}"


def partial_name(path: Path) -> Path:
    """Where a file or folder is written before it gets its name; each process has its own."""
    return path.with_name(f".{path.name}{PARTIAL}{_host()}-{os.getpid()}")


def replace(path: Path, content: str | bytes) -> None:
    """Replace a small file: the old content or the new one, never a part.

    What killed processes left beside it of the same kind is removed.

    Raises:
        CheckpointError: the storage refused.
    """
    partial = partial_name(path)
    with writing(path):
        sweep_dead(path.parent)
        try:
            write(partial, content.encode() if isinstance(content, str) else content)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writes of this folder's files left behind; only while nobody else writes."""
    for partial in folder.glob(f".*{PARTIAL}*"):
        discard(partial)


def sweep_dead(folder: Path) -> None:
    """Remove what processes of this machine left behind that are gone; others may be writing."""
    for partial in folder.glob(f".*{PARTIAL}{_host()}-*"):
        number = partial.name.rpartition("-")[2]
        if number.isdecimal() and not _is_alive(int(number)):
            discard(partial)


def _host() -> str:
    return short_hash(platform.node())


def _is_alive(process: int) -> bool:
    import psutil  # here, because `--help` needs nothing but the standard library

    try:
        return psutil.pid_exists(process)
    except (OSError, OverflowError):  # which no system gives
        return True


def discard(path: Path) -> None:
    """Remove a file or folder as far as the storage allows; for what does no harm if it stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
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
        stream = open_regular(file, "a+b")
    with stream:
        with writing(what):
            try:
                import fcntl  # filelock follows what it opens: pipes, and files of two names
            except ImportError as error:
                raise CheckpointError(
                    f"{what} cannot be locked: this system has no flock; use Linux, macOS or WSL"
                ) from error
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                holder = stream.read(200).decode(errors="replace").strip()
                raise RunInUseError(f"{what} is in use by {holder or 'another process'}") from error
            if not _is_at(stream, file):
                raise RunInUseError(f"{what} was in use until now; try again")
        with suppress(OSError):  # who holds it is good to know, but a full disk may refuse
            os.ftruncate(stream.fileno(), 0)
            # Past the buffer, which would try again, and fail, when it is closed.
            os.write(stream.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        yield


def _is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether a path still leads to the file that was opened by it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def short_hash(content: Any) -> str:
    """The same eight digits for the same values, in whatever order their keys come.

    >>> short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    True
    >>> len(short_hash("x"))
    8
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def free_disk(path: Path) -> int:
    """Bytes that this user may still write where a path is, or will be made.

    Raises:
        CheckpointError: the storage refused.
    """
    with writing(path):
        return shutil.disk_usage(nearest_existing(path)).free


def nearest_existing(path: Path) -> Path:
    """The path itself or, where it will be made, the folder in which that begins."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
