"""The most memory that one step takes, of the paper's largest setting by default.

    python benchmarks/memory.py [--memory exact] [--patches 200] [--batch 100] [--gigabytes 6]

ResNet-18 on patches enlarged to 32 pixels, of noise. The peak is that of the whole process, views
and optimizer included, so each way to compute a step wants a process of its own.
"""

import argparse
import resource
import time

import torch
from claim import claim

from empssl.config import build
from empssl.device import resolve_precision
from empssl.distributed.launch import launch
from empssl.models import build_network
from empssl.objectives import build_objective
from empssl.optim import build_optimizers
from empssl.rng import uniform
from empssl.training.memory import FREE_SHARE, plan_memory
from empssl.training.recipes import resolve
from empssl.training.step import training_step
from empssl.views import POLICIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", default="exact", choices=["whole", "exact", "two-pass"])
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--patches", type=int, default=200)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--gigabytes", type=float, default=6.0, help="what the step may plan with")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    settings = resolve(args.recipe, {"patches": args.patches, "batch": args.batch})
    fabric = launch(device="auto", devices=1, precision="auto")
    policy = build(POLICIES, settings["views"])
    network = build_network(settings["backbone"], settings["projector"])
    network.to(memory_format=torch.channels_last)
    module = fabric.setup(network)
    optimizers = build_optimizers(network, settings["optimizer"])
    side = policy.view_side(32)
    how = plan_memory(
        args.memory, network, torch.zeros(2, 3, side, side, device=fabric.device),
        patches=args.patches * args.batch, free=args.gigabytes * 1e9 / FREE_SHARE,
        autocast=fabric.autocast,
    )  # fmt: skip
    images = torch.randint(0, 256, (args.batch, 3, 32, 32), dtype=torch.uint8)
    # A view at a time: the step itself is measured, not how its views are made.
    views = torch.cat([
        policy(images, uniform(torch.arange(args.batch), seed=0, epoch=0, views=range(i, i + 1),
                               draws=policy.draws))
        for i in range(args.patches)
    ]).to(fabric.device)  # fmt: skip
    objective = build_objective(settings["objective"], dim=network.projector.dim).to(fabric.device)
    began = time.perf_counter()
    result = training_step(fabric, module, objective, optimizers, views, how)
    loss = float(result.loss.total.detach())
    seconds = time.perf_counter() - began
    if fabric.device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated())
    else:
        peak = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    claim(
        f"memory-{args.memory}", [peak / 1e9], "GB at most", write=args.write, seconds=seconds,
        loss=loss, patches=args.patches, batch=args.batch, boundaries=list(how.boundaries),
        chunk=how.chunk, precision=resolve_precision("auto", fabric.device.type),
    )  # fmt: skip


if __name__ == "__main__":
    main()
