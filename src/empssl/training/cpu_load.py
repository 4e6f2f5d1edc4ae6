"""Whether other programs take the cores that this one computes on."""

import math
import time
from dataclasses import dataclass

import psutil

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


class LoadWatch:
    """Tells once, after some seconds, when others compete for the cores.

    Threads of a parallel loop wait for the slowest of them, so one busy process on one core can
    make a training step ten times as long (docs/log.md).

    Args:
        threads: that compute in this process.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._first = reading()

    def update(self) -> str | None:
        """A warning to print, the first time that there is reason for one."""
        now = reading()
        if self._first is None or now is None or now.wall - self._first.wall < SECONDS:
            return None
        first, self._first = self._first, None
        others = taken_by_others(first, now)
        if others < OTHERS:
            return None
        return (
            f"other programs take {others:.1f} of the {now.cores} cores, which can make a step "
            f"many times as long; {advice(others, now.cores, self.threads)}"
        )


def advice(others: float, cores: int, threads: int) -> str:
    """What helps where others take so many of the cores from this many threads."""
    left = max(1, math.floor(cores - others))
    if threads > left:
        return f"stop them, or leave them their cores with OMP_NUM_THREADS={left}"
    own = "1 thread" if threads == 1 else f"{threads} threads"
    return f"stop them, or wait until they end: fewer than the {own} of this one would not help"


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
