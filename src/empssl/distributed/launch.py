"""Starting the processes of a run, or joining those that a launcher has started."""

import atexit
import logging
import os
import warnings
from typing import Any

import torch

from empssl.device import (
    Fabric,
    Precision,
    build_fabric,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
)
from empssl.distributed.processes import Call, children, start_children
from empssl.distributed.watchdog import startup_watchdog
from empssl.errors import RankError, UsageError
from empssl.progress import status


def launch(
    *, device: str, devices: int, num_nodes: int = 1, precision: Precision, call: Call | None = None
) -> Fabric:
    """Start (or, under torchrun or SLURM, join) the processes of a run.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: processes on this machine.
        num_nodes: machines.
        precision: `auto` is bfloat16 autocast where the hardware multiplies it, else float32.
        call: what several processes are launched for.

    Raises:
        UsageError: the device or precision is not to be had here, or processes cannot be started.
    """
    device = resolve_device(device)
    if min(devices, num_nodes) < 1:
        raise UsageError(
            f"{devices} devices on {num_nodes} machines; at least one of each is needed"
        )
    if torch.distributed.is_torchelastic_launched():  # then torchrun has decided
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if device == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} devices were asked for, {torch.cuda.device_count()} are here")
    # float64 is left to the network's own type: Fabric's hands float32 projections back.
    half = resolve_precision(precision, device) == "bf16-mixed"
    keep_freed_memory()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Fabric advises srun, job schedulers and more workers; none of it concerns this program.
        warnings.simplefilter("ignore")
        with status("loading Lightning Fabric"):
            fabric = build_fabric(
                accelerator=device,
                devices=devices,
                num_nodes=num_nodes,
                strategy="ddp" if devices * num_nodes > 1 else "auto",
                precision="bf16-mixed" if half else "32-true",
            )
        if devices * num_nodes > 1:
            environment: Any = fabric.strategy
            assert call is not None
            start_children(environment.cluster_environment, devices, num_nodes, call)
        with startup_watchdog():
            _launch(fabric)
    if fabric.world_size > 1:
        atexit.register(_leave)
    return fabric


def _launch(fabric: Fabric) -> None:
    """Have the processes meet.

    Raises:
        UsageError: the port where they should is taken.
        RankError: they did not.
    """
    try:
        fabric.launch()
    except torch.distributed.DistError as error:
        for child in children.values():  # which may not have come so far as to notice
            child.kill()
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "EADDRINUSE" in first or "address already in use" in str(error).lower():
            raise UsageError(
                f"port {os.environ.get('MASTER_PORT')} is in use by another program; set "
                "MASTER_PORT to a free one, or leave it to this program to find one"
            ) from error
        raise RankError(f"the processes did not meet: {first}") from error


def _leave() -> None:
    # Threads of gloo that are still there when Python ends make it abort, now and then.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
