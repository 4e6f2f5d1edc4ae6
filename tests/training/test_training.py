import copy
import itertools
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bad_images import photo
from PIL import Image
from tiny import (
    SETTINGS,
    STATEFUL,
    STEPS_PER_EPOCH,
    command,
    differences,
    metrics,
    newest,
    start,
    train_tiny,
    weights,
)

from empssl import progress
from empssl.data import MemoryImages, open_images
from empssl.data.sampler import Sampler
from empssl.errors import CheckpointError, DataError, DivergenceError, StoppedError, UsageError
from empssl.models import build_network
from empssl.objectives import build_objective
from empssl.objectives.base import Loss
from empssl.objectives.emp import EMP
from empssl.optim import cosine
from empssl.rng import uniform
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training import setup, trainer
from empssl.training import train as train_module
from empssl.training.budget import Budget
from empssl.training.flops import step_flops
from empssl.training.recipes import resolve
from empssl.training.step import StepResult
from empssl.training.train import train

AtStep = Callable[[int, Callable[..., None]], None]


class PulledPlug(BaseException):
    """Ends a run as a kill does: nothing may handle it."""


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> AtStep:
    """Do something right before a step, counted from the start of the process."""

    def plant(step: int, action: Callable[..., None]) -> None:
        original, calls = trainer.training_step, itertools.count()

        def planted(*arguments: Any, **options: Any) -> Any:
            if next(calls) == step:
                action(*arguments)
            return original(*arguments, **options)

        monkeypatch.setattr(trainer, "training_step", planted)

    return plant


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(photo(number, side=16))
    return folder


def pull_plug(*_: Any) -> None:
    raise PulledPlug


