"""Kill a run anywhere: resumed, it ends as one that was never interrupted, to the last bit."""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from lives import BROKEN, STEPS, training_run
from tiny import differences
from victim import Death, Victim

from empssl.runs.run import Run


@dataclass(frozen=True)
class Crash:
    """Where the first lives of a run end, and a file whose last line was only half written."""

    deaths: tuple[Death, ...]
    torn: str | None = None


def at(where: str, call: int = 0, when: str = "before", torn: str | None = None) -> Crash:
    return Crash((Death(where, call, when),), torn)  # type: ignore[arg-type]


# Writes of a life: config, an empty list of trained images, plan and environment; then that list
# (of the first four checkpoints), weights, optimizer, state and manifest; then the model's.
CRASHES = {
    "the folder is made": at("empssl.runs.files:sync"),
    "the lock is held": at("empssl.runs.run:replace"),
    "half of the configuration": at("empssl.runs.files:write", 0, "half"),
    "the configuration is not in place": at("pathlib:Path.replace"),
    "the configuration is all there is": at("empssl.runs.run:replace", 0, "after"),
    "half of the list of trained images": at("empssl.runs.files:write", 1, "half"),
    "half of the plan": at("empssl.runs.files:write", 2, "half"),
    "the loader begins": at("empssl.data.sampler:Sampler._read"),
    "the loader reads ahead": at("empssl.data.sampler:Sampler._read", 4, "after"),
    "half a line of the ledger": at(
        "empssl.data.checks:BadSamples.add", 0, "after", torn="bad_samples.jsonl"
    ),
    "the first step": at("empssl.training.trainer:training_step"),
    "gradients, but no update": at("empssl.optim:LARS.step", 2),
    "an update that nobody noted": at("empssl.optim:LARS.step", 2, "after"),
    "half a line of metrics": at(
        "empssl.runs.run:Run.add_metrics", 2, "after", torn="metrics.jsonl"
    ),
    "metrics without a checkpoint": at("empssl.runs.run:Run.add_metrics", 2, "after"),
    "the edge of an epoch": at("empssl.data.sampler:Sampler.draw", 3),
    "trained images of steps without a checkpoint": at("empssl.runs.files:write", 9, "after"),
    "half of the weights": at("empssl.runs.files:write", 10, "half"),
    "half of the optimizer": at("empssl.runs.files:write", 11, "half"),
    "half of the manifest": at("empssl.runs.files:write", 13, "half"),
    "a checkpoint without its name": at("pathlib:Path.rename", 1),
    "a checkpoint that was not read back": at("pathlib:Path.rename", 1, "after"),
    "before old ones go": at("shutil:rmtree"),
    "half of an old one": at("os:unlink", 11, "after"),
    "all steps, but no model": at("empssl.runs.run:Run.save_model"),
    "half of the model": at("empssl.runs.files:write", 8 + 4 * STEPS, "half"),
    "the model is there": at("empssl.runs.run:Run.save_model", 0, "after"),
    "metrics are cut": Crash((
        Death("empssl.runs.run:Run.add_metrics", 2, "after"), Death("pathlib:Path.replace"),
    )),
    "what is left is removed": Crash((
        Death("empssl.runs.files:write", 10, "half"), Death("shutil:rmtree"),
    )),
    "a resumed run before its first step": Crash((
        Death("empssl.training.trainer:training_step", 3),
        Death("empssl.runs.run:Run.trim_metrics", 0, "after"),
        Death("empssl.training.trainer:training_step", 2),
    )),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    end = Victim(training_run, images, out).end()
    assert end.code == 0, end.error
    assert len((out / "bad_samples.jsonl").read_bytes().splitlines()) == BROKEN
    return out


def mismatches(whole: Path, run: Path) -> list[str]:
    """What two runs do not share, and what interrupted writes left behind."""
    found = differences(whole, run)
    for name in ("bad_samples.jsonl", "model/model.safetensors", "config.yaml", "plan.json"):
        if (whole / name).read_bytes() != (run / name).read_bytes():
            found.append(name)
    if [entry["step"] for entry in Run(run).metrics()] != list(range(STEPS)):
        found.append("steps")
    return found + [str(path) for path in run.rglob("*") if ".partial-" in path.name]


def finish(images: Path, run: Path) -> None:
    end = Victim(training_run, images, run).end()
    assert end.code == 0, end.error


def test_there_are_as_many_crashes_as_promised() -> None:
    assert len(CRASHES) >= 26


@pytest.mark.parametrize("name", CRASHES)
def test_a_run_killed_here_loses_nothing(name: str, images: Path, whole: Path, quick: Path) -> None:
    crash, run = CRASHES[name], quick / "run"
    for death in crash.deaths:
        assert Victim(training_run, images, run, death=death).end().code == -9
    if crash.torn is not None:
        content = (run / crash.torn).read_bytes()
        (run / crash.torn).write_bytes(content[: -len(content.splitlines()[-1]) // 2])
    finish(images, run)
    assert mismatches(whole, run) == []


def test_runs_killed_at_40_random_instants_lose_nothing(
    images: Path, whole: Path, quick: Path
) -> None:
    """With a checkpoint after each step, and with none before the last."""
    calls = {
        every: Victim(
            training_run, images, quick / f"counted-{every}", every=every, counted=True
        ).end().calls or 0
        for every in (0.0, math.inf)
    }  # fmt: skip
    draw = random.Random(0)
    for number in range(40):
        run, every = quick / str(number), draw.choice(list(calls))
        for life in range(draw.choice([1, 1, 1, 2, 3])):
            instant = draw.randrange(1, int(0.99 * calls[every]))
            code = Victim(training_run, images, run, every=every, calls=instant).end().code
            assert code == -9 or life > 0  # a later life has fewer steps to go
        finish(images, run)
        assert mismatches(whole, run) == [], number
