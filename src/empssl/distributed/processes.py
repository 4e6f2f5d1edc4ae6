"""Starting the other processes of a run, and what ends with them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml

from empssl import plugins
from empssl.errors import UsageError

# Those that this one has started, by rank; for as long as it lives.
children: dict[int, "subprocess.Popen[bytes]"] = {}
_before: dict[str, str | None] = {}  # what the environment said before there were any
_files: list[Path] = []  # that tell them what to do
_typed: ContextVar[bool] = ContextVar("typed", default=False)
LEAVING_SECONDS = 30.0  # for one that has done its part, or knows that another failed


@contextmanager
def typed_command() -> Iterator[None]:
    """While the block runs, the words that started this process say all that it does.

    The other processes of a run are then started with the same words.
    """
    token = _typed.set(True)
    try:
        yield
    finally:
        _typed.reset(token)


@dataclass(frozen=True)
class Call:
    """A function of this package, called by a program, in a notebook or at a prompt.

    To run the program again would do all else that it does again, and a prompt cannot be run again
    at all. So the other processes carry out this call alone, as a command.

    Attributes:
        verb: the function's name.
        arguments: by name.
        modules: those of a user's own that they import first.
    """

    verb: str
    arguments: dict[str, Any]
    modules: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Of the command; its arguments are in a file, which `reap_children` removes.

        Raises:
            UsageError: one of them cannot be written down.
        """
        plain = {name: _plain(name, value) for name, value in self.arguments.items()}
        handle, file = tempfile.mkstemp(prefix="empssl-", suffix=".yaml")
        _files.append(Path(file))
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            yaml.safe_dump({n: v for n, v in plain.items() if v not in (None, [])}, opened)
        named = [word for name in self.modules for word in ("--plugin", name)]
        return ["-m", "empssl", self.verb, *named, "--config", file]


def _plain(name: str, value: Any) -> Any:
    """An argument as YAML has it."""
    if isinstance(value, dict):
        return {key: _plain(name, v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise UsageError(
        f"{name} is {value!r}, which cannot be told to other processes; use devices=1, or start "
        "the program with torchrun, which runs all of it in each process"
    )


def start_children(environment: Any, devices: int, num_nodes: int, call: Call) -> None:
    """Start the other processes of this machine, unless a launcher has.

    Fabric would do so too, but end this process by a signal when another one fails.

    Args:
        environment: Lightning's cluster environment.
        devices: processes on this machine.
        num_nodes: machines.
        call: what they are to do, where no command was typed.

    Raises:
        UsageError: they cannot be told.
    """
    if environment.creates_processes_externally:
        return
    words, path = sys.orig_argv[1:], os.environ.get("PYTHONPATH")
    if not _typed.get():
        words = call.words()
        # This package, and the user's own modules, wherever the program found them.
        found = [str(Path(__file__).parents[2]), *plugins.folders(call.modules)]
        path = os.pathsep.join(filter(None, [*found, path]))
    own = {
        "MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()), "LOCAL_RANK": "0",
        "WORLD_SIZE": str(devices * num_nodes),
    }  # fmt: skip
    _before.update({name: os.environ.get(name) for name in own})
    os.environ |= own
    for local in range(1, devices):
        children[environment.node_rank() * devices + local] = subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | {"LOCAL_RANK": str(local)} | ({"PYTHONPATH": path} if path else {}),
        )


@contextmanager
def reap_children() -> Iterator[None]:
    """After the block, nothing is left of the other processes that it started.

    So a program may go on, and start others. A command ends with its run anyhow.
    """
    try:
        yield
    finally:
        if _before and not _typed.get():
            if dist.is_initialized():
                dist.destroy_process_group()
            for child in children.values():
                try:
                    child.wait(LEAVING_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for name, value in _before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            for file in _files:
                file.unlink(missing_ok=True)
            children.clear()
            _before.clear()
            _files.clear()


def dead_child() -> str | None:
    """Which of the processes started here ended without success, and how."""
    for rank, child in children.items():
        code = child.poll()
        if code is not None and code < 0:
            return f"process {rank} was ended by signal {-code} ({signal.Signals(-code).name})"
        if code:
            return f"process {rank} ended with exit code {code}"
    return None


def restarted() -> bool:
    """Whether torchrun has started this process in place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def torchrun_launch() -> str | None:
    """A name of this launch that torchrun keeps over restarts; None where there is none."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if os.environ.get("GROUP_WORLD_SIZE") == "1" and "TORCHELASTIC_ERROR_FILE" in os.environ:
        # The folder of its logs, which is new each time. A user's own name need not be.
        return Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[2].name
    return None if name == "none" else name
