"""Plant faults in copies of the tree, one at a time: for each, the test that it names must fail.

    python tests/planted [NAMES] [--jobs 2] [--json FILE]

A name is that of an area, or a part of a fault's. First all the tests in question are run on the
tree as it is, where they must pass. Then a fault is `red` (noticed), `GREEN` (the test passed all
the same), `STALE` (what it changes is no longer there), `HUNG` or `LOST` (pytest did not come to a
test that failed). The exit code is 0 if all are red.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from registry import ROOT, Fault, StaleError, registry

PATIENCE = 900.0  # seconds for a test; of two processes that wait, one gives up after minutes
LEFT_OUT = (".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis")
MADE = ("runs", "build", "dist")  # left out at the top; further down folders are named so, too
# Imported once, and not for each fault.
WARM = ("torch", "lightning_fabric", "sklearn.linear_model", "pyarrow.parquet", "jsonargparse",
        "matplotlib.pyplot", "jinja2", "rich.progress", "hypothesis", "beartype")  # fmt: skip
OPTIONS = ("-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", "-W",
           "ignore::pytest.PytestAssertRewriteWarning")  # fmt: skip
MEANING = {0: "GREEN", 1: "red", -signal.SIGKILL: "HUNG"}


@dataclass(frozen=True)
class Verdict:
    """What became of a fault.

    Attributes:
        fault: planted.
        verdict: red, or what is wrong.
        why: how the test failed, or what went wrong, in a line.
        seconds: that the test took.
    """

    fault: Fault
    verdict: str
    why: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="areas or parts of names; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--json", type=Path, help="where the verdicts are written too")
    args = parser.parse_args()
    faults = [fault for fault in registry() if chosen(fault, args.names)]
    if not faults:
        parser.error(f"no planted fault is called {' or '.join(args.names)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in WARM:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        clean = copied(ROOT, Path(folder) / "clean")
        tests = sorted({fault.red for fault in faults})
        before = Trial(clean, tests)
        if before.end(PATIENCE * len(tests)) != 0:
            print(*before.failures(), "Tests must pass before a fault is planted", sep="\n")
            return 2
        print(f"{len(tests)} tests pass as long as nothing is planted", flush=True)
        verdicts = []
        for verdict in tried(faults, clean, args.jobs):
            fault = verdict.fault
            print(f"{verdict.verdict:5} {verdict.seconds:4.0f} s  {fault.area:10} {fault.name}"
                  f"\n{'':25}{verdict.why[:200]}", flush=True)  # fmt: skip
            verdicts.append(verdict)
    if args.json:
        args.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n")
    every = Counter(fault.area for fault in faults)
    red = Counter(v.fault.area for v in verdicts if v.verdict == "red")
    for area, count in every.items():
        print(f"{area}: {red[area]} of {count} planted faults turn the suite red")
    print(f"all: {red.total()} of {every.total()}")
    return 0 if red.total() == every.total() else 1


def chosen(fault: Fault, names: Sequence[str]) -> bool:
    return not names or any(name == fault.area or name in fault.name for name in names)


def copied(tree: Path, to: Path, left_out: Sequence[str] = LEFT_OUT) -> Path:
    def ignored(folder: str, names: list[str]) -> set[str]:
        patterns = (*left_out, *MADE) if Path(folder) == tree else left_out
        return shutil.ignore_patterns(*patterns)(folder, names)

    return Path(shutil.copytree(tree, to, ignore=ignored))


def tried(faults: Sequence[Fault], clean: Path, jobs: int) -> Iterator[Verdict]:
    """The verdict on each fault, as soon as it is there."""
    waiting, running = list(faults), list[tuple[Fault, Trial]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            fault = waiting.pop(0)
            # With its bytecode, but for that of the file that changes.
            tree = copied(clean, clean.parent / f"tree-{len(waiting)}", ("said", ".hypothesis"))
            try:
                text = fault.planted(tree)
            except StaleError as error:
                yield Verdict(fault, "STALE", str(error), 0.0)
                continue
            path = tree / fault.file
            path.write_text(text, encoding="utf-8")
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
                compiled.unlink()
            running.append((fault, Trial(tree, [fault.red])))
        time.sleep(0.05)
        for pair in [pair for pair in running if pair[1].ended(PATIENCE)]:
            running.remove(pair)
            yield pair[1].verdict(pair[0])


class Trial:
    """Pytest in a tree, in a process forked from this one, which has imported what takes long."""

    def __init__(self, tree: Path, tests: Sequence[str]) -> None:
        self.tree, self.began, self.seconds = tree, time.monotonic(), 0.0
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os._exit(self._run(tests))
            finally:
                os._exit(70)

    def _run(self, tests: Sequence[str]) -> int:
        os.setsid()
        os.chdir(self.tree)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(self.tree / "said", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        sys.path[0] = os.environ["PYTHONPATH"] = str(self.tree / "src")
        os.environ["COLUMNS"] = "300"
        import pytest  # when sys.path is as it is to be

        code = int(pytest.main([*OPTIONS, "-n", "0", *tests]))
        sys.stdout.flush()
        return code

    def ended(self, patience: float) -> bool:
        """Whether it has, by itself or because it took too long."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self.seconds = time.monotonic() - self.began
        if pid == 0 and self.seconds > patience:
            os.killpg(self.pid, signal.SIGKILL)
            pid, status = os.waitpid(self.pid, 0)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def end(self, patience: float) -> int | None:
        while not self.ended(patience):
            time.sleep(0.05)
        return self.code

    def failures(self) -> list[str]:
        """What pytest says of the tests that failed, or at least its last line."""
        lines = (self.tree / "said").read_text(errors="replace").strip().splitlines() or [""]
        return [
            line for line in lines if line.startswith(("FAILED tests", "ERROR tests"))
        ] or lines[-1:]

    def verdict(self, fault: Fault) -> Verdict:
        said = self.failures()[0]
        shutil.rmtree(self.tree, ignore_errors=True)
        assert self.code is not None
        verdict = MEANING.get(self.code, "LOST")
        return Verdict(fault, verdict, said.partition(" - ")[2] or said, self.seconds)


if __name__ == "__main__":
    sys.exit(main())
