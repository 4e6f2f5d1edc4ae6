"""Measurements of the last steps that are still on the device.

A GPU works through steps that the host has long queued. To read a number is to wait for it, so
numbers of several steps are read at once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SYNC_EVERY = {"cpu": 1}  # steps that are read at once, by type of device
SYNC_EVERY_ON_GPU = 16


@dataclass(frozen=True)
class MeasuredStep:
    """What is known of one step.

    Attributes:
        entry: its line of metrics; as it is added, some values may be tensors of one number.
        samples: int64, the images that this process saw in it.
    """

    entry: dict[str, Any]
    samples: Tensor


class MetricsBuffer:
    """A queue of steps, read in one copy.

    Args:
        device: where the steps are computed. On the CPU each is read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.every = SYNC_EVERY.get(device.type, SYNC_EVERY_ON_GPU)
        # float64 holds every float32 exactly, so one copy serves all; Apple's GPUs have none.
        self._kind = torch.float32 if device.type == "mps" else torch.float64
        self._steps: list[MeasuredStep] = []

    def add(self, entry: dict[str, Any], samples: Tensor) -> None:
        self._steps.append(MeasuredStep(entry, samples))

    @property
    def full(self) -> bool:
        """Whether enough steps wait to be read."""
        return len(self._steps) >= self.every

    def read(self) -> list[MeasuredStep]:
        """All steps, with plain numbers; the host waits for the device. Empties the queue."""
        steps, self._steps = self._steps, []
        held = [
            (step.entry, key, value.detach()) for step in steps for key, value in step.entry.items()
            if isinstance(value, Tensor)
        ]  # fmt: skip
        if held:
            numbers = torch.stack([value.to(self._kind) for *_, value in held]).tolist()
            for (entry, key, _), number in zip(held, numbers, strict=True):
                entry[key] = number
        return steps
