"""What victims do: train and embed a handful of images, two of which are broken."""

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_images import photo
from disk import KILL, Disk
from tiny import SETTINGS

from empssl import __main__
from empssl.cli import main
from empssl.data.base import ImageBatch, ImageSet
from empssl.errors import EmpsslError
from empssl.evaluation import embed as embedding_module
from empssl.evaluation.embed import embed
from empssl.evaluation.encoder import Encoder
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training import setup, trainer
from empssl.training import train as train_module
from empssl.training.train import train

IMAGES, BROKEN, STEPS = 24, 2, 6  # of 8 images each: two epochs
HANGS = 300  # seconds, after which what is waited for does not come
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
    trainer.CHECKPOINT_SECONDS = every
    # As a set that does not fit: images are read as steps need them.
    train_module.in_memory = lambda images, **_: images
    setup.flops_per_view = lambda *_: 1.0  # counting them takes longer than the steps
    resume = (out / "config.yaml").exists()
    train(str(images), out=out, resume=resume, **({} if resume else OPTIONS | options))


def train_weighed(images: Path, out: Path, weights: Path) -> None:
    """Train for 600 steps, and note the bytes that the process holds before each."""
    step, found = trainer.training_step, []

    def weighed(*arguments: Any, **options: Any) -> Any:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * resource.getpagesize())
        return step(*arguments, **options)

    trainer.training_step = weighed
    training_run(images, out, every=300.0, epochs=200.0)
    weights.write_text(json.dumps(found))


def train_command(images: Path, out: Path) -> list[str]:
    return [
        "train", str(images), "--out", str(out), "--recipe", "demo", "--patches", "2", "--batch",
        "8", "--epochs", "2", "--image-side", "16", "--backbone.width", "4", "--projector.hidden",
        "16", "--projector.dim", "8", "--precision", "32-true",
    ]  # fmt: skip


def typed(words: list[str]) -> None:
    """A command as its process carries it out, in small pieces: a checkpoint after each step."""
    trainer.CHECKPOINT_SECONDS = 0.0
    train_module.in_memory = lambda images, **_: images
    setup.flops_per_view = lambda *_: 1.0
    in_fours()
    sys.argv[1:] = words
    __main__.run()


def without_log(kind: str, words: list[str]) -> None:
    """A command whose error stream is full, has no reader any more, or was closed."""
    if kind == "closed":
        os.close(2)
        sys.stderr = None
    else:
        reader, writer = os.pipe()
        os.close(reader)
        handle = writer if kind == "gone" else os.open("/dev/full", os.O_WRONLY)
        os.dup2(handle, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    try:
        typed(words)
    finally:  # for whoever reads what a victim said
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for the rest of its life)


def in_fours() -> None:
    """Have images embedded four at a time."""
    Encoder.batches = lambda self, count: (  # type: ignore[method-assign]
        range(i, min(i + 4, count)) for i in range(0, count, 4)
    )


def embedding(run: Path, images: Path, out: Path) -> None:
    """Embed, or go on, unless it is done."""
    in_fours()
    if not out.exists():
        embed(run, str(images), out=out)


def race(kind: str, out: Path, me: int) -> int:
    """Try to become the one that writes to a run; who does waits until the other has tried."""
    config = {"recipe": "demo", "objective": {}, "process": me}
    tried = out.parent / f"{out.name}.tried-{me}"
    try:
        with ExitStack() as held:
            if kind == "resume":
                held.enter_context(Run(out).lock())
            else:
                held.enter_context(Run.creating(out, config, overwrite=kind == "overwrite"))
            wait_for(tried.with_name(f"{out.name}.tried-{1 - me}"))
            return 0
    except EmpsslError as error:
        return error.exit_code
    finally:
        tried.touch()


def hold_and_die(out: Path) -> None:
    with Run(out).lock():
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: Path) -> None:
    until = time.monotonic() + HANGS
    while not path.exists():
        assert time.monotonic() < until, f"nobody made {path}"
        time.sleep(0.002)


class Many(ImageSet):
    """Images that take no memory, and as many of them as are wanted."""

    name, split, side, labels, class_names, fingerprint = "many", "all", 16, None, (), "x"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample_name(self, index: int) -> str:
        return f"{index:06d}.png"

    def read(self, indices: Sequence[int]) -> ImageBatch:
        count = len(indices)
        pixels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8).expand(count, -1, -1, -1)
        return ImageBatch(pixels, torch.ones(count, dtype=torch.bool))


def embed_many(run: Path, count: int, out: Path, peak: Path) -> None:
    """Embed as many images with an encoder that computes nothing; note the most memory held."""
    embedding_module.open_images = lambda *_, **__: Many(count)
    Encoder.dim = lambda self, layer: 128  # type: ignore[method-assign]
    Encoder.embed = lambda self, images, samples, crops, layers: {  # type: ignore[method-assign]
        layers[0]: torch.zeros(len(samples), 128)
    }
    embed(run, "many", out=out)
    status = Path("/proc/self/status").read_text()
    peak.write_text(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line))


def with_small_files(size: int, words: list[str]) -> int:
    """A command, where the system lets no file grow beyond a size."""
    trainer.CHECKPOINT_SECONDS = 0.0
    in_fours()
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
