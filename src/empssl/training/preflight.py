"""Whether there is room for what a run is going to write, before it begins."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from empssl.config import is_object
from empssl.errors import CheckpointError
from empssl.runs.files import free_disk
from empssl.runs.run import KEPT_CHECKPOINTS

# Those that are kept, the one that is being written, and half of one for all the rest. The trained
# network takes the place of the one that goes.
LEAST_CHECKPOINTS = KEPT_CHECKPOINTS + 1.5
AMPLE_CHECKPOINTS = 10.0


def checkpoint_bytes(modules: Iterable[nn.Module], optimizer: dict[str, Any]) -> int:
    """Bytes of a checkpoint: weights, statistics, and what the optimizer keeps of each weight.

    Args:
        modules: what it holds.
        optimizer: its spec.
    """
    # Of an object nothing is known; Adam and what came after it keep two.
    kept = 2 if optimizer["name"] == "adamw" or is_object(optimizer) else 1
    return sum(
        sum(x.nbytes for x in module.state_dict().values())
        + kept * sum(p.nbytes for p in module.parameters() if p.requires_grad)
        for module in modules
    )


def check_disk(path: Path, checkpoint: int, *, kept: int = 0, held: int = 0) -> str | None:
    """A warning where the disk may not do for a run, with the arithmetic.

    Args:
        path: of the run.
        checkpoint: bytes.
        kept: bytes of the networks that it keeps besides.
        held: bytes of what is at the path already, of which the run needs no second.

    Raises:
        CheckpointError: the disk does not do.
    """
    free = free_disk(path) + held
    if free >= AMPLE_CHECKPOINTS * checkpoint + kept:
        return None
    least = free < LEAST_CHECKPOINTS * checkpoint + kept
    factor = LEAST_CHECKPOINTS if least else AMPLE_CHECKPOINTS
    networks = f" and {mebibytes(kept)} of networks kept after epochs" if kept else ""
    text = (
        f"{mebibytes(free)} are free at {path}, less than {factor:g} checkpoints of "
        f"{mebibytes(checkpoint)}{networks} ({mebibytes(factor * checkpoint + kept)}); make room, "
        "or choose another --out"
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
