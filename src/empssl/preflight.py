"""Whether there is room for what a run is going to write, before it begins."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from empssl.errors import CheckpointError
from empssl.storage import writing

# The checkpoint that is kept, the one that is being written, and half of one for all the rest.
LEAST_CHECKPOINTS = 2.5
AMPLE_CHECKPOINTS = 10.0


def checkpoint_bytes(modules: Iterable[nn.Module], optimizer: dict[str, Any]) -> int:
    """Bytes of a checkpoint: weights, statistics, and what the optimizer keeps of each weight.

    Args:
        modules: what it holds.
        optimizer: its spec.
    """
    kept = 2 if optimizer["name"] == "adamw" else 1
    return sum(
        sum(x.nbytes for x in module.state_dict().values())
        + kept * sum(p.nbytes for p in module.parameters() if p.requires_grad)
        for module in modules
    )


def free_disk(path: Path) -> int:
    """Bytes that this user may still write where a path is, or will be made.

    Raises:
        CheckpointError: the storage refused.
    """
    place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    with writing(path):
        found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def check_disk(path: Path, checkpoint: int) -> str | None:
    """A warning where the disk may not do for a run, with the arithmetic.

    Args:
        path: of the run.
        checkpoint: bytes.

    Raises:
        CheckpointError: the disk does not do.
    """
    free = free_disk(path)
    if free >= AMPLE_CHECKPOINTS * checkpoint:
        return None
    least = free < LEAST_CHECKPOINTS * checkpoint
    factor = LEAST_CHECKPOINTS if least else AMPLE_CHECKPOINTS
    text = (
        f"{mebibytes(free)} are free at {path}, less than {factor:g} checkpoints of "
        f"{mebibytes(checkpoint)} ({mebibytes(factor * checkpoint)}); make room, or choose "
        "another --out"
    )
    if least:
        raise CheckpointError(text)
    return text


def mebibytes(count: int | float) -> str:
    """A number of bytes for a person.

    >>> mebibytes(3.5 * 2**20), mebibytes(2**31)
    ('3.5 MiB', '2,048 MiB')
    """
    value = count / 2**20
    return f"{value:,.1f} MiB" if value < 100 else f"{value:,.0f} MiB"
