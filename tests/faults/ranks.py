"""Several processes of one run, forked from one that has imported all, and what goes wrong there.

Run as a program it prints a line of JSON for each case; forking a test process would copy its
threads' locks.
"""

import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empssl.training import setup
from empssl.training import train as train_module

WORLD = 2
STEP = 2  # at which it goes wrong
FAULTS = [f"{kind} {rank}" for kind in ("kill", "raise", "hang", "skip") for rank in range(WORLD)]
UNLIKE = ["settings", "data", "code"]
OTHERS = ["whole", "stop", "resume it", "bad", "too many"]
PATIENCE = 4  # seconds, from the step of the fault on: a busy machine may be slow before
LIMIT = 240  # seconds, of a process that nothing ends
AT_ONCE = 4  # more of them would wait for the processor, and seem to hang


def words(out: Path, kind: str) -> list[str]:
    """The command of a case."""
    if kind == "resume":
        return ["train", "digits", "--out", str(out), "--resume", "--devices", str(WORLD)]
    data, more = "digits", ["--epochs", "0.05"]
    if kind in ("bad", "too"):
        data, more = str(out.with_suffix(".images")), ["--epochs", "3", "--image-side", "16"]
    return [
        "train", data, "--out", str(out), "--recipe", "demo", "--patches", "2", "--batch", "8",
        "--backbone.width", "4", "--projector.hidden", "16", "--projector.dim", "8",
        "--precision", "64-true", "--devices", str(WORLD), *more,
    ]  # fmt: skip


def plant(fault: str) -> None:
    """Have this process fail at a step; or be asked to stop."""
    from empssl.training import trainer

    step, seen = trainer.training_step, []

    def faulty(*args: Any, **options: Any) -> Any:
        if len(seen) == STEP:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "stop":
                signal.raise_signal(signal.SIGINT)
            elif fault == "raise":
                raise RuntimeError("planted")
            elif fault == "hang":
                time.sleep(1000)
            elif fault == "skip":
                seen.append(seen[-1])
                return seen[-1]
        seen.append(step(*args, **options))
        return seen[-1]

    trainer.training_step = faulty


def impatient_from(step: int) -> None:
    """Have this process wait for others as long as `PATIENCE` from this step on."""
    from empssl.distributed.watchdog import _Watch

    begin = _Watch.begin

    def begun(self: Any, number: int) -> None:
        self.patience = PATIENCE if number >= step else math.inf
        begin(self, number)

    _Watch.begin = begun  # type: ignore[method-assign]


def differ(what: str) -> list[str]:
    """Make this process unlike the others; the words to add to its command."""
    from empssl.data.base import MemoryImages
    from empssl.distributed import collectives

    if what == "code":
        collectives.code_digest = lambda: "another"
    elif what == "data":
        MemoryImages.fingerprint = property(lambda self: "another", lambda self, value: None)
    return ["--seed", "1"] if what == "settings" else []


def noting(draw: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Drawing samples, with a line of JSON that says which."""

    def noted(self: Any, step: int) -> Any:
        drawn = draw(self, step)
        with path.open("a") as file:
            print(json.dumps([step, drawn.samples.tolist()]), file=file)
        return drawn

    return noted


def rank_of(case: str, rank: int, out: Path) -> int:
    """The life of one process; its exit code."""
    from empssl import data
    from empssl.cli import main
    from empssl.data.sampler import Sampler

    kind, _, who = case.partition(" ")
    Sampler.draw = noting(Sampler.draw, out.with_suffix(f".samples{rank}"))
    more: list[str] = []
    if kind in UNLIKE:
        more = differ(kind) if rank == 1 else []
    elif kind in ("bad", "too"):
        # As a set that does not fit: images are read as steps need them.
        train_module.open_images, train_module.in_memory = (
            data.open_images,
            lambda images, **_: images,
        )
    elif str(rank) == who or (kind == "stop" and rank == 1):
        plant(kind)
    if kind in ("hang", "skip"):
        impatient_from(STEP)
    return main([*words(out, kind), *more])


def started(case: str, rank: int, port: int, out: Path) -> int:
    """The number of a process that goes through a case."""
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                   "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}  # fmt: skip
    stream = os.open(out.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.alarm(LIMIT)
    try:
        code = rank_of(case, rank, out)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass
class Case:
    """A case under way: its processes, and the exit codes of those that are gone."""

    name: str
    out: Path
    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, folder: Path) -> "Case":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out = folder / name.replace(" ", "-")
        return cls(name, out, [started(name, rank, port, out) for rank in range(WORLD)])

    def report(self) -> dict[str, Any]:
        """Exit codes, and what was said."""
        return {
            "case": self.name,
            "codes": [self.codes[pid] for pid in self.pids],
            "said": self.out.with_suffix(".said").read_text(),
        }


def main(folder: Path, names: list[str]) -> None:
    from empssl import data
    from empssl.training import trainer

    trainer.CHECKPOINT_SECONDS = 0.0
    images = data.in_memory(data.open_images("digits", split="train"))
    train_module.open_images = lambda *_, **__: images
    setup.flops_per_view = lambda *_: 1.0  # counting them takes longer than the steps
    under_way: list[Case] = []
    while names or under_way:
        while names and len(under_way) < AT_ONCE:
            under_way.append(Case.start(names.pop(0), folder))
        pid, status = os.wait()
        case = next(case for case in under_way if pid in case.pids)
        case.codes[pid] = os.waitstatus_to_exitcode(status)
        if len(case.codes) == WORLD:
            under_way.remove(case)
            print(json.dumps(case.report()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
