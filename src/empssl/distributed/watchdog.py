"""How the processes of a run end: all of them, soon after one fails, and one says why.

A process that fails writes why into a store that all of them read, and the first to write is the
only one to speak. So a run has one cause and one exit code, however many processes notice it.
"""

import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from empssl.distributed.processes import children, dead_child
from empssl.errors import EmpsslError, RankError, StoppedError, UsageError
from empssl.progress import say

BEAT_SECONDS = 0.5
# For processes to find each other, which on a cluster may start minutes apart.
JOIN_SECONDS = 600.0
_REPORT_SECONDS = 10.0  # before it is said what is waited for
# To end by itself, for a process; to say why, for one that closed its connections on purpose.
GRACE_SECONDS = 3.0
# A process that takes steps and says nothing for so long is gone, with its machine perhaps.
SILENT_SECONDS = 6.0
# Where there is another sign of it, this is long enough.
_SURE_SECONDS = GRACE_SECONDS - 2 * BEAT_SECONDS
_CAUSE = "cause"
_TORCH = str(Path(torch.__file__).parent)


@contextmanager
def startup_watchdog() -> Iterator[None]:
    """While the processes find each other: if one that was started here ends, end this one too.

    So does one that was started, if that which started it ends, and each at a signal, or when it
    has waited for too long: torch waits where no handler of Python is called.
    """
    joined, parent = threading.Event(), os.getppid()
    started = os.environ.get("LOCAL_RANK", "0") != "0"
    began, reported = time.monotonic(), False

    def watch() -> None:
        nonlocal reported
        while not joined.wait(BEAT_SECONDS):
            if gone := dead_child():
                _end(RankError(f"{gone} before the run began"))
            if started and os.getppid() != parent:
                _end(RankError("process 0 is gone", reported=True))
            number = _arrived(signals)
            if number and not joined.wait(GRACE_SECONDS):
                _end(StoppedError(f"interrupted while {_awaited_peers()}", 128 + number))
            waited = time.monotonic() - began
            if waited > JOIN_SECONDS:
                _end(RankError(f"{_awaited_peers()} for {waited:.0f} s, and given up"))
            if waited > _REPORT_SECONDS and not reported:
                reported = True
                say(f"{_awaited_peers()}, for {JOIN_SECONDS:.0f} s at most")

    with _signal_numbers() as signals:
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            joined.set()


@contextmanager
def _signal_numbers() -> Iterator[socket.socket]:
    """Where the system writes the numbers of signals, whatever the main thread is doing."""
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        if threading.current_thread() is not threading.main_thread():
            yield here  # only the main one is told of signals
            return
        before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
        try:
            yield here
        finally:
            signal.set_wakeup_fd(before)


def _arrived(signals: socket.socket) -> int:
    """The number of a signal to stop that has come; 0 if none has."""
    try:
        numbers = signals.recv(64)
    except OSError:  # nothing to read, or already closed
        return 0
    return next((n for n in numbers if n in (signal.SIGINT, signal.SIGTERM)), 0)


def _awaited_peers() -> str:
    """What this process waits for, in words."""
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    count = os.environ.get("WORLD_SIZE", "all")
    return (
        f"waiting for the {count} processes of this run to meet at {address} (MASTER_ADDR and "
        "MASTER_PORT)"
    )


@contextmanager
def watchdog(fabric: Any, patience: float) -> Iterator[Callable[[int], None]]:
    """While the block runs, no process outlives the failure of another by ten seconds.

    Args:
        fabric: Lightning's, launched.
        patience: seconds without a step, once there was one, after which a run has come to a halt.

    Yields:
        What to call with its number when a step begins.

    Raises:
        RankError: another process failed, or they wait for each other.
    """
    if fabric.world_size == 1:
        yield lambda step: None
        return
    watch = _Watch(fabric, patience)
    fabric.barrier()  # now all of them are heard
    watch.start()
    try:
        yield watch.begin
        fabric.barrier()  # the store ends with the first process, which others may still ask
    except BaseException as error:
        cause = watch.cause(error)
        watch.stop()
        watch.wait_for_ranks()
        if cause is error:
            raise
        raise cause from None
    finally:
        watch.stop()


