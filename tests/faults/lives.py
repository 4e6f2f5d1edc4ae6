"""What victims do: train and embed a handful of images, two of which are broken."""

import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_images import photo
from disk import KILL, Disk
from tiny import SETTINGS

from empssl import training
from empssl.checkpoint import Checkpoint
from empssl.cli import main
from empssl.embedding import embed
from empssl.run import Run
from empssl.training import train

IMAGES, BROKEN, STEPS = 24, 2, 6  # of 8 images each: two epochs
OPTIONS: dict[str, Any] = SETTINGS | {"epochs": 2.0, "image_side": 16}


def make_images(folder: Path) -> Path:
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:02d}.png").write_bytes(photo(number, side=16))
    for number in range(BROKEN):
        (folder / f"broken-{number}.png").write_bytes(photo(number)[:60])
    return folder


def training_run(images: Path, out: Path, *, every: float = 0.0, **options: Any) -> None:
    """Train, or go on, as a user who types the one command or the other."""
    training.CHECKPOINT_SECONDS = every
    # As a set that does not fit: images are read as steps need them.
    training.in_memory = lambda images, **_: images
    training._flops_per_view = lambda *_: 1.0  # counting them takes longer than the steps
    resume = (out / "config.yaml").exists()
    train(str(images), out=out, resume=resume, **({} if resume else OPTIONS | options))


def train_command(images: Path, out: Path) -> list[str]:
    return [
        "train", str(images), "--out", str(out), "--recipe", "demo", "--patches", "2", "--batch",
        "8", "--epochs", "2", "--image-side", "16", "--backbone.width", "4", "--projector.hidden",
        "16", "--projector.dim", "8", "--precision", "32-true",
    ]  # fmt: skip


def with_small_files(size: int, words: list[str]) -> int:
    """A command, where the system lets no file grow beyond a size."""
    training.CHECKPOINT_SECONDS = 0.0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return main(words)


def numbered(step: int) -> Checkpoint:
    """A small checkpoint, another for each step."""
    draw = torch.Generator().manual_seed(step)
    tensors = {"w": torch.randn(9, generator=draw), "n": torch.tensor(step)}
    return Checkpoint({"model": tensors, "optimizer": {"0.w.m": -tensors["w"]}}, {"step": step})


def save_and_die(run: Path, call: int) -> None:
    """Be killed at one of the calls that saving a checkpoint makes."""
    Disk(run, pytest.MonkeyPatch(), failing=call, fault=KILL)
    Run(run).save_checkpoint(3, numbered(3))


def _warm() -> None:
    """Have everything imported and tried that a life needs."""
    with tempfile.TemporaryDirectory() as folder:
        images, run = make_images(Path(folder) / "images"), Path(folder) / "run"
        train(str(images), out=run, **OPTIONS | {"epochs": 0.1})
        embed(run, str(images), out=Path(folder) / "out.parquet")


_warm()
