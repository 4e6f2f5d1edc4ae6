"""Moving tensors to the device that computes, without the host waiting for it."""

import torch
from torch import Tensor

RESIDENT_SHARE = 0.25  # of the device's free memory that a data set may take; a step needs the rest


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device.

    A GPU copies from pinned memory while the host goes on; from other memory the host waits until
    everything before the copy is done.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def has_room(size: int, device: torch.device) -> bool:
    """Whether so many bytes of data may stay on the device: never on one that is not a GPU."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size <= RESIDENT_SHARE * free