class _Watch:
    """What one process knows of all, kept up to date by a thread that survives a stuck main one.

    Args:
        fabric: Lightning's, launched.
        patience: seconds without a step after which a run has come to a halt.
    """

    def __init__(self, fabric: Any, patience: float) -> None:
        self.rank, self.world, self.patience = fabric.global_rank, fabric.world_size, patience
        self.step: int | None = None
        self.at = time.monotonic()
        first = self._store(0) if self.rank == 0 else None
        port = fabric.broadcast(first.port if first else 0)
        self.store = first or self._store(port)
        self._ended = threading.Event()
        self._verdict: RankError | None = None  # once it is known why the run ends
        self._main = threading.main_thread().ident
        self._count = 0
        # By rank: how often it has spoken, and when that was last seen to grow.
        self._heard = dict.fromkeys(range(self.world), (0, self.at))
        self._beat()

    def _store(self, port: int) -> Any:
        return dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], port, is_master=self.rank == 0, wait_for_workers=False,
            timeout=timedelta(seconds=60),
        )  # fmt: skip

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def begin(self, step: int) -> None:
        """This process begins a step."""
        self.step, self.at = step, time.monotonic()

    def cause(self, error: BaseException) -> BaseException:
        """What to raise for an error: itself, or the failure of another process behind it."""
        self.at = math.inf  # no step is to come
        if self._verdict is not None:
            return self._verdict
        try:
            if _is_anothers(error):
                return self._error(self._awaited() or self._claim(self._unanswered(error)))
            code = getattr(error, "exit_code", 1)
            if isinstance(error, KeyboardInterrupt):  # with the signal's number, but for Ctrl-C
                code = 128 + int(error.args[0] if error.args else 2)
            found = self._claim(str(error), code)
            if found != self._record(str(error), code):
                return self._error(found)
        except dist.DistError:
            return self._first_is_gone()
        if not isinstance(error, EmpsslError):
            error.add_note(f"in process {self.rank} of {self.world}, {_steps(self.step)}")
        elif not isinstance(error, StoppedError | UsageError):  # all stop alike
            error.args = (f"process {self.rank} of {self.world}: {error}",)
        return error

    def wait_for_ranks(self) -> None:
        """In the first process: keep the store until the others know; end those that cannot."""
        if self.rank != 0:
            return
        until = time.monotonic() + GRACE_SECONDS
        while (deaf := self._deaf()) - self._silent(_SURE_SECONDS) and time.monotonic() < until:
            time.sleep(0.1)
        for rank in deaf & children.keys():
            children[rank].kill()

    def _deaf(self) -> set[int]:
        """Others that have not heard the cause, and did not tell it."""
        record = self._cause()
        others = set(range(1, self.world)) - {record["rank"] if record else 0}
        return {rank for rank in others if not self.store.check([f"heard {rank}"])}

    def _watch(self) -> None:
        """In a thread: tell that this process lives, and end it if the run has ended."""
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._beat()
                record = self._cause()
                if record is None and (trouble := self._trouble()):
                    record = self._claim(f"{trouble}; continue with --resume")
                verdict = record and self._error(record)
            except dist.DistError:
                verdict = self._first_is_gone()
            # The main thread ends with the run, unless it waits where nothing wakes it.
            if verdict and not self._ended.wait(GRACE_SECONDS):
                _end(verdict, self.wait_for_ranks)

    def _beat(self) -> None:
        """Say where this process is, and listen to the others."""
        self._count += 1
        place, waits = _place(self._main)
        beat = {"count": self._count, "step": self.step, "place": place, "waits": waits}
        self.store.set(f"beat {self.rank}", json.dumps(beat))
        if self._count > 1:  # by then all have said something
            for rank, other in self._beats().items():
                if self._heard[rank][0] != other["count"]:
                    self._heard[rank] = (other["count"], time.monotonic())

    def _beats(self) -> dict[int, dict[str, Any]]:
        found = self.store.multi_get([f"beat {rank}" for rank in range(self.world)])
        return {rank: json.loads(beat) for rank, beat in enumerate(found)}

    def _record(self, text: str, code: int) -> dict[str, Any]:
        return {"rank": self.rank, "code": code, "text": text}

    def _claim(self, text: str, code: int = RankError.exit_code) -> dict[str, Any]:
        """Write down a cause, unless there is one; the cause of the run."""
        mine = json.dumps(self._record(text, code))
        found: dict[str, Any] = json.loads(self.store.compare_set(_CAUSE, "", mine))
        return found

    def _cause(self) -> dict[str, Any] | None:
        return json.loads(self.store.get(_CAUSE)) if self.store.check([_CAUSE]) else None

    def _awaited(self) -> dict[str, Any] | None:
        """The cause, if a process says one before long."""
        until = time.monotonic() + GRACE_SECONDS
        while (record := self._cause()) is None and time.monotonic() < until:
            time.sleep(0.1)
        return record

    def _error(self, record: dict[str, Any]) -> RankError:
        """The cause as an error of this process, which tells it if it was the one to find it."""
        reported = record["rank"] != self.rank
        text = f"process {record['rank']} of {self.world}: {record['text']}"
        self._verdict = RankError(
            text if reported else record["text"], record["code"], reported=reported
        )
        if reported:
            self.store.set(f"heard {self.rank}", "")
        return self._verdict

    def _first_is_gone(self) -> RankError:
        """The error where the store is gone. Without one, it is the second process that speaks."""
        if self._verdict is not None:  # the first has only left earlier
            return self._verdict
        text = f"process 0 is gone, {_steps(self.step)}; continue with --resume"
        self._verdict = RankError(text, reported=self.rank != 1)
        return self._verdict

    def _trouble(self) -> str | None:
        """What is wrong with another process, or with all of them."""
        if gone := dead_child():
            return f"{gone}, {_steps(self.step)}"
        if self.step is None:
            return None
        halted = time.monotonic() - self.at > self.patience
        gone = self._gone(_SURE_SECONDS if halted else SILENT_SECONDS)
        if gone or not halted:
            return gone
        beats = self._beats()
        stuck = [f"process {rank}" for rank, beat in beats.items() if not beat["waits"]]
        who = " and ".join(stuck)
        what = f"{who} did not go on" if stuck else "the processes wait for different things"
        return f"{what}, no step for {self.patience:g} s: {_places(beats)}"

    def _unanswered(self, error: BaseException) -> str:
        """Why another process did not answer, though none has said a word."""
        what = self._gone(_SURE_SECONDS)
        if what is None:
            first = str(error).strip().splitlines()[0]
            what = f"the processes do not do the same ({first}): {_places(self._beats())}"
        return f"{what}; continue with --resume"

    def _gone(self, seconds: float) -> str | None:
        found = [f"process {rank} is gone, {_steps(self.step)}" for rank in self._silent(seconds)]
        return ", ".join(found) or None

    def _silent(self, seconds: float) -> set[int]:
        """Others that have said nothing for so long."""
        since = time.monotonic() - seconds
        return {rank for rank, (_, at) in self._heard.items() if at < since and rank != self.rank}


