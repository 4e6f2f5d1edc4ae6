"""A disk that notes what it is told to do, can refuse any of it, and can lose power."""

import builtins
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from empssl.runs import checkpoint, files, run

Op = tuple[Any, ...]
# A kill, and a write of which the second half is lost without a word.
KILL, SHORT = "kill", "short"


class Disk:
    """Everything that `empssl` does to the files below a folder, call by call.

    Args:
        root: the folder.
        patch: undoes it.
        failing: the number of the call that fails.
        fault: an error number, or KILL or SHORT.
    """

    def __init__(
        self,
        root: Path,
        patch: pytest.MonkeyPatch,
        *,
        failing: int = -1,
        fault: int | str = 0,
    ) -> None:
        self.root = str(root)
        self.failing, self.fault = failing, fault
        self.calls: list[str] = []
        self.log: list[Op] = []
        for module in (files, checkpoint, run):
            patch.setattr(module, "open", self._open, raising=False)
        for name in ("open", "close", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"):
            patch.setattr(os, name, self._os(name, getattr(os, name)))

    def call(self, name: str) -> bool:
        """Count a call and let it fail if its turn has come; whether a write is to be short."""
        self.calls.append(name)
        if len(self.calls) - 1 != self.failing:
            return False
        if self.fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault))
        return name == "write"

    def _open(self, path: Path, mode: str = "r", **options: Any) -> Any:
        if not str(path).startswith(self.root):
            return builtins.open(path, mode, **options)
        self.call("open")
        new = not os.path.exists(path)
        file = builtins.open(path, mode, **options)  # noqa: SIM115 (closed by its user)
        if mode in ("r", "rb"):
            return file
        if new:
            self.log.append(("create", str(path)))
        elif "w" in mode:
            self.log.append(("truncate", str(path)))
        return _File(self, file, str(path))

    def _os(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def planted(*arguments: Any, **options: Any) -> Any:
            path = _path(arguments[0], options.get("dir_fd", options.get("src_dir_fd")))
            if not path.startswith(self.root):
                return original(*arguments, **options)
            try:
                self.call(name)
            except OSError:
                if name == "close":
                    original(*arguments, **options)
                raise
            result = original(*arguments, **options)
            if name not in ("open", "close"):
                to = [str(arguments[1])] if name in ("rename", "replace") else []
                self.log.append(("rename" if to else name, path, *to))
            return result

        return planted


class _File:
    """A file that is open for writing."""

    def __init__(self, disk: Disk, file: Any, path: str) -> None:
        self.disk, self.file, self.path = disk, file, path

    def write(self, content: Any) -> int:
        data = content.encode() if isinstance(content, str) else bytes(content)
        if self.disk.call("write"):
            data = data[: len(data) // 2]
        self.disk.log.append(("write", self.path, data))
        self.file.write(data.decode() if isinstance(content, str) else data)
        return len(content)

    def flush(self) -> None:
        self.disk.call("flush")
        self.file.flush()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.disk.call("closing")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _path(what: Any, folder: int | None) -> str:
    if isinstance(what, int):
        try:
            return os.readlink(f"/proc/self/fd/{what}")
        except OSError:
            return ""
    name = os.fsdecode(what)
    return name if folder is None else f"{os.readlink(f'/proc/self/fd/{folder}')}/{name}"


@dataclass
class _Node:
    """A file's bytes, or the names in a folder: what was done to it, and how much of it is safe."""

    folder: bool
    done: list[Any] = field(default_factory=list)
    safe: int = 0

    def variants(self) -> Iterator[int]:
        return iter(range(self.safe, len(self.done) + 1))


def power_losses(root: Path, log: list[Op]) -> Iterator[tuple[int, dict[str, bytes | None]]]:
    """What a disk may hold when the power fails after each entry of a log.

    Of a folder, the changes that were not synced may have come to the disk up to any one of them,
    whatever became of other folders. Of files, what was not synced is there, or missing, or there
    in part, or zero.

    Yields:
        how many entries were carried out, and files' contents by path; None for a folder.
    """
    top = _Node(folder=True)
    live: dict[str, _Node] = {str(root): top}

    for at, (kind, path, *rest) in enumerate([("start", str(root)), *log]):
        parent = live.get(os.path.dirname(path))
        name = os.path.basename(path)
        if kind in ("mkdir", "create"):
            live[path] = _Node(folder=kind == "mkdir")
            assert parent is not None
            parent.done.append({name: live[path]})
        elif kind == "truncate":
            live[path].done.append(None)
        elif kind == "write":
            live[path].done.append(rest[0])
        elif kind == "fsync":
            live[path].safe = len(live[path].done)
        elif kind == "rename":
            node = live.pop(path)
            for inner in [p for p in live if p.startswith(f"{path}/")]:
                live[rest[0] + inner.removeprefix(path)] = live.pop(inner)
            live[rest[0]] = node
            assert parent is not None
            parent.done.append({name: None, os.path.basename(rest[0]): node})
        elif kind in ("unlink", "rmdir"):
            live.pop(path)
            assert parent is not None
            parent.done.append({name: None})
        yield from ((at, state) for state in _states(str(root), top))


def _states(root: str, top: _Node) -> Iterator[dict[str, bytes | None]]:
    """The states of one instant; each once."""
    folders, files = _nodes(top)
    seen: set[int] = set()
    pending = any(node.safe < len(node.done) for node in files)
    for counts in itertools.product(*(node.variants() for node in folders)):
        kept = dict(zip(map(id, folders), counts, strict=True))
        for way in ("all", "none", "half", "zero") if pending else ("all",):
            state: dict[str, bytes | None] = {}
            _place(root, top, kept, way, state)
            key = hash(tuple(sorted((k, v or b"") for k, v in state.items())))
            if key not in seen:
                seen.add(key)
                yield state


def _nodes(top: _Node) -> tuple[list[_Node], list[_Node]]:
    """All folders and files that a folder ever held."""
    folders, files, found = [top], [], {id(top)}
    for folder in folders:
        for change in folder.done:
            for node in change.values():
                if node is not None and id(node) not in found:
                    found.add(id(node))
                    (folders if node.folder else files).append(node)
    return folders, files


def _place(
    path: str, node: _Node, kept: dict[int, int], way: str, state: dict[str, bytes | None]
) -> None:
    if node.folder:
        state[path] = None
        names: dict[str, _Node | None] = {}
        for change in node.done[: kept[id(node)]]:
            names |= change
        for name, inner in names.items():
            if inner is not None:
                _place(f"{path}/{name}", inner, kept, way, state)
        return
    safe, whole = _content(node.done[: node.safe]), _content(node.done)
    new = whole[len(safe) :] if whole.startswith(safe) else whole
    state[path] = {
        "all": whole, "none": safe, "half": safe + new[: len(new) // 2],
        "zero": safe + bytes(len(new)),
    }[way]  # fmt: skip


def _content(writes: list[bytes | None]) -> bytes:
    content = b""
    for data in writes:
        content = b"" if data is None else content + data
    return content


def materialise(state: dict[str, bytes | None], root: Path, at: Path) -> None:
    """Make files and folders as they are in a state, at another place."""
    for path, content in state.items():
        place = at / os.path.relpath(path, root)
        if content is None:
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(content)
