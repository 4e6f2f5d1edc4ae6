import itertools
from collections.abc import Iterator

import pytest

from empssl import load
from empssl.load import LoadWatch, Reading, reading, taken_by_others


def readings(own: float, others: float, *, cores: int = 2) -> Iterator[Reading]:
    """A look every two seconds while `own` and `others` cores are at work."""
    return (
        Reading(wall, 1000 + wall * (own + others), 10 + wall * own, cores)
        for wall in itertools.count(0.0, 2.0)
    )


def warnings(
    monkeypatch: pytest.MonkeyPatch, own: float, others: float, cores: int = 2
) -> list[str]:
    clock = readings(own, others, cores=cores)
    monkeypatch.setattr(load, "reading", lambda: next(clock))
    watch = LoadWatch()
    return [text for text in (watch.update() for _ in range(10)) if text is not None]


def test_a_busy_neighbor_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = warnings(monkeypatch, own=1.2, others=0.8)
    assert "other programs take 0.8 of the 2 cores" in text
    assert "OMP_NUM_THREADS=1" in text


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
    monkeypatch.setattr(load, "reading", lambda: None)
    assert LoadWatch().update() is None


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
