import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from empssl.diagnostics import doctor as doctor_module
from empssl.diagnostics.doctor import Check, Checkup, doctor
from empssl.errors import UsageError
from empssl.training.cpu_load import CpuReading


@pytest.fixture(scope="module")
def found() -> Checkup:
    return doctor()


def run_doctor(*words: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "empssl", "doctor", *words], capture_output=True, text=True,
        env=env | {"OMP_NUM_THREADS": "1"}, timeout=600, check=False,
    )  # fmt: skip


def test_every_line_has_a_verdict_and_what_is_not_well_has_advice(found: Checkup) -> None:
    lines = found.table().splitlines()
    assert lines[0] == found.verdict
    starts = [line.split()[0] for line in lines[1:] if line and not line.startswith(" ")]
    assert set(starts) <= {"ok", "slow", "problem"}
    assert all(len(line) <= 80 for line in lines)
    assert all(f.advice for f in found.findings if f.verdict != "ok" and f.what != "gpu")
    text = " ".join(found.table().split())
    assert all(f.found in text for f in found.findings)


def test_what_is_wrong_comes_first_then_what_is_slow_and_what_is_well_is_below() -> None:
    checks = Checkup((
        Check("a", "ok", "fine"), Check("b", "slow", "late", "hurry"),
        Check("torch", "ok", "2.13"), Check("c", "problem", "broken", "mend it"),
        Check("numpy", "ok", "2.4"),
    ))  # fmt: skip
    assert checks.table().splitlines() == [
        "Not ready: something does not work here (c).", "",
        "problem  c: broken", "         -> mend it", "slow     b: late", "         -> hurry", "",
        "ok       a: fine", "ok       torch 2.13, numpy 2.4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (("ok", "slow"), "Ready, but slower than it could be (1)."),
        (("ok", "ok"), "Ready: all is well here."),
        (("slow", "problem"), "Not ready: something does not work here (1)."),
    ],
)
def test_a_checkup_begins_with_its_verdict(verdicts: tuple[Any, ...], sentence: str) -> None:
    found = Checkup(tuple(Check(str(i), v, "x") for i, v in enumerate(verdicts)))
    assert found.table().splitlines()[0] == found.verdict == sentence
    assert repr(found) == f"<Checkup: {sentence}>"
    assert found._repr_html_().startswith(f"<pre>{sentence}\n")


def test_one_problem_makes_the_exit_code_2() -> None:
    assert Checkup((Check("a", "ok", ""), Check("b", "slow", ""))).exit_code == 0
    assert Checkup((Check("a", "ok", ""), Check("b", "problem", ""))).exit_code == 2


def test_json_holds_all_that_the_table_says(found: Checkup) -> None:
    content = json.loads(found.to_json())
    assert content["exit_code"] == 0
    assert [f["found"] for f in content["findings"]] == [f.found for f in found.findings]


def test_a_full_disk_is_a_problem_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "free_disk", lambda path: 3 * 2**20)
    disk = doctor()["disk"]
    assert disk.verdict == "problem"
    assert "3.0 MiB free; a checkpoint" in disk.found


def test_more_threads_than_cores_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    assert doctor()["threads"].verdict == "slow"


def test_few_threads_are_told_a_number_that_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(doctor_module, "cores", lambda: 3)
    assert "OMP_NUM_THREADS=3" in doctor()["threads"].advice


@pytest.mark.parametrize(("others", "verdict"), [(1.5, "slow"), (0.0, "ok")])
def test_other_programs_that_take_cores_are_told_with_what_helps(
    others: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([CpuReading(0.0, 0.0, 0.0, 2), CpuReading(10.0, 5.0 + 10 * others, 5.0, 2)])
    monkeypatch.setattr(doctor_module, "reading", lambda: next(looks))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    finding = doctor()["other programs"]
    assert finding.verdict == verdict
    assert ("wait until they end" in finding.advice) == (verdict == "slow")
    assert "OMP_NUM_THREADS" not in finding.advice


def test_a_torch_with_known_holes_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "version", lambda name: "2.9.1")
    assert doctor()["torch"].verdict == "problem"
    assert doctor()["pillow"].verdict == "ok"


def test_the_least_torch_is_the_one_that_the_package_asks_for() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    asked = tomllib.loads(project.read_text())["project"]["dependencies"]
    least = ".".join(map(str, doctor_module.LEAST["torch"]))
    assert [line for line in asked if line.startswith("torch")] == [f"torch>={least}"]


def test_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module.resource, "getrlimit", lambda which: (64, 4096))
    assert doctor()["open files"].advice == "set ulimit -n 1024"


def test_one_process_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(UsageError, match="distributed is 1, expected 2 or more"):
        doctor(distributed=1)


def test_it_works_without_a_home_in_the_c_locale(tmp_path: Path) -> None:
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    done = run_doctor("--out", str(tmp_path), env=kept | {"LANG": "C", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stderr == ""


def test_two_processes_are_compared_with_one() -> None:
    done = run_doctor("--distributed", "2", "--json", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    [processes] = [f for f in json.loads(done.stdout)["findings"] if f["what"] == "processes"]
    assert processes["verdict"] == "ok"
    assert processes["found"].startswith("2 processes on cpu: the largest difference")