def _end(error: RankError | StoppedError, last: Callable[[], None] = lambda: None) -> None:
    """End this process from a thread of its own: the main one may wait for ever."""
    if not getattr(error, "reported", False):
        say(str(error))
    try:
        last()
    finally:
        os._exit(error.exit_code)


def _is_anothers(error: BaseException) -> bool:
    """Whether an error only says that another process failed, or did not answer."""
    return isinstance(error, dist.DistError | RankError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _steps(step: int | None) -> str:
    return "before the first step" if step is None else f"in step {step}"


def _places(beats: dict[int, dict[str, Any]]) -> str:
    return ", ".join(
        f"process {rank} {_steps(beat['step'])} at {beat['place']}" for rank, beat in beats.items()
    )


def _place(thread: int | None) -> tuple[str, bool]:
    """Where a thread is, outside of torch, and whether it is torch that works or waits there."""
    frame = sys._current_frames().get(thread or 0)
    inside = frame is not None and frame.f_code.co_filename.startswith(_TORCH)
    while frame is not None and (
        frame.f_code.co_filename.startswith(_TORCH) or "lightning" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    if frame is None:
        return "an unknown place", inside
    name = Path(frame.f_code.co_filename).name
    return f"{frame.f_code.co_name} ({name}:{frame.f_lineno})", inside
