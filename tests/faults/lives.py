"""What victims do: train and embed a handful of images, two of which are broken."""

import tempfile
from pathlib import Path
from typing import Any

from bad_images import photo
from tiny import SETTINGS

from empssl import training
from empssl.cli import main
from empssl.embedding import embed
from empssl.errors import EmpsslError
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


def _warm() -> None:
    """Have everything imported and tried that a life needs."""
    with tempfile.TemporaryDirectory() as folder:
        images, run = make_images(Path(folder) / "images"), Path(folder) / "run"
        train(str(images), out=run, **OPTIONS | {"epochs": 0.1})
        embed(run, str(images), out=Path(folder) / "out.parquet")


_warm()
