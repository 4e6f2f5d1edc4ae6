"""The processes of one run: how the first starts the others, and how all of them end together.

A process that fails writes why into a store that all of them read, and the first to write is the
only one to speak. So a run has one cause and one exit code, however many processes notice it.
"""

import hashlib
import json
import os
import signal
import subprocess
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

from empssl.errors import EmpsslError, RankError, StoppedError, UsageError

BEAT_SECONDS = 0.5
# A process that ends a connection on purpose has said why by then; one that is alive has beaten.
GRACE_SECONDS = 3.0
_CAUSE = "cause"

# What this process has started, once and for as long as it lives.
_children: dict[int, "subprocess.Popen[bytes]"] = {}  # by rank


def start_children(environment: Any, devices: int, num_nodes: int) -> None:
    """Start this command again for the other processes of this machine, unless a launcher has.

    Fabric would do so too, but then kill this process with the others.

    Args:
        environment: Lightning's cluster environment.
        devices: processes on this machine.
        num_nodes: machines.
    """
    if environment.creates_processes_externally:
        return
    os.environ |= {
        "MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": str(environment.node_rank()), "LOCAL_RANK": "0",
        "WORLD_SIZE": str(devices * num_nodes),
    }  # fmt: skip
    for local in range(1, devices):
        _children[environment.node_rank() * devices + local] = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            # A lost store is an error that is dealt with; torch would add a page of addresses.
            env={"TORCH_CPP_LOG_LEVEL": "FATAL"} | os.environ | {"LOCAL_RANK": str(local)},
        )


