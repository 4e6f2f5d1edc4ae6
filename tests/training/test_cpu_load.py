import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS

from empssl.device import cores
from empssl.runs.run import Run
from empssl.training import cpu_load
from empssl.training.cpu_load import (
    CpuReading,
    ThreadControl,
    advice,
    free_cores,
    reading,
    taken_by_others,
    torch_threads,
)
from empssl.training.train import train


def readings(own: float, others: float, *, cores: int = 2) -> Iterator[CpuReading]:
    """A look every two seconds while `own` and `others` cores are at work."""
    return (
        CpuReading(wall, 1000 + wall * (own + others), 10 + wall * own, cores)
        for wall in itertools.count(0.0, 2.0)
    )


def warnings(
    monkeypatch: pytest.MonkeyPatch, own: float, others: float, cores: int = 2, threads: int = 2
) -> list[str]:
    clock = readings(own, others, cores=cores)
    monkeypatch.setattr(cpu_load, "reading", lambda: next(clock))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    watch = ThreadControl(fixed=True)
    return [text for text in (watch.update() for _ in range(10)) if text is not None]


def test_a_busy_neighbor_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = warnings(monkeypatch, own=1.2, others=0.8)
    assert "other programs take 0.8 of the 2 cores" in text
    assert "OMP_NUM_THREADS=1" in text


@pytest.mark.parametrize(
    ("others", "cores", "threads", "said"),
    [
        (0.8, 2, 1, "wait until they end: fewer than the 1 thread of this one would not help"),
        (4.0, 8, 4, "wait until they end: fewer than the 4 threads of this one would not help"),
        (4.0, 8, 8, "leave them their cores with OMP_NUM_THREADS=4"),
        (7.9, 8, 8, "leave them their cores with OMP_NUM_THREADS=1"),
        (30.0, 8, 8, "leave them their cores with OMP_NUM_THREADS=1"),
    ],
)
def test_what_helps_is_said_and_nothing_that_is_so_already(
    others: float, cores: int, threads: int, said: str
) -> None:
    assert advice(others, cores, threads).endswith(said)


def test_one_thread_is_not_told_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = warnings(monkeypatch, own=1.0, others=1.0, threads=1)
    assert "OMP_NUM_THREADS" not in text


@pytest.mark.parametrize(
    ("own", "others", "cores"),
    [(2.0, 0.0, 2), (1.9, 0.1, 2), (2.0, 8.0, 64), (1.0, 0.6, 2)],
    ids=["alone", "hardly", "many-cores", "a-core-left"],
)
def test_enough_for_everybody_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, own: float, others: float, cores: int
) -> None:
    assert warnings(monkeypatch, own, others, cores) == []


def test_a_system_that_does_not_tell_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_load, "reading", lambda: None)
    assert ThreadControl(fixed=False).update() is None


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def test_threads_follow_the_cores_that_are_free(
    monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    """Both are taken for six seconds, then one is for six, then none is."""
    others, at, clocks = [0.9, 0.9, 0.0, 0.0], 0.0, [CpuReading(0.0, 0.0, 0.0, 2)]
    for taken in others:
        at += 6.0
        busy = clocks[-1].busy + 6.0 * (2.0 if taken else 1.0)
        clocks.append(CpuReading(at, busy, clocks[-1].own + 6.0 * (1.1 if taken else 1.0), 2))
    clock = iter(clocks)
    monkeypatch.setattr(cpu_load, "reading", lambda: next(clock))
    said, counts = [], []
    with ThreadControl(fixed=False) as threads:
        for _ in others:
            said.append(threads.update())
            counts.append(torch.get_num_threads())
    assert counts == [1, 1, 2, 2]
    assert said[1] is said[3] is None
    assert said[0] == (
        "other programs take 0.9 of the 2 cores: going on with 1 thread in place of 2"
    )
    assert said[2] == "cores are free again: going on with 2 threads in place of 1"


def test_the_threads_there_were_come_back(
    monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    clock = readings(own=1.0, others=1.0)
    monkeypatch.setattr(cpu_load, "reading", lambda: next(clock))
    with ThreadControl(fixed=False) as threads:
        assert [threads.update() is None for _ in range(3)] == [True, True, False]
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_fixed_threads_stay(monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    clock = readings(own=1.0, others=1.0)
    monkeypatch.setattr(cpu_load, "reading", lambda: next(clock))
    with ThreadControl(fixed=True) as threads:
        for _ in range(9):
            threads.update()
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("others", "cores", "free"), [(0.0, 8, 8), (0.2, 8, 8), (0.3, 8, 7), (7.9, 8, 1), (30.0, 8, 1)]
)
def test_cores_are_free_as_wholes(others: float, cores: int, free: int) -> None:
    assert free_cores(others, cores) == free


def test_own_work_is_not_others() -> None:
    first = reading()
    assert first is None or first.busy > first.own > 0
    if first is not None:
        until = first.own + 0.3
        while (now := reading()) is not None and now.own < until:
            sum(range(10_000))
        assert now is not None
        assert now.own - first.own > 0.2
        assert now.busy - first.busy > 0.2
        assert taken_by_others(first, now) >= 0.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no such limit")
def test_only_the_cores_that_this_process_may_use_are_counted() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


def test_a_run_has_the_threads_that_were_asked_for(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run = train("digits", out=tmp_path / "run", **SETTINGS, epochs=0.01, threads=before + 1)
    assert Run(run).environment["threads"] == before + 1
    assert torch.get_num_threads() == before
