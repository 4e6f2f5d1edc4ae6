"""Runs so small that a test can train several of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from empssl.data import DATASETS, MemoryImages
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training.train import train

STEPS_PER_EPOCH = 1437 // 8
SETTINGS: dict[str, Any] = {
    "recipe": "demo", "patches": 2, "batch": 8, "backbone": {"width": 4},
    "projector": {"hidden": 16, "dim": 8}, "precision": "32-true",
}  # fmt: skip
# Objectives that have something to remember, in sizes that suit these runs.
STATEFUL: dict[str, dict[str, Any]] = {
    "byol": {"name": "byol", "hidden": 16},
    "ressl": {"name": "ressl", "queue": 24},
    "swav": {"name": "swav", "prototypes": 12},
}
CLOCKS = {"seconds", "patches_per_second"}


@contextmanager
def few_digits(train: int, test: int) -> Iterator[pytest.MonkeyPatch]:
    """In this process `digits` are the first so many: to score all takes most of a test's time."""
    full = DATASETS["digits"]

    def few(
        *, split: Literal["train", "test", "all"], side: int = 16, **others: Any
    ) -> MemoryImages:
        images, count = full.open(split=split, side=side), test if split == "test" else train
        assert isinstance(images, MemoryImages)
        assert images.labels is not None
        return MemoryImages(
            images.pixels[:count], name="digits", split=split, labels=images.labels[:count],
            class_names=images.class_names, fingerprint=f"{images.fingerprint}, {count}",
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "digits", replace(full, open=cache(few)))
        yield patch


def train_tiny(out: Path, *, data: str = "digits", steps: float = 4, **changes: Any) -> Path:
    """A few steps of `train`; an epoch is that of digits."""
    return train(data, out=out, **({"epochs": steps / STEPS_PER_EPOCH} | SETTINGS | changes))


def command(out: Path, *options: str, steps: float = 4, batch: int = 8) -> list[str]:
    """The words after `python -m empssl` for the same run."""
    return [
        "train", "digits", "--out", str(out), "--recipe", "demo", "--patches", "2",
        "--batch", str(batch), "--epochs", str(steps / (1437 // batch)), "--backbone.width", "4",
        "--projector.hidden", "16", "--projector.dim", "8", *options,
    ]  # fmt: skip


def start(*words: str, script: str | Path | None = None) -> "subprocess.Popen[str]":
    """Start `python -m empssl` with these words, or a script or the file of one, as a user does."""
    program = ["-m", "empssl"] if script is None else ["-c", script]
    if isinstance(script, Path):
        program = [str(script)]
    return subprocess.Popen(
        [sys.executable, *program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def metrics(run: Path) -> list[dict[str, Any]]:
    """What was measured, without what a clock measured."""
    return [{k: v for k, v in entry.items() if k not in CLOCKS} for entry in Run(run).metrics()]


def newest(run: Path) -> Checkpoint:
    """The last checkpoint, without what a clock measured."""
    found = checkpoint.read(max((run / "checkpoints").glob("step-*")))
    state = {key: value for key, value in found.state.items() if key not in CLOCKS}
    return Checkpoint(found.tensors, state)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(run / "model").tensors["model"]


def differences(a: Path, b: Path) -> list[str]:
    """Where the last checkpoints and the metrics of two runs are not the same to the last bit."""
    one, other = newest(a), newest(b)
    found = [] if metrics(a) == metrics(b) else ["metrics"]
    found += [] if one.state == other.state else ["state"]
    for group in one.tensors.keys() | other.tensors.keys():
        left, right = one.tensors[group], other.tensors[group]
        found += [f"{group}: {name}" for name in left.keys() ^ right.keys()]
        found += [
            f"{group}: {name}" for name in left.keys() & right.keys()
            if left[name].dtype != right[name].dtype or not torch.equal(left[name], right[name])
        ]  # fmt: skip
    return found


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return a.state == b.state and all(
        a.tensors[group].keys() == b.tensors[group].keys()
        and all(
            t.dtype == b.tensors[group][name].dtype and torch.equal(t, b.tensors[group][name])
            for name, t in tensors.items()
        )
        for group, tensors in a.tensors.items()
    )