def restarted() -> bool:
    """Whether torchrun has started this process in place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def expecting() -> Iterator[None]:
    """While the processes find each other: if one that was started ends, end this one too."""
    joined = threading.Event()

    def watch() -> None:
        while not joined.wait(BEAT_SECONDS):
            if gone := _dead_child():
                _end(RankError(f"{gone} before the run began"))

    if _children:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        joined.set()


def _dead_child() -> str | None:
    """Which of the processes started here ended without success, and how."""
    for rank, child in _children.items():
        code = child.poll()
        if code is not None and code < 0:
            return f"process {rank} was ended by signal {-code} ({signal.Signals(-code).name})"
        if code:
            return f"process {rank} ended with exit code {code}"
    return None


def _end(error: RankError) -> None:
    """End this process from a thread of its own: the main one may wait for ever."""
    if not error.told:
        print(f"empssl: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)


class Peers:
    """What the processes of a run know of each other. Alone, a process knows nothing and is fine.

    Args:
        rank: of this process.
        world: number of processes.
        port: of the store, for all but the first process, which makes it.
        patience: seconds without a step after which a run has come to a halt.
    """

    def __init__(self, rank: int, world: int, port: int, patience: float) -> None:
        self.rank, self.world, self.patience = rank, world, patience
        self.step: int | None = None
        self.at = time.monotonic()
        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], port, is_master=rank == 0, wait_for_workers=False,
            timeout=timedelta(seconds=60),
        )  # fmt: skip
        self._verdict: RankError | None = None  # of the watching thread, for the main one
        self._done = threading.Event()
        self._main = threading.main_thread().ident
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self, step: int) -> None:
        """This process begins a step."""
        self.step, self.at = step, time.monotonic()

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._done.set()

    def cause(self, error: BaseException) -> BaseException:
        """What to raise for an error: itself, or the failure of another process behind it."""
        try:
            if _is_lost_connection(error):
                return self._behind(error)
            return self._claimed(error)
        except dist.DistError:  # the store is gone, and with it the first process
            return self._first_is_gone()

    def _claimed(self, error: BaseException) -> BaseException:
        """The error itself if this process is the first to fail, else what another one said."""
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        mine = json.dumps({"rank": self.rank, "code": code, "text": str(error)})
        if self._say(mine) != mine:
            return self._told()
        if isinstance(error, EmpsslError):
            if self.step is not None and not isinstance(error, StoppedError | RankError):
                error.args = (f"process {self.rank} of {self.world}: {error}",)
        else:
            error.add_note(f"in process {self.rank} of {self.world}, {self._steps(self.step)}")
        return error

    def _say(self, record: str) -> str:
        """Write down a cause, if there is none yet; the cause of the run."""
        return str(self.store.compare_set(_CAUSE, "", record).decode())

    def _told(self) -> RankError:
        """The cause that another process has told the user."""
        record = json.loads(self.store.get(_CAUSE))
        self.store.set(f"heard {self.rank}", "")
        return RankError(
            f"process {record['rank']} of {self.world} ended the run: {record['text']}",
            record["code"], told=True,
        )  # fmt: skip

    def linger(self) -> None:
        """Keep the store, which ends with the first process, until the others know the cause."""
        others = [f"heard {rank}" for rank in range(1, self.world)]
        until = time.monotonic() + GRACE_SECONDS
        while self.rank == 0 and time.monotonic() < until and not self.store.check(others):
            time.sleep(0.1)

    def _behind(self, error: BaseException) -> BaseException:
        """Why another process did not answer: what it said, or that it is gone."""
        before = self._beats()
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until:
            if self._verdict is not None:
                return self._verdict
            if self.store.check([_CAUSE]):
                return self._told()
            time.sleep(0.1)
        after = self._beats()
        silent = [rank for rank in after if after[rank]["count"] == before[rank]["count"]]
        gone = ", ".join(f"process {rank} is gone, {self._steps(after[rank]['step'])}"
                         for rank in silent if rank != self.rank)  # fmt: skip
        first = str(error).strip().splitlines()[0]
        return self._claimed(
            RankError(gone or f"the processes do not do the same ({first}): {self._places(after)}")
        )

    def _first_is_gone(self) -> RankError:
        return RankError(
            f"process 0 is gone, {self._steps(self.step)}; continue with --resume",
            told=self.rank != 1,
        )

    def _watch(self) -> None:
        """In a thread: tell that this process lives, and end it if the run has ended."""
        while not self._done.wait(BEAT_SECONDS):
            try:
                self._beat()
                if self.store.check([_CAUSE]):
                    self._leave(self._told())
                elif (gone := _dead_child()) is not None:
                    self._leave(self._final(f"{gone}, {self._steps(self.step)}"))
                elif self.step is not None and time.monotonic() - self.at > self.patience:
                    self._leave(self._final(self._halted()))
            except dist.DistError:
                self._leave(self._first_is_gone())
            if os.getppid() != self._parent and "LOCAL_RANK" in os.environ:
                self._leave(self._first_is_gone())

    def _final(self, text: str) -> RankError:
        # One that fails says so before it ends, and only then do others find it gone.
        if self.store.check([_CAUSE]):
            return self._told()
        error = self._claimed(RankError(f"{text}; continue with --resume"))
        assert isinstance(error, RankError)
        return error

    def _leave(self, verdict: RankError) -> None:
        """Let the main thread end by itself, or end it if it cannot."""
        self._verdict = verdict
        if not self._done.wait(GRACE_SECONDS):
            _end(verdict)

    def _beat(self) -> None:
        self._count = getattr(self, "_count", 0) + 1
        place, inside = _place(self._main)
        beat = {"count": self._count, "step": self.step, "place": place, "waits": inside}
        self.store.set(f"beat {self.rank}", json.dumps(beat))

    def _beats(self) -> dict[int, dict[str, Any]]:
        keys = {rank: f"beat {rank}" for rank in range(self.world)}
        return {rank: json.loads(self.store.get(key)) for rank, key in keys.items()}

    def _halted(self) -> str:
        beats = self._beats()
        stuck = [rank for rank, beat in beats.items() if not beat["waits"]]
        who = " and ".join(f"process {rank}" for rank in stuck)
        what = f"{who} does not go on" if stuck else "the processes wait for different things"
        return f"{what}, no step for {self.patience:g} s: {self._places(beats)}"

    def _places(self, beats: dict[int, dict[str, Any]]) -> str:
        return ", ".join(
            f"process {rank} {self._steps(beat['step'])} at {beat['place']}"
            for rank, beat in beats.items()
        )

    @staticmethod
    def _steps(step: int | None) -> str:
        return "before the first step" if step is None else f"in step {step}"


@contextmanager
def together(
    rank: int, world: int, broadcast: Callable[[int], int], patience: float
) -> Iterator[Peers | None]:
    """While the block runs, no process outlives the failure of another by more than seconds.

    Args:
        rank: of this process.
        world: number of processes.
        broadcast: a number of the first process to all of them.
        patience: seconds without a step after which a run has come to a halt.
    """
    if world == 1:
        yield None
        return
    peers = Peers(rank, world, 0, patience) if rank == 0 else None
    port = broadcast(peers.store.port if peers else 0)
    peers = peers or Peers(rank, world, port, patience)
    peers.start()
    try:
        yield peers
        dist.barrier()  # or the store would be gone before the others have looked
    except BaseException as error:
        cause = peers.cause(error)
        peers.stop()
        peers.linger()
        if cause is error:
            raise
        raise cause from None
    finally:
        peers.stop()


def check_same(world: int, facts: dict[str, Any]) -> None:
    """See that all processes were started alike.

    Args:
        world: number of processes.
        facts: what should be the same in all of them.

    Raises:
        UsageError: something is not; in all of them.
    """
    if world == 1:
        return
    every: list[dict[str, Any]] = [{} for _ in range(world)]
    dist.all_gather_object(every, facts)
    for rank, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                raise UsageError(
                    f"{name} is {value!r} in process 0 and {other.get(name)!r} in process {rank}; "
                    "start all with the same command, on the same data, with the same program"
                )


def code_digest() -> str:
    """What this package's source is, in twelve digits."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another process did not answer."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


_TORCH = str(Path(torch.__file__).parent)


def _place(thread: int | None) -> tuple[str, bool]:
    """Where a thread is, outside of torch, and whether torch is at work there or waits."""
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
