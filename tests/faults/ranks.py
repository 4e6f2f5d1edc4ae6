"""Several processes of one run, forked from one that has imported all, and what goes wrong there.

Run as a program it prints a line of JSON for each case; forking a test process would copy its
threads' locks.
"""

import functools
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

STEP = 2  # at which it goes wrong
PATIENCE = "2s"
FAULTS = [f"{kind} {rank}" for kind in ("kill", "raise", "hang", "skip") for rank in (0, 1)]
UNLIKE = ["settings", "data", "code"]


def words(out: Path) -> list[str]:
    return [
        "train", "digits", "--out", str(out), "--recipe", "demo", "--patches", "2", "--batch", "8",
        "--epochs", "0.05", "--backbone.width", "4", "--projector.hidden", "16",
        "--projector.dim", "8", "--patience", PATIENCE, "--devices", "2",
    ]  # fmt: skip


def plant(fault: str, at: Path) -> None:
    """Have this process fail at a step, and note when."""
    from empssl import training

    step, seen = training.training_step, []

    def faulty(*args: Any, **options: Any) -> Any:
        if len(seen) == STEP:
            at.write_text(str(time.time()))
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "raise":
                raise RuntimeError("planted")
            elif fault == "hang":
                time.sleep(1000)
            elif fault == "skip":
                seen.append(seen[-1])
                return seen[-1]
        seen.append(step(*args, **options))
        return seen[-1]

    training.training_step = faulty


def differ(what: str) -> list[str]:
    """Make this process unlike the others; the words to add to its command."""
    from empssl import processes
    from empssl.data.images import MemoryImages

    if what == "code":
        processes.code_digest = lambda: "another"
    elif what == "data":
        MemoryImages.fingerprint = property(lambda self: "another", lambda self, value: None)
    return ["--seed", "1"] if what == "settings" else []


def rank_of(case: str, rank: int, out: Path) -> int:
    """The life of one process; its exit code."""
    from empssl.cli import main

    kind, _, who = case.partition(" ")
    more: list[str] = []
    if kind in UNLIKE:
        more = differ(kind) if rank == 1 else []
    elif str(rank) == who:
        plant(kind, out.with_suffix(".at"))
    return main([*words(out), *more])


def run(case: str, folder: Path, world: int = 2) -> dict[str, Any]:
    """Exit codes, what was said, and seconds from the fault until all processes were gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = folder / case.replace(" ", "-")
    said = out.with_suffix(".said")
    began, pids = time.time(), []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                           "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}  # fmt: skip
            stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            try:
                code = rank_of(case, rank, out)
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stderr.flush()
            os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    at = out.with_suffix(".at")
    since = float(at.read_text()) if at.exists() else began
    return {"case": case, "codes": codes, "said": said.read_text(), "seconds": time.time() - since}


def main(folder: Path, cases: list[str]) -> None:
    from empssl import data

    data.open_digits = functools.cache(data.open_digits)
    import empssl.training  # noqa: F401

    for case in cases:
        print(json.dumps(run(case, folder)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