def stop(out: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Train, and have SIGTERM come in the middle of step 2."""
    with monkeypatch.context():
        at_step(2, lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(StoppedError, match="after step 3 of 6"):
            train_tiny(out, steps=6, **changes)
    monkeypatch.undo()


# What a run leaves behind


def test_a_run_directory_holds_what_is_promised(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()} - {".lock"}
    assert names == {
        "config.yaml", "plan.json", "environment.json", "metrics.jsonl", "checkpoints", "model",
        "trained_images.safetensors",
    }  # fmt: skip


def test_every_step_has_one_line_of_metrics(tiny_run: Path) -> None:
    entries = Run(tiny_run).metrics()
    assert [entry["step"] for entry in entries] == list(range(6))
    for entry in entries:
        assert entry.keys() - {"spectrum"} == {  # which not every step measures
            "step", "epoch", "loss", "coding_rate", "similarity", "coding_rate_ratio",
            "participation_ratio", "embedding_std", "alignment", "uniformity", "gradient_norm",
            "lr", "clip_fraction", "patches", "pflop", "patches_per_second", "seconds",
        }  # fmt: skip


def test_counts_in_the_metrics_add_up(tiny_run: Path) -> None:
    plan, last = Run(tiny_run).plan, Run(tiny_run).metrics()[-1]
    assert (last["patches"], last["epoch"]) == (6 * 2 * 8, 6 / plan["steps_per_epoch"])
    assert last["pflop"] == pytest.approx(last["patches"] * plan["gflop_per_patch"] / 1e6)


def test_the_learning_rate_falls_from_its_peak_to_near_zero(tmp_path: Path) -> None:
    lrs = [e["lr"] for e in metrics(train_tiny(tmp_path / "run", steps=20))]
    assert lrs == sorted(lrs, reverse=True)
    assert lrs[0] == 0.3
    assert 0 < lrs[-1] < 0.01 * lrs[0]


def test_the_recorded_config_makes_the_same_run_again(tiny_run: Path, tmp_path: Path) -> None:
    config = Run(tiny_run).config
    again = train(**config, out=tmp_path / "again")
    assert differences(tiny_run, again) == []


def test_training_never_reads_a_label(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Secret(MemoryImages):
        @property
        def labels(self) -> None:  # type: ignore[override]
            raise AssertionError("training read the labels")

        @labels.setter
        def labels(self, value: object) -> None:
            pass

    def without_labels(data: str, **options: Any) -> Secret:
        known = open_images(data, split="train", side=16)
        assert isinstance(known, MemoryImages)
        return Secret(known.pixels, name="digits", split="train", fingerprint=known.fingerprint)

    monkeypatch.setattr(train_module, "open_images", without_labels)
    monkeypatch.setattr(
        train_module, "class_counts", lambda images: ""
    )  # only shows what there are
    blind = train_tiny(tmp_path / "run", steps=6)
    assert metrics(blind) == metrics(tiny_run)


def test_an_objective_that_needs_labels_is_given_those_of_its_images(
    tmp_path: Path, at_step: AtStep
) -> None:
    found: list[torch.Tensor] = []
    at_step(0, lambda *step: found.append(step[7]))
    train_tiny(tmp_path / "run", objective="supcon", steps=1)
    images = open_images("digits", split="train", side=16)
    sampler = Sampler(images, batch=8, seed=0, rank=0, world=1)
    assert images.labels is not None
    assert torch.equal(found[0], images.labels[sampler.draw(0).samples])


def test_an_objective_that_needs_labels_says_so_where_there_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    with pytest.raises(UsageError, match=r"supcon .* labels, and .* has none") as refused:
        train(str(folder), out=tmp_path / "run", **SETTINGS | {"objective": "supcon"})
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_weak_views_come_first_and_are_cropped_and_mirrored_only(
    tmp_path: Path, at_step: AtStep
) -> None:
    found: list[torch.Tensor] = []
    at_step(0, lambda *step: found.append(step[4].clone()))
    options: dict[str, Any] = {"objective": STATEFUL["ressl"], "patches": 3, "steps": 1}
    full = {"brightness": 0.9, "jitter": 1.0}
    train_tiny(tmp_path / "run", views=full, **options)
    at_step(0, lambda *step: found.append(step[4].clone()))
    train_tiny(tmp_path / "plain", views={"jitter": 0.0, "blur": 0.0}, **options)
    augmented, plain = found
    assert augmented.shape == (3, 8, 3, 12, 12)
    assert torch.equal(augmented[0], plain[0])
    assert not torch.allclose(augmented[1:], plain[1:])


@pytest.mark.parametrize(("patches", "objective"), [(3, STATEFUL["ressl"]), (4, {"name": "emp"})])
def test_a_view_is_what_its_number_among_all_views_of_the_image_makes_it(
    patches: int, objective: dict[str, Any], tmp_path: Path, at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Behind weak views, and in the second of two processes that share them."""
    found: list[torch.Tensor] = []
    at_step(0, lambda *step: found.append(step[4].clone()))
    views = {"name": "crops", "global_views": 2, "scale": (0.9, 1.0), "local_scale": (0.01, 0.02)}
    of = setup.Share.of

    def second(*given: Any, **options: Any) -> Any:
        share = of(*given, **options)
        half = len(share.views) // 2
        return replace(share, views=share.views if half < 2 else share.views[half:])

    monkeypatch.setattr(setup.Share, "of", second)
    train_tiny(tmp_path / "run", patches=patches, objective=objective, views=views, steps=1)
    # A crop of a pixel or two has next to no detail.
    detail = found[0].diff(dim=-1).abs().mean((1, 2, 3, 4))
    assert (detail > 0.05).tolist() == ([True, True, False] if patches == 3 else [False, False])


def test_a_target_follows_the_network_by_the_momentum_of_each_step(
    tmp_path: Path, at_step: AtStep
) -> None:
    """From 0 the momentum rises to a half at the second of two steps."""
    found: list[dict[str, torch.Tensor]] = []
    at_step(1, lambda *step: found.append(copy.deepcopy(step[1].module.state_dict())))
    objective = STATEFUL["byol"] | {"momentum": 0.0}
    run = train_tiny(tmp_path / "run", steps=2, objective=objective)
    after, target = (newest(run).tensors[group] for group in ("model", "target"))
    for name in after:
        if name.endswith(("weight", "bias")):
            expected = (found[0][name] + after[name]) / 2
            assert torch.allclose(target[f"network.{name}"], expected, atol=1e-6), name


def test_a_plan_counts_target_objective_and_optimizer(tmp_path: Path) -> None:
    settings = resolve("demo", SETTINGS)
    for name, spec in STATEFUL.items():
        plan = Run(train_tiny(tmp_path / name, steps=1, objective=spec)).plan
        network = build_network(settings["backbone"], settings["projector"])
        step = step_flops(
            network, build_objective(spec, dim=8), 2, plan["view_side"], 8, settings["optimizer"]
        )
        assert plan["gflop_per_patch"] == pytest.approx(step.per_view / 1e9)
        assert (step.target > 0) == (name != "swav")


# Seeds


def test_a_seed_decides_everything(tiny_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)  # the global generator must not matter
    assert differences(tiny_run, train_tiny(tmp_path / "same", steps=6)) == []


def test_an_image_has_other_views_in_the_next_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def noted(samples: torch.Tensor, **key: Any) -> torch.Tensor:
        seen.append(uniform(samples, **key)[:, samples.argsort()])
        return uniform(samples, **key)

    monkeypatch.setattr(trainer, "uniform", noted)
    images = photos(tmp_path / "photos", 8)
    train(str(images), out=tmp_path / "run", **SETTINGS | {"epochs": 2.0, "image_side": 16})
    first, second = seen
    assert (first != second).all()


def test_another_seed_makes_another_run(tiny_run: Path, tmp_path: Path) -> None:
    other = train_tiny(tmp_path / "other", steps=6, seed=1)
    assert metrics(other)[0]["loss"] != metrics(tiny_run)[0]["loss"]
    name = "backbone.conv1.weight"
    assert not torch.equal(weights(other)[name], weights(tiny_run)[name])


# Budgets


class Clock:
    """Time that passes only while steps are taken."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@contextmanager
def paced(each: Callable[[int], float] = lambda _: 0.5) -> Iterator[Clock]:
    """Have steps take as many seconds as is said of their number; those that measure count too."""
    clock, calls, step = Clock(), itertools.count(), trainer.training_step

    def timed(*arguments: Any, **options: Any) -> Any:
        clock.now += each(next(calls))
        return step(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "time", clock)
        patch.setattr(train_module, "time", clock)
        patch.setattr(trainer, "training_step", timed)
        yield clock


MEASURED = 6  # steps, before the first of a run of less than 75 seconds


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten seconds, of which measuring the speed takes three."""
    with paced() as clock:
        out = train_tiny(tmp_path_factory.mktemp("timed") / "run", epochs=None, budget="10s")
        assert clock.now == 110.0
    return out


def test_a_budget_fixes_the_steps_before_it_trains(timed: Path) -> None:
    run = Run(timed)
    lrs = [entry["lr"] for entry in run.metrics()]
    assert len(lrs) == run.plan["steps"] == 14
    assert lrs[0] == 0.3
    assert 0 < lrs[-1] < 0.01
    assert run.plan["replanned"] == [[0, 14]]
    assert run.plan["startup_seconds"] == 3.0


def test_the_speed_is_measured_after_saying_so_and_images_a_second_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def measured(self: Any, step: int, progress: float, **options: Any) -> Any:
        said.append(capsys.readouterr().err)
        return taken(self, step, progress, **options)

    taken = trainer.Trainer.train_step
    monkeypatch.setattr(trainer.Trainer, "train_step", measured)
    with paced():
        train_tiny(tmp_path / "run", epochs=None, budget="4s", batch=30)
    assert said[0].endswith("empssl: measuring the speed, for the budget of 4s\n")
    assert re.search(r"^training: .*, 60 images/s, loss -", capsys.readouterr().err, re.MULTILINE)


def test_steps_that_measure_the_speed_leave_no_trace(timed: Path, tmp_path: Path) -> None:
    plain = train_tiny(tmp_path / "plain", steps=14)
    assert differences(timed, plain) == []


@pytest.mark.parametrize("name", STATEFUL)
def test_nor_do_they_in_what_an_objective_remembers(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"objective": STATEFUL[name], "batch": 32}
    with paced():
        timed = train_tiny(tmp_path / "timed", epochs=None, budget="7s", **options)
    steps = Run(timed).plan["steps"]
    assert steps == 8
    plain = train_tiny(tmp_path / "plain", epochs=steps / (1437 // 32), **options)
    assert differences(timed, plain) == []


@pytest.mark.parametrize(("factor", "steps"), [(2.0, (18, 24)), (0.5, (38, 50))])
def test_a_budget_is_kept_where_the_speed_changes(
    factor: float, steps: tuple[int, int], tmp_path: Path
) -> None:
    """After the tenth of 27 steps that were planned."""
    with paced(lambda n: 0.5 * (1 if n < MEASURED + 10 else factor)) as clock:
        out = train_tiny(tmp_path / "run", epochs=None, budget="16.5s")
        assert 0.9 * 16.5 < clock.now - 100 < 1.1 * 16.5
    run = Run(out)
    assert run.plan["replanned"][0] == [0, 27]
    assert run.plan["replanned"][-1][1] == run.plan["steps"] == len(run.metrics())
    assert steps[0] <= run.plan["steps"] <= steps[1]
    lrs = [entry["lr"] for entry in run.metrics()]
    assert lrs == sorted(lrs, reverse=True)
    assert 0 < lrs[-1] < 0.01 * lrs[0]
    assert "spectrum" in run.metrics()[-1]


def test_a_resumed_run_goes_on_with_the_plans_and_the_time_of_its_checkpoint(
    tmp_path: Path, at_step: AtStep
) -> None:
    def each(number: int) -> float:
        return 0.5 if number < MEASURED + 6 else 1.0

    out = tmp_path / "run"
    with paced(each):
        at_step(MEASURED + 15, lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(StoppedError, match="after step 16"):
            train_tiny(out, epochs=None, budget="30s")
    run = Run(out)
    before, planned = metrics(out), run.plan["replanned"]
    assert (planned[0], len(before)) == ([0, 54], 16)
    assert len(planned) > 1
    # A plan of a step that no checkpoint covers is one of a step that is taken again.
    run.plan = run.plan | {"steps": 20, "replanned": [*planned, [18, 20]]}
    with paced(lambda _: 1.0) as clock:
        train("digits", out=out, resume=True)
        took = clock.now - 100
    spent = before and 3.0 + Run(out).metrics()[15]["seconds"]
    assert 0.9 * 30 < spent + took < 1.1 * 30
    assert metrics(out)[:16] == before
    lrs = [entry["lr"] for entry in metrics(out)]
    assert lrs == sorted(lrs, reverse=True)
    assert 0 < lrs[-1] < 0.01 * lrs[0]
    found = Run(out).plan["replanned"]
    assert found[: len(planned)] == planned
    assert [18, 20] not in found
    # The plans alone say at which rate each step was taken.
    budget, rate = Budget(30.0, found), cosine(steps=54)
    assert lrs == [0.3 * rate(budget.position(step)) for step in range(len(lrs))]


def test_plans_are_written_down_before_the_steps_that_follow_them(
    tmp_path: Path, at_step: AtStep
) -> None:
    found: list[Any] = []
    with paced(lambda n: 0.5 if n < MEASURED + 6 else 5.0):
        at_step(MEASURED + 10, lambda *_: found.append(Run(tmp_path / "run").plan))
        train_tiny(tmp_path / "run", epochs=None, budget="60s")
    assert found[0]["steps"] == found[0]["replanned"][-1][1] < found[0]["replanned"][0][1]


def test_a_budget_below_a_pass_says_how_much_of_the_images_it_sees(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with paced():
        train_tiny(tmp_path / "run", epochs=None, budget="12s")
        assert (
            "empssl: the budget of 12s is less than a pass over the images: 10 % of them will be "
            "seen, and all would take 1m30s\n" in capfd.readouterr().err
        )
        train_tiny(tmp_path / "pass", epochs=None, budget="30s", batch=32)
        assert "less than a pass" not in capfd.readouterr().err


@pytest.mark.parametrize("resumed", [False, True])
def test_the_time_left_is_told_from_the_steps_of_this_process(
    resumed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with progress.progress("training", 1000, done=900 if resumed else 0) as advance:
        clock.now += 20
        advance(910 if resumed else 10)
    left = 180 if resumed else 1980
    assert f"training: {910 if resumed else 10} of 1000, {left} s left" in capsys.readouterr().err


def test_training_says_where_it_goes_on(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(tmp_path / "run", at_step, monkeypatch)
    told: list[dict[str, Any]] = []
    shown = trainer.progress

    def noted(title: str, total: int, **options: Any) -> Any:
        told.append({"title": title} | options)
        return shown(title, total, **options)

    monkeypatch.setattr(trainer, "progress", noted)
    train("digits", out=tmp_path / "run", resume=True)
    assert [call["done"] for call in told if call["title"] == "training"] == [3]


# Stopping and going on


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(
    optimizer: str, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_tiny(tmp_path / "whole", steps=6, optimizer=optimizer)
    stop(tmp_path / "parts", at_step, monkeypatch, optimizer=optimizer)
    assert not (tmp_path / "parts" / "model").exists()
    parts = train("digits", out=tmp_path / "parts", resume=True)
    assert differences(whole, parts) == []


@pytest.mark.parametrize("optimizer", ["lars", "muon_lars"])
@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_run_remembers_what_its_objective_did(
    name: str, optimizer: str, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"objective": STATEFUL[name], "optimizer": optimizer}
    whole = train_tiny(tmp_path / "whole", steps=6, **options)
    stop(tmp_path / "parts", at_step, monkeypatch, **options)
    parts = train("digits", out=tmp_path / "parts", resume=True)
    assert differences(whole, parts) == []
    groups = newest(parts).tensors.keys()
    assert {"objective"} <= groups
    assert ("target" in groups) == (name != "swav")
    assert "objective" not in checkpoint.read(parts / "model").tensors  # it is needed no more


def test_an_objective_that_remembers_nothing_leaves_no_file(tiny_run: Path) -> None:
    assert newest(tiny_run).tensors.keys() == {"model", "optimizer"}


def test_a_checkpoint_without_what_an_objective_remembers_is_refused(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(tmp_path / "run", at_step, monkeypatch, objective=STATEFUL["ressl"])
    folder = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    saved = checkpoint.read(folder)
    shutil.rmtree(folder)
    del saved.tensors["objective"]
    checkpoint.write(folder, saved)
    with pytest.raises(CheckpointError, match="missing queue"):
        train("digits", out=tmp_path / "run", resume=True)


def test_a_resumed_run_keeps_the_count_of_its_plan(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a patch may be counted otherwise by now."""
    stop(tmp_path / "run", at_step, monkeypatch)
    run = Run(tmp_path / "run")
    run.plan = run.plan | {"gflop_per_patch": 0.25}
    train("digits", out=run.path, resume=True)
    last = run.metrics()[-1]
    assert last["pflop"] == pytest.approx(last["patches"] * 0.25 / 1e6)


def test_a_run_from_before_an_option_goes_on_as_it_was_begun(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its configuration nor its checkpoint say whether LARS has Nesterov's momentum."""
    lars = {"name": "lars", "clip": True}
    whole = train_tiny(tmp_path / "whole", steps=6, optimizer=lars)
    stop(tmp_path / "parts", at_step, monkeypatch, optimizer=lars)
    path = tmp_path / "parts" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["optimizer"]["nesterov"]
    path.write_text(yaml.safe_dump(config))
    folder = max((tmp_path / "parts" / "checkpoints").glob("step-*"))
    saved = checkpoint.read(folder)
    shutil.rmtree(folder)
    for state in saved.state["optimizers"]:
        for group in state["param_groups"]:
            del group["nesterov"]
    checkpoint.write(folder, saved)
    with pytest.raises(UsageError, match="but optimizer would change"):
        train("digits", out=tmp_path / "parts", resume=True, optimizer=lars | {"nesterov": False})
    parts = train("digits", out=tmp_path / "parts", resume=True)
    assert all(torch.equal(weights(parts)[name], value) for name, value in weights(whole).items())
    assert metrics(parts) == metrics(whole)


def test_a_resumed_optimizer_is_laid_out_as_its_weights(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(tmp_path / "run", at_step, monkeypatch)
    found: list[bool] = []

    def look(*step: Any) -> None:
        state = step[3][0].state
        found.extend(
            values["momentum"].stride() == weight.stride() for weight, values in state.items()
        )

    at_step(0, look)
    train("digits", out=tmp_path / "run", resume=True)
    assert len(found) > 40
    assert all(found)


def test_a_resumed_run_keeps_the_steps_of_its_plan(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although as many epochs of the images that it finds would be more of them."""
    options = SETTINGS | {"epochs": 2.0, "image_side": 16}
    images = photos(tmp_path / "photos", 3 * 8)
    with monkeypatch.context():
        at_step(2, lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(StoppedError, match="after step 3 of 6"):
            train(str(images), out=tmp_path / "run", **options)
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    run.plan = run.plan | {"steps": 5}
    train(str(images), out=run.path, resume=True)
    five = train(str(images), out=tmp_path / "five", **options | {"epochs": 5 / 3})
    expected, found = ([entry["lr"] for entry in metrics(path)] for path in (five, run.path))
    assert len(found) == 5
    assert found[3:] == expected[3:]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(
    number: signal.Signals, code: int, tmp_path: Path, at_step: AtStep
) -> None:
    at_step(1, lambda *_: signal.raise_signal(number))
    with pytest.raises(StoppedError, match="--resume") as stopped:
        train_tiny(tmp_path / "run")
    assert stopped.value.exit_code == code
    assert newest(tmp_path / "run").state["step"] == len(metrics(tmp_path / "run")) == 2


def test_a_signal_during_the_last_step_does_not_spoil_a_finished_run(
    tmp_path: Path, at_step: AtStep
) -> None:
    at_step(3, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert (train_tiny(tmp_path / "run") / "model").exists()


def test_a_second_signal_acts_at_once(tmp_path: Path, at_step: AtStep) -> None:
    def twice(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has none
    at_step(1, twice)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("crash", [1, 3, 5])
def test_nothing_is_lost_but_the_steps_since_the_last_checkpoint(
    crash: int, tiny_run: Path, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    at_step(crash, pull_plug)
    with pytest.raises(PulledPlug):
        train_tiny(tmp_path / "run", steps=6)
    monkeypatch.undo()
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:  # lines that no checkpoint covers
        file.write(f'{{"step": {crash}, "loss": 0.0}}\n{{"step": 9, "lo')
    train("digits", out=tmp_path / "run", resume=True)
    assert differences(tiny_run, tmp_path / "run") == []


def test_a_run_that_ends_before_its_first_checkpoint_starts_again(
    tiny_run: Path, tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(3, pull_plug)
    with pytest.raises(PulledPlug):
        train_tiny(tmp_path / "rare", steps=6)
    assert not (tmp_path / "rare" / "checkpoints").exists()  # they come by the clock
    monkeypatch.undo()
    train("digits", out=tmp_path / "rare", resume=True)
    assert differences(tiny_run, tmp_path / "rare") == []


def test_a_run_of_which_no_checkpoint_is_whole_does_not_start_again(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(tmp_path / "run", at_step, monkeypatch)
    for manifest in (tmp_path / "run" / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint to continue from") as refused:
        train("digits", out=tmp_path / "run", resume=True)
    assert refused.value.exit_code == 4


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("long") / "run", steps=30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_process_that_is_ended_can_be_resumed(
    number: signal.Signals, code: int, long_run: Path, tmp_path: Path
) -> None:
    script = (
        "import itertools, os, sys; from empssl import cli; from empssl.training import trainer\n"
        "trainer.CHECKPOINT_SECONDS = 0.0\n"
        "step, calls = trainer.training_step, itertools.count()\n"
        "def ended(*a, **k):\n"
        f"    if next(calls) == 4: os.kill(os.getpid(), {int(number)})\n"
        "    return step(*a, **k)\n"
        "trainer.training_step = ended\n"
        "sys.exit(cli.main())"
    )
    out = tmp_path / "run"
    process = start(*command(out, "--precision", "32-true", steps=30), script=script)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert newest(out).state["step"] == (5 if code > 0 else 4)
    assert not (out / "model").exists()
    train("digits", out=out, resume=True)
    assert differences(long_run, out) == []


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(tmp_path: Path) -> None:
    out = train_tiny(tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    train("digits", out=out, resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"objective": {"invariance_weight": 100.0}}, "objective"),
        ({"backbone": {"width": 8}}, "backbone"),
        ({"recipe": "laptop"}, "recipe"),
        ({"batch": 16}, "batch"),
        ({"epochs": 3.0}, "epochs"),
        ({"budget": "10m"}, "budget"),
        ({"seed": 1}, "seed"),
        ({"split": "all"}, "split"),
        ({"precision": "64-true"}, "precision"),
    ],
)
def test_a_resumed_run_keeps_its_settings(
    changed: dict[str, Any], name: str, tiny_run: Path
) -> None:
    with pytest.raises(UsageError, match=f"but {name} would change") as refused:
        train("digits", out=tiny_run, resume=True, **changed)
    assert refused.value.exit_code == 2


def test_settings_given_again_as_they_were_are_no_change(tmp_path: Path) -> None:
    out = train_tiny(tmp_path / "run", seed=3, objective={"invariance_weight": 100.0})
    assert train_tiny(out, seed=3, objective={"invariance_weight": 100.0}, resume=True) == out


def test_a_resumed_run_may_compute_elsewhere(tmp_path: Path) -> None:
    out = train_tiny(tmp_path / "run", device="cpu", data_dir=None)
    assert train_tiny(out, device="auto", data_dir=tmp_path, resume=True) == out


def test_a_run_is_not_resumed_on_other_images(tmp_path: Path) -> None:
    folder = photos(tmp_path / "images", 24)
    train(str(folder), out=tmp_path / "run", epochs=1.0, **SETTINGS)
    (folder / "5.png").unlink()
    with pytest.raises(DataError, match="has changed since") as refused:
        train(str(folder), out=tmp_path / "run", resume=True)
    assert refused.value.exit_code == 3


def test_a_run_is_not_resumed_on_images_that_broke(tmp_path: Path) -> None:
    folder = photos(tmp_path / "images", 24)
    train(str(folder), out=tmp_path / "run", epochs=1.0, **SETTINGS)
    broken = folder / "5.png"
    broken.write_bytes(bytes(broken.stat().st_size))  # names and sizes are those of before
    with pytest.raises(DataError, match=r"23 of the images .* can be used, and 24 when"):
        train(str(folder), out=tmp_path / "run", resume=True)


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        train_tiny(tmp_path / "none", resume=True)


# The place to write to


def test_an_existing_run_is_refused_before_any_process_is_started(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "launch", lambda **_: pytest.fail("it was started"))
    with pytest.raises(UsageError, match=r"--resume.*--overwrite"):
        train_tiny(tiny_run)


def test_overwriting_replaces_a_run(tmp_path: Path) -> None:
    out = train_tiny(tmp_path / "run")
    (out / "report.html").touch()
    train_tiny(out, steps=2, overwrite=True)
    assert len(metrics(out)) == 2
    assert not (out / "report.html").exists()


def test_overwriting_and_resuming_contradict(tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="leave out one"):
        train_tiny(tiny_run, resume=True, overwrite=True)


# Numbers that are not numbers


def parameters(network: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def bad_pixel(*step: Any) -> None:
    step[4][0, 0, 0, 0, 0] = torch.nan


def bad_gradient(*step: Any) -> None:
    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[0] = torch.inf
        return gradient

    dict(step[1].module.named_parameters())["projector.out.1.bias"].register_hook(spoil)


def bad_weight(*step: Any) -> None:
    dict(step[1].module.named_parameters())["backbone.conv1.weight"].data[0] = torch.nan


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (bad_pixel, "the views are not finite"),
        (bad_weight, "the weight backbone.conv1.weight is not finite"),
        (bad_gradient, "first bad gradient is that of projector.out.1.bias"),
    ],
)
def test_what_is_not_finite_never_reaches_the_weights(
    fault: Callable[..., None], said: str, tmp_path: Path, at_step: AtStep
) -> None:
    found: list[Any] = []

    def plant(*step: Any) -> None:
        fault(*step)
        found.append((step[1], parameters(step[1])))

    at_step(2, plant)
    with pytest.raises(DivergenceError, match=f"step 2: .*{said}.*digits/") as stopped:
        train_tiny(tmp_path / "run")
    assert stopped.value.exit_code == 5
    network, before = found[0]
    for a, b in zip(before, parameters(network), strict=True):
        assert torch.equal(a, b) or a.isnan().any()  # the planted weight
    assert len(metrics(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_infinite_loss_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EMP, "forward", lambda self, z, **_: Loss(z.sum() / 0.0))
    with pytest.raises(DivergenceError, match=r"the loss is -?inf"):
        train_tiny(tmp_path / "run")


# Collapse. The network is a little larger, so that a healthy run is healthy.

HEALTHY: dict[str, Any] = {
    "backbone": {"width": 8}, "projector": {"hidden": 64, "dim": 32}, "patches": 4, "batch": 16,
    "epochs": 50 / (1437 // 16), "objective": {"invariance_weight": 50.0},
}  # fmt: skip


def test_no_warning_in_a_healthy_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_tiny(tmp_path / "run", **HEALTHY)
    assert "collapsing" not in capfd.readouterr().err


def test_training_ends_with_a_verdict_what_was_seen_and_the_next_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path / "run", **HEALTHY)
    out, err = capfd.readouterr()
    state, seen, following = err.splitlines()[-3:]
    assert state.startswith("empssl: healthy: images are told apart (embedding std 0.")
    assert seen.startswith("empssl: 800 of 1,437 images seen (56 %), in ")
    assert following == f"empssl: next: empssl report {run}"
    assert out == ""


def test_a_flipped_sign_is_noticed_within_50_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = EMP.forward

    def flipped(self: EMP, projections: torch.Tensor, **sums: Any) -> Loss:
        loss = right(self, projections, **sums)
        return Loss(loss.total + 2 * loss.terms["coding_rate"], loss.terms)

    monkeypatch.setattr(EMP, "forward", flipped)
    train_tiny(tmp_path / "run", **HEALTHY)
    assert "projections are collapsing" in capfd.readouterr().err


def test_an_absurd_invariance_weight_is_noticed_within_50_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_tiny(tmp_path / "run", **HEALTHY | {"objective": {"invariance_weight": 1e5}})
    assert capfd.readouterr().err.count("projections are collapsing") == 1


# Numbers that cannot be carried out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patches": 1}, "patches is 1, expected 2 or more"),
        (
            {"objective": {"name": "ressl", "weak_views": 2}},
            "which ressl takes 2 for its target",
        ),
        ({"objective": {"name": "byol", "dim": 8}}, "'byol' has no option 'dim'"),
        ({"batch": 1}, "batch is 1, expected 2 or more"),
        ({"batch": 2000}, "a batch of 2000 images .* only 1437"),
        ({"epochs": 0.0}, "epochs is 0"),
        ({"epochs": -1.0}, "epochs is -1"),
        ({"epochs": float("nan")}, "epochs is nan"),
        ({"epochs": float("inf")}, "epochs is inf"),
        ({"budget": "0s"}, "'0s' is no duration"),
        ({"budget": "soon"}, "'soon' is no duration"),
        ({"devices": 0}, "0 devices"),
        ({"threads": 0}, "threads is 0; give at least 1"),
        ({"num_nodes": 0}, "0 machines"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"recipe": "dmeo"}, "did you mean 'demo'"),
        ({"schedule": {"warmup": 2.0}}, "warmup is 2.0"),
        ({"objective": {"distortion": 0.0}}, "distortion is 0.0"),
        ({"views": {"crop": 0.0}}, "crop is 0.0"),
        ({"image_side": 6, "whitened": 8}, "6 pixels a side, and whitened patches need 7"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"optimizer": {"rate": 0.1}}, "'lars' has no option 'rate'"),
    ],
)
def test_settings_with_which_nothing_could_be_learned_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        train_tiny(tmp_path / "run", **changes)
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def kept(run: Path) -> dict[str, Checkpoint]:
    return {folder.name: checkpoint.read(folder) for folder in sorted((run / "epochs").glob("*"))}


KEPT: list[float] = [steps / STEPS_PER_EPOCH for steps in (2, 4, 600)]  # the last is past the end


def test_the_network_is_kept_after_the_epochs_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", steps=6, keep_epochs=KEPT)
    found = kept(run)
    assert [content.state["step"] for content in found.values()] == [2, 4]
    assert differences(run, tiny_run) == []  # keeping changes nothing
    early = found[f"{KEPT[0]:g}"].tensors["model"]
    assert not all(torch.equal(early[name], value) for name, value in weights(run).items())
    assert found[f"{KEPT[0]:g}"].state["seconds"] > 0


def test_epochs_that_end_with_one_step_are_both_kept(tmp_path: Path) -> None:
    both = [2.0 / STEPS_PER_EPOCH, 2.1 / STEPS_PER_EPOCH]
    found = kept(train_tiny(tmp_path / "run", steps=3, keep_epochs=both))
    assert {name: content.state["step"] for name, content in found.items()} == {
        f"{epoch:g}": 2 for epoch in both
    }


def test_an_interrupted_run_keeps_the_same_networks(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept(train_tiny(tmp_path / "whole", steps=6, keep_epochs=KEPT))
    with monkeypatch.context():
        at_step(4, pull_plug)  # before any checkpoint but after the first two were kept
        with pytest.raises(PulledPlug):
            train_tiny(tmp_path / "run", steps=6, keep_epochs=KEPT)
    monkeypatch.undo()
    stop(tmp_path / "run", at_step, monkeypatch, keep_epochs=KEPT, overwrite=True)
    assert len(kept(tmp_path / "run")) == 1
    found = kept(train("digits", out=tmp_path / "run", resume=True))
    assert found.keys() == whole.keys()
    for name, content in found.items():
        for key, tensor in content.tensors["model"].items():
            assert torch.equal(tensor, whole[name].tensors["model"][key]), (name, key)


def test_a_run_that_starts_again_keeps_no_network_of_its_first_start(
    tmp_path: Path, at_step: AtStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget its schedule may be another."""
    options: dict[str, Any] = {"epochs": None, "budget": "6s", "keep_epochs": KEPT}
    with paced():
        expected = kept(train_tiny(tmp_path / "whole", **options))
    with paced(lambda _: 0.375):
        at_step(MEASURED + 3, pull_plug)
        with pytest.raises(PulledPlug):
            train_tiny(tmp_path / "run", **options)
    assert Run(tmp_path / "run").plan["steps"] == 10
    monkeypatch.undo()
    with paced():
        found = kept(train("digits", out=tmp_path / "run", resume=True))
    assert Run(tmp_path / "run").plan["steps"] == 6
    assert found.keys() == expected.keys()
    for name, content in found.items():
        for key, tensor in content.tensors["model"].items():
            assert torch.equal(tensor, expected[name].tensors["model"][key]), (name, key)


def test_a_fraction_of_an_epoch_is_at_least_one_step(tmp_path: Path) -> None:
    assert len(metrics(train_tiny(tmp_path / "run", epochs=1e-9))) == 1


# What a GPU does, as far as a CPU can show it


def test_numbers_read_sixteen_steps_at_once_are_those_read_at_once(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("empssl.training.metrics_buffer.SYNC_EVERY", {})
    assert differences(tiny_run, train_tiny(tmp_path / "run", steps=6)) == []


def test_a_bad_step_that_is_read_later_is_named_and_nothing_after_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def unread(*_: Any, **__: Any) -> StepResult:
        good = torch.tensor(next(calls) != 2)
        loss = Loss(torch.where(good, 1.0, torch.nan), {})
        return StepResult(loss, {"coding_rate_ratio": torch.tensor(0.5)}, 1.0, good)

    monkeypatch.setattr(trainer, "training_step", unread)
    monkeypatch.setattr("empssl.training.metrics_buffer.SYNC_EVERY", {})
    with pytest.raises(DivergenceError, match=r"step 2: the loss is nan .*digits/"):
        train_tiny(tmp_path / "run", steps=6)
    assert [entry["step"] for entry in metrics(tmp_path / "run")] == [0, 1]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_where_compiling_fails_one_line_says_so_and_the_run_is_the_plain_one(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    run = train_tiny(tmp_path / "run", steps=6, compile="default")
    assert "not compiled, and slower for it: RuntimeError: no compiler\n" in capfd.readouterr().err
    assert differences(tiny_run, run) == []
    assert Run(run).environment["compiled"] == "none"


@pytest.mark.parametrize(("mode", "said"), [("default", 1), ("none", 0)])
def test_a_step_that_cannot_be_compiled_as_it_is_in_pieces_is_told(
    mode: Any, said: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path / "run", steps=1, compile=mode, memory="exact")
    assert (
        capfd.readouterr().err.count("not compiled, which takes memory 'whole' and not 'exact'")
        == said
    )
    assert Run(run).environment["compiled"] == "none"


def test_the_trial_of_a_compiled_network_leaves_no_trace(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    run = train_tiny(tmp_path / "run", steps=6, compile="default")
    assert differences(tiny_run, run) == []
    assert Run(run).environment["compiled"] == "default"
    assert Run(run).environment["startup_seconds"] > 0


# The mathematics of a step, whatever the engine does


KNOWN_LOSSES = {
    "lars": [-188.32565, -201.47386, -201.75555, -201.79529, -201.78769, -201.78404],
    "muon_lars": [-188.32565, -201.46761, -201.69647, -201.76753, -201.81300, -201.73705],
}


@pytest.mark.parametrize("memory", ["whole", "exact"])
@pytest.mark.parametrize("optimizer", KNOWN_LOSSES)
def test_a_seed_gives_the_losses_it_always_gave(
    tmp_path: Path, optimizer: str, memory: str
) -> None:
    """A change here changes what training does; one of the engine alone does not come here."""
    train_tiny(tmp_path / "run", steps=6, optimizer={"name": optimizer}, memory=memory)
    found = [entry["loss"] for entry in Run(tmp_path / "run").metrics()]
    assert found == pytest.approx(KNOWN_LOSSES[optimizer], rel=2e-5)
