"""A process to be killed: forked from one that has imported everything, so that it starts at once.

The server that forks is preloaded with this module. It has one thread and has trained once.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.forkserver import _forkserver, ensure_running  # type: ignore[attr-defined]
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytest

import empssl

PATIENCE = 600.0  # seconds; no life takes more than a few, but on a busy machine
PACKAGE = str(Path(empssl.__file__).parent)


@dataclass(frozen=True)
class Death:
    """Where a signal comes: at the n-th call of a function.

    Args:
        where: `module:function` or `module:Class.method`.
        call: which call of it, from 0.
        when: before it, after it, or in the middle of writing its last argument.
        number: of the signal; that of kill -9, unless another is given.
        times: how often it comes.
    """

    where: str
    call: int = 0
    when: Literal["before", "after", "half"] = "before"
    number: int = signal.SIGKILL
    times: int = 1

    def plant(self) -> None:
        module, _, name = self.where.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, name = name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        original, made = getattr(owner, name), 0

        def planted(*arguments: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            if made != self.call + 1:
                return original(*arguments, **options)
            if self.when == "half":
                *others, content = arguments
                with suppress(Exception):
                    original(*others, content[: len(content) // 2])
            result = original(*arguments, **options) if self.when == "after" else None
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
            return result if self.when == "after" else original(*arguments, **options)

        setattr(owner, name, planted)


class Countdown:
    """Counts the calls that code of the package makes and gets, and kills the process at one.

    The disk changes between two calls and nowhere else, so each of these instants is one at which
    a kill can leave something behind; and unlike one of a clock, it is the same on every machine.

    Args:
        calls: kill at this one, from 1; None only counts.
    """

    def __init__(self, calls: int | None) -> None:
        self.calls = calls
        self.made = 0

    def start(self) -> None:
        sys.setprofile(self._count)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event.endswith("call") and frame.f_code.co_filename.startswith(PACKAGE):
            self.made += 1
            if self.made == self.calls:
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class End:
    """How a life ended.

    Attributes:
        code: exit code, or minus the number of the signal.
        error: what it wrote to the error stream.
        calls: that the package made and got, where they were counted.
    """

    code: int
    error: str
    calls: int | None = None


class Victim:
    """A process that calls a function of a module.

    Args:
        function: of a module that can be imported.
        arguments: of the function.
        death: kill it there.
        calls: kill it at this call that the package makes or gets, in the main thread.
        counted: count these calls.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: Any,
        death: Death | None = None,
        calls: int | None = None,
        counted: bool = False,
        **options: Any,
    ) -> None:
        _serve()
        handle, self._errors = tempfile.mkstemp()
        os.close(handle)
        countdown = Countdown(calls) if counted or calls is not None else None
        self.process = multiprocessing.get_context("forkserver").Process(
            target=_live, args=(self._errors, death, countdown, function, arguments, options)
        )
        self.process.start()

    def end(self) -> End:
        """Wait for it."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail(f"a victim hung: {Path(self._errors).read_text()}")
        error, counted = Path(self._errors).read_text(), Path(f"{self._errors}.calls")
        os.unlink(self._errors)
        calls = int(counted.read_text()) if counted.exists() else None
        counted.unlink(missing_ok=True)
        return End(self.process.exitcode, error, calls)


def _serve() -> None:
    if _forkserver._forkserver_pid is not None:
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload(["lives"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _live(
    errors: str,
    death: Death | None,
    countdown: Countdown | None,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if death is not None:
        death.plant()
    if countdown is not None:
        countdown.start()
    try:
        code = function(*arguments, **options)
    except SystemExit as end:
        code = end.code
    if countdown is not None:
        sys.setprofile(None)
        Path(f"{errors}.calls").write_text(str(countdown.made))
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
