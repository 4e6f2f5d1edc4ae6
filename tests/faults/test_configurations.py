"""Settings of all kinds: each is carried out, or refused in one line before anything is made."""

import inspect
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import command

from empssl.cli import main
from empssl.models import BACKBONES, PROJECTORS
from empssl.objectives import OBJECTIVES
from empssl.optim import OPTIMIZERS, SCHEDULES
from empssl.views import POLICIES

CONFIGURATIONS, PARTS = 500, 10
ODD = (
    "0", "1", "-1", "2", "3", "0.5", "1.5", "-0.25", "1e-30", "1e30", "nan", "inf", "-inf", "x", "",
    "true", "null", "[1,2]", "[]", "[0.5,x]", "{}", "-", "é", "1_0", "0x1",
)  # fmt: skip
# By option of `train`: values that are fine and values that are not. None makes a large run.
OWN = {
    "--patches": ("2", "3", "1", "0", "-1", "2.5", "many"),
    "--batch": ("2", "3", "7", "1", "0", "-8", "5000", "1e3", "8.0"),
    "--epochs": ("0.001", "1e-9", "1e-300", "0", "-1", "nan", "inf", "-inf", "one"),
    "--budget": ("soon", "0s", "-3m", "", "nanm", "1e3", "m"),
    "--image-side": ("1", "2", "5", "8", "16", "17", "0", "-4", "2.5", "large"),
    "--seed": ("0", "1", "-1", "4294967296", "9223372036854775807", "9223372036854775808",
               "-9223372036854775809", "18446744073709551616", "1.5", "x"),
    "--whitened": ("0", "1", "8", "16", "-8", "2.5", "x"),
    "--precision": ("auto", "32-true", "bf16-mixed", "64-true", "16-mixed", "8-true", ""),
    "--compile": ("none", "fast", ""),
    "--memory": ("auto", "whole", "exact", "two-pass", "none", ""),
    "--split": ("train", "test", "all", "validation"),
    "--device": ("cpu", "auto", "cuda", "tpu", "cpu:0", ""),
    "--devices": ("1", "0", "-1", "x", "1.0"),
    "--num-nodes": ("1", "0", "-1", "x"),
    "--recipe": ("demo", "fast", "dmeo", "", "paper_cifar"),
}  # fmt: skip
TABLES: dict[str, Mapping[str, Any]] = {
    "--views": POLICIES, "--backbone": {k: v for k, v in BACKBONES.items() if k == "resnet10"},
    "--projector": PROJECTORS, "--objective": OBJECTIVES, "--optimizer": OPTIMIZERS,
    "--schedule": SCHEDULES,
}  # fmt: skip


def options(rng: random.Random) -> list[str]:
    """One to three settings of a run, each as likely to be odd as not."""
    words: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        option = rng.choice((*OWN, *TABLES, *TABLES))
        if option in OWN:
            words += [option, rng.choice(OWN[option])]
            continue
        table = TABLES[option]
        name = rng.choice((*table, *table, "nothing", ""))
        words += [option, name]
        keys = [p.name for p in inspect.signature(table[name]).parameters.values()
                if p.kind is p.KEYWORD_ONLY] if name in table else ["dim"]  # fmt: skip
        for key in rng.sample(keys, min(len(keys), rng.choice((0, 1, 1, 2)))):
            words.append(f"{option}.{key}={rng.choice(ODD)}")
    return words


