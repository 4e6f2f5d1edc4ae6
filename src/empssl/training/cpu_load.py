"""Which cores other programs take, and how many threads are best then."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from empssl.errors import UsageError

FULL = 0.9  # share of all cores that are at work before anybody waits for one
OTHERS = 0.25  # cores
SECONDS = 5.0  # before a look says something
# Of a system's clocks those that somebody computes by; not all systems have all of them.
WORK = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")


@dataclass(frozen=True)
class CpuReading:
    """Clocks, in seconds.

    Attributes:
        wall: the time.
        busy: work of all cores since the machine started.
        own: work of this process.
        cores: how many there are.
    """

    wall: float
    busy: float
    own: float
    cores: int


class ThreadControl:
    """Keeps torch's threads to the cores that other programs leave.

    Threads of a parallel loop wait for the slowest of them, so that one busy program on one core
    can make a training step ten times as long, and one thread less costs less than that
    (docs/log.md). Another number of threads adds numbers up in another order: runs repeat bit for
    bit with a fixed number only.

    Args:
        fixed: change nothing, and warn once.

    Attributes:
        most: threads that there are where all cores are free.
    """

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed
        self.most = torch.get_num_threads()
        self._last = reading()

    def __enter__(self) -> "ThreadControl":
        return self

    def __exit__(self, *raised: object) -> None:
        if not self.fixed:
            torch.set_num_threads(self.most)

    def update(self) -> str | None:
        """Look at the cores every few seconds; what to print about what was found and done."""
        if self._last is None:  # has warned, or the system does not tell: nothing to read again
            return None
        now = reading()
        if now is None or now.wall - self._last.wall < SECONDS:
            return None
        others, self._last = taken_by_others(self._last, now), now
        threads = torch.get_num_threads()
        taken = f"other programs take {others:.1f} of the {now.cores} cores"
        if self.fixed or self.most == 1:
            if others < OTHERS:
                return None
            self._last = None
            return f"{taken}, which can make a step many times as long; " + advice(
                others, now.cores, threads
            )
        wanted = min(self.most, free_cores(others, now.cores))
        if wanted == threads:
            return None
        torch.set_num_threads(wanted)
        if wanted < threads:
            return f"{taken}: going on with {_counted(wanted)} in place of {threads}"
        return f"cores are free again: going on with {_counted(wanted)} in place of {threads}"


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Have torch compute on so many threads; None for as many as it does.

    Raises:
        UsageError: `count` is not positive.
    """
    if count is None:
        yield
        return
    if count < 1:
        raise UsageError(f"threads is {count}; give at least 1, or leave it out")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_are_given() -> bool:
    """Whether the user's environment says how many threads there are to be."""
    return bool(os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"))


def free_cores(others: float, cores: int) -> int:
    """Whole cores that others leave, at least one."""
    return max(1, math.floor(cores - others)) if others >= OTHERS else cores


def advice(others: float, cores: int, threads: int) -> str:
    """What helps where others take so many of the cores from this many threads."""
    left = free_cores(others, cores)
    if threads > left:
        return f"stop them, or leave them their cores with OMP_NUM_THREADS={left}"
    return (
        "stop them, or wait until they end: fewer than the "
        f"{_counted(threads)} of this one would not help"
    )


def _counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def taken_by_others(first: CpuReading, now: CpuReading) -> float:
    """Cores on average, or 0 where there were enough for everybody."""
    wall = now.wall - first.wall
    if now.busy - first.busy < FULL * now.cores * wall:
        return 0.0
    return max(0.0, (now.busy - first.busy - now.own + first.own) / wall)


def reading() -> CpuReading | None:
    """The clocks now; None where the system does not tell."""
    try:
        times = psutil.cpu_times()
    except (psutil.Error, OSError):
        return None
    busy = sum(getattr(times, kind, 0.0) for kind in WORK)
    return CpuReading(time.monotonic(), busy, time.process_time(), psutil.cpu_count() or 1)
