"""Settings become a trainer: network, objective, optimizers, sampler, memory plan."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from empssl.config import build
from empssl.data.base import ImageSet
from empssl.data.in_memory import resident
from empssl.data.sampler import Sampler
from empssl.device import Fabric, is_out_of_memory, synchronize
from empssl.errors import UsageError
from empssl.models import Network, build_network
from empssl.models.batchnorm import convert_to_global_batchnorm
from empssl.models.ema import EMANetwork
from empssl.objectives import build_objective
from empssl.objectives.base import Objective
from empssl.optim import build_optimizers
from empssl.runs.run import Run
from empssl.training.flops import flops_per_view
from empssl.training.memory import MemoryPlan, free_of_each, plan_memory
from empssl.training.preflight import check_disk, checkpoint_bytes
from empssl.training.sharding import Share
from empssl.training.step import begin_step, compile_failure, compiled
from empssl.training.trainer import Trainer
from empssl.views import POLICIES


def build_trainer(
    settings: dict[str, Any], fabric: Fabric, images: ImageSet, began: float
) -> Trainer:
    """Everything at step 0, equal in all processes; nothing is on disk yet.

    Raises:
        UsageError: settings that cannot be carried out.
    """
    policy = build(POLICIES, settings["views"])
    side = policy.view_side(images.side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        network = build_network(
            settings["backbone"], settings["projector"], settings["whitened"], side=side
        )
        objective = build_objective(settings["objective"], dim=network.projector.dim)
    _check_objective(objective, settings, images)
    if network.whitened is not None and images.side <= network.whitened.patch:
        raise UsageError(
            f"images have {images.side} pixels a side, and whitened patches need "
            f"{network.whitened.patch + 1}; choose a larger --image-side, or --whitened 0"
        )
    flops = flops_per_view(
        network, objective, settings["patches"], side, settings["batch"], settings["optimizer"]
    )
    if fabric.world_size > 1:
        convert_to_global_batchnorm(network)
    share = Share.of(
        settings.get("shard", "images"), objective, name=settings["objective"]["name"],
        patches=settings["patches"], rank=fabric.global_rank, world=fabric.world_size,
    )  # fmt: skip
    sampler = Sampler(
        resident(images, fabric.device), batch=settings["batch"], seed=settings["seed"],
        rank=share.rank, world=share.world,
    )  # fmt: skip
    dtype = torch.float64 if settings["precision"] == "64-true" else torch.float32
    network.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.to(fabric.device, dtype)
    module = fabric.setup(network)
    target = EMANetwork(network) if objective.target == "momentum" else None
    optimizers = build_optimizers(nn.ModuleList([network, objective]), settings["optimizer"])
    memory = _memory_plan(settings, fabric, network, side)
    return Trainer(
        fabric, network, module, optimizers, objective, target, policy, share, sampler, images,
        settings, flops, began, policy, memory,
    )  # fmt: skip


def _memory_plan(
    settings: dict[str, Any], fabric: Fabric, network: Network, side: int
) -> MemoryPlan:
    """How much of a step, of views of `side` pixels, is held at once: by what is free before."""
    weight = next(network.parameters())
    return plan_memory(
        settings.get("memory", "auto"), network,
        torch.zeros(2, 3, side, side, dtype=weight.dtype, device=weight.device),
        patches=settings["patches"] * settings["batch"] // fabric.world_size,
        free=free_of_each(fabric), autocast=fabric.autocast,
    )  # fmt: skip


def _check_objective(objective: Objective, settings: dict[str, Any], images: ImageSet) -> None:
    """Refuse an objective to which patches or data have too little to give."""
    name, weak = settings["objective"]["name"], objective.weak_views
    if settings["patches"] <= weak:
        raise UsageError(
            f"patches is {settings['patches']}, of which {name} takes {weak} for its target "
            f"alone; expected {weak + 1} or more"
        )
    if objective.needs_labels and images.labels is None:
        raise UsageError(
            f"{name} learns from labels, and {settings['data']} has none; give images in one "
            "folder a class, or choose an objective that needs no labels"
        )


def compile_step(trainer: Trainer, mode: str) -> None:
    """Have views and network compiled, by trying them once; where that fails, go on without.

    Nothing of the trial stays: neither gradients nor BatchNorm's statistics.

    Args:
        trainer: at step 0.
        mode: of `torch.compile`, or none.
    """
    if mode == "none":
        return
    if trainer.memory.mode != "whole":
        trainer.say(f"not compiled, which takes memory 'whole' and not '{trainer.memory.mode}'")
        return
    plain, kept = trainer.module, {k: v.clone() for k, v in trainer.network.state_dict().items()}
    weak = trainer.objective.weak_views
    count, before = len(trainer.share.views) - weak, trainer.share.views.start + weak
    batch = trainer.settings["batch"] // trainer.share.world
    side, device = trainer.images.side, trainer.fabric.device
    images = torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device)
    u = torch.full((count, batch, trainer.policy.draws), 0.5, device=device)
    try:
        trainer.augment, network = compiled(trainer.policy, trainer.network, mode)
        trainer.module = trainer.fabric.setup(network)
        trainer.module.train()
        for _ in range(3):  # a CUDA graph is recorded at the second and third
            begin_step(mode)
            views = trainer.augment(images, u, before).to(next(trainer.network.parameters()).dtype)
            flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            trainer.fabric.backward(trainer.module(flat).square().mean())
            trainer.network.zero_grad(set_to_none=True)
        synchronize(trainer.fabric)
        trainer.compiled = mode
    except Exception as error:  # compilers fail in many ways, and few of them need end a run
        if is_out_of_memory(error):
            raise trainer.out_of_memory("trying the compiled step", error, begun=False) from error
        trainer.say(compile_failure(error))
        trainer.module, trainer.augment = plain, trainer.policy
    trainer.network.zero_grad(set_to_none=True)
    trainer.network.load_state_dict(kept)


def check_room(trainer: Trainer, out: Path) -> None:
    """Warn where the disk may be too small for the run.

    Raises:
        CheckpointError: it is.
    """
    size = checkpoint_bytes(trainer.modules.values(), trainer.settings["optimizer"])
    network = sum(t.nbytes for t in trainer.network.state_dict().values())
    kept = network * len(trainer.settings.get("keep_epochs", ()))
    if warning := check_disk(out, size, kept=kept, held=Run.held_bytes(out)):
        trainer.say(warning)