@pytest.mark.parametrize("part", range(PARTS))
def test_a_configuration_runs_a_step_or_is_refused_in_one_line(
    part: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if part:  # counting takes longer than the step, and is tried in the first part
        monkeypatch.setattr("empssl.training.setup.flops_per_view", lambda *_: 1.0)
    rng = random.Random(part)
    codes, wrong = [], {}
    for number in range(CONFIGURATIONS // PARTS):
        out = tmp_path / str(number)
        changes = options(rng)
        code = main([*command(out, steps=0.4), *changes])
        said, err = capfd.readouterr()
        codes.append(code)
        if not fine(code, said, err, out, changes):
            wrong[" ".join(changes)] = (code, err[-600:])
    assert not wrong
    assert len(codes) == CONFIGURATIONS // PARTS
    assert codes.count(0) >= 5
    assert codes.count(2) >= 25


def fine(code: int, said: str, err: str, out: Path, changes: list[str]) -> bool:
    if code == 0:
        return said.strip() == str(out) and (out / "model").is_dir()
    # What was opened and read before is told; then comes one line, and nothing of Python's.
    *progress, last = err.strip().splitlines()
    plain = last.startswith("empssl") and "not supported between" not in last
    if code == 2:
        read = all("reading images" in line or " classes in " in line for line in progress)
        return plain and read and not out.exists()
    # A number of thirty digits is a number: the step is taken, and what comes of it not kept.
    huge = any(word.endswith("1e30") for word in changes)
    return code == 5 and huge and plain and "Traceback" not in err and not (out / "model").exists()


def test_the_configurations_are_500() -> None:
    assert CONFIGURATIONS == 500
    assert CONFIGURATIONS % PARTS == 0


def test_settings_are_refused_before_an_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr("empssl.training.train.open_images", read)
    for change in (
        "--views.flip=2", "--backbone.width=-1", "--projector.hidden=0", "--objective.distortion=0",
        "--optimizer.momentum=-1", "--schedule.warmup=2", "--whitened=1",
    ):  # fmt: skip
        assert main([*command(tmp_path / "run"), change]) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--optimizer.lr=fast", "lr of 'lars' is 'fast', expected a finite number"),
        ("--optimizer.lr=nan", "expected a finite number"),
        ("--optimizer.lr=-inf", "expected a finite number"),
        ("--optimizer.clip=3", "clip of 'lars' is 3, expected true or false"),
        ("--backbone.width=2.5", "width of 'resnet10' is 2.5, expected a whole number"),
        ("--backbone.width=true", "expected a whole number"),
        ("--views.sigma=[1,x]", "expected a list, each item a finite number"),
        ("--views.colors=quick", "expected 'faithful' or 'fast'"),
        ("--seed=9223372036854775808", "seed is 9223372036854775808, expected a number of 64 bits"),
        ("--image-side=0", "image_side is 0, expected 1 pixel or more"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_was_expected(
    change: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(tmp_path / "run"), change]) == 2
    assert said in capfd.readouterr().err


# An option or a name with a slip of the finger in it, and what was meant.
TYPOS = {
    "--patchs 2": "--patches", "--pathces 2": "--patches", "--num-patches 2": "--patches",
    "--bacth 8": "--batch", "--batchsize 8": "--batch", "--epoch 1": "--epochs",
    "--epcohs 1": "--epochs", "--buget 1m": "--budget", "--image-sid 16": "--image-side",
    "--imageside 16": "--image-side", "--view crops": "--views", "--backbones resnet18":
    "--backbone", "--bakcbone resnet18": "--backbone", "--projecter paper": "--projector",
    "--whitend 8": "--whitened", "--objectiv emp": "--objective", "--optimiser lars":
    "--optimizer", "--schedul cosine": "--schedule", "--sedd 1": "--seed", "--devcie cpu":
    "--device", "--precison 32-true": "--precision", "--complie none": "--compile",
    "--memroy whole": "--memory", "--overwritten": "--overwrite", "--resum": "--resume",
    "--recipie demo": "--recipe", "--objective vicrge": "vicreg", "--objective simclear": "simclr",
    "--objective barlow-twins": "barlow_twins", "--backbone resnet81": "resnet18",
    "--projector offical": "official", "--optimizer adam": "adamw", "--schedule cosin": "cosine",
    "--views patch": "patches", "--views.bluur=0.1": "blur", "--views.saturate=0.1": "saturation",
    "--objective.invariance-wieght=1": "invariance_weight", "--objective.distorsion=1":
    "distortion", "--optimizer.weight-decy=0": "weight_decay", "--schedule.warm-up=0": "warmup",
    "--backbone.widht=4": "width", "--projector.hiden=8": "hidden",
}  # fmt: skip


def test_forty_typos_get_the_right_suggestion(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missed = {}
    for typo, meant in TYPOS.items():
        assert main([*command(tmp_path / "run"), *typo.split()]) == 2
        *before, last = capfd.readouterr().err.strip().splitlines()
        assert not before
        if f"did you mean '{meant}'?" not in last:
            missed[typo] = last
    assert len(TYPOS) >= 40
    assert len(missed) <= 2, missed
