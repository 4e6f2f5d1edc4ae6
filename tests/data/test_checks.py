import json
import os
from pathlib import Path

import pytest

from empssl.data import BadSample, BadSamples
from empssl.errors import DataError


def bad(name: str, reason: str = "unreadable") -> BadSample:
    return BadSample(0, name, reason, "OSError: no", 12)


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_ledger_has_a_line_for_each_image(tmp_path: Path) -> None:
    ledger = BadSamples(tmp_path / "bad.jsonl", total=1000)
    ledger.add(bad("a.jpg"), epoch=0, step=3)
    ledger.add(bad("a.jpg"), epoch=1, step=9)
    ledger.add(bad("b.jpg", "truncated"), epoch=1, step=10)
    assert ledger.count == 2
    assert rows(tmp_path / "bad.jsonl")[0] == {
        "index": 0,
        "name": "a.jpg",
        "reason": "unreadable",
        "error": "OSError: no",
        "bytes": 12,
        "epoch": 0,
        "step": 3,
    }
    assert [row["step"] for row in rows(tmp_path / "bad.jsonl")] == [3, 10]


@pytest.mark.parametrize(
    ("total", "budget"),
    [(0, 0), (4, 0), (10, 2), (200, 40), (250, 50), (5000, 50), (10_000, 100), (10**6, 1000)],
)
def test_budget_is_one_percent_and_kind_to_small_sets(total: int, budget: int) -> None:
    assert BadSamples(None, total).budget == budget


def test_passing_the_budget_ends_with_the_reasons(tmp_path: Path) -> None:
    ledger = BadSamples(tmp_path / "bad.jsonl", total=10)
    ledger.add(bad("a.jpg", "vanished"), epoch=0, step=0)
    ledger.add(bad("b.jpg"), epoch=0, step=0)
    with pytest.raises(DataError) as caught:
        ledger.add(bad("c.jpg"), epoch=0, step=0)
    assert caught.value.exit_code == 3
    first, *reasons = str(caught.value).splitlines()
    assert "3 of 10 images cannot be used" in first
    assert "at most 2" in first
    assert [line.split()[:2] for line in reasons] == [["2", "unreadable,"], ["1", "vanished,"]]
    assert ledger.count == len(rows(tmp_path / "bad.jsonl")) == 3


def test_summary_has_ten_reasons() -> None:
    ledger = BadSamples(None, total=1000)
    for number in range(12):
        ledger.add(bad(f"{number}.jpg", f"reason-{number}"), epoch=0, step=0)
    assert len(ledger.summary().splitlines()) == 10


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", "\u202efdp".encode(), b'"\\'])
def test_strange_names_survive(tmp_path: Path, name: bytes) -> None:
    ledger = BadSamples(tmp_path / "bad.jsonl", total=5)
    ledger.add(bad(os.fsdecode(name)), epoch=0, step=0)
    (row,) = rows(tmp_path / "bad.jsonl")
    assert os.fsencode(str(row["name"])) == name
    with pytest.raises(DataError) as caught:
        ledger.add(bad(os.fsdecode(name) + "2"), epoch=0, step=0)
    str(caught.value).encode()  # can be printed


def test_resumed_ledger_counts_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    BadSamples(path, total=10).add(bad("a.jpg"), epoch=0, step=0)
    resumed = BadSamples(path, total=10)
    resumed.add(bad("a.jpg"), epoch=2, step=7)
    resumed.add(bad("b.jpg"), epoch=2, step=7)
    assert resumed.count == 2
    assert [row["name"] for row in rows(path)] == ["a.jpg", "b.jpg"]


def test_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    BadSamples(path, total=100).add(bad("a.jpg"), epoch=0, step=0)
    with path.open("a") as file:
        file.write('{"index": 0, "na')
    BadSamples(path, total=100).add(bad("b.jpg"), epoch=0, step=0)
    assert [row["name"] for row in rows(path)] == ["a.jpg", "b.jpg"]
