"""What a training step costs, and which part of it costs what.

    python benchmarks/step_shares.py [--recipe laptop] [--steps 60] [--write]

On CIFAR-sized noise, with the recipe's own network, views and batch. `bare` is forward and
backward of the same network on ready views at the same precision, in the same run.
"""

import argparse
import statistics
import time
from collections import defaultdict

import torch
from claim import claim

from empssl.draws import uniform
from empssl.engine import launch
from empssl.models import build_network
from empssl.objectives import OBJECTIVES
from empssl.optim import build_optimizers
from empssl.recipes import resolve
from empssl.spec import build
from empssl.step import gradient_norm, objective_loss
from empssl.views import POLICIES

WARMUP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--patches", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    settings = resolve(args.recipe, {"patches": args.patches, "batch": args.batch})
    n, b = settings["patches"], settings["batch"]
    fabric = launch(device="auto", devices=1, precision="auto")
    policy = build(POLICIES, settings["views"])
    network = build_network(settings["backbone"], settings["projector"])
    network.to(memory_format=torch.channels_last)
    module = fabric.setup(network)
    objective = build(OBJECTIVES, settings["objective"])
    optimizers = build_optimizers(network, settings["optimizer"])
    images = torch.randint(0, 256, (b, 3, 32, 32), dtype=torch.uint8)
    seconds = defaultdict(list)

    def timed(part: str, began: float) -> float:
        now = time.perf_counter()
        seconds[part].append(now - began)
        return now

    for step in range(WARMUP + args.steps):
        t0 = t = time.perf_counter()
        u = uniform(torch.arange(b), seed=0, epoch=step, views=range(n), draws=policy.draws)
        views = policy(images, u)
        t = timed("views", t)
        flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        projections = module(flat).unflatten(0, (n, b))
        t = timed("forward", t)
        # The objective's own forward and backward, cut off from the network's.
        cut = projections.detach().requires_grad_()
        loss = objective_loss(objective, cut)
        loss.total.backward()
        t = timed("objective", t)
        fabric.backward(projections, cut.grad)
        t = timed("backward", t)
        gradient_norm(network)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        t = timed("optimizer", t)
        timed("whole", t0)
        t = time.perf_counter()
        fabric.backward(module(flat).square().mean())
        timed("bare", t)
        network.zero_grad(set_to_none=True)
    middle = {part: statistics.median(times[WARMUP:]) for part, times in seconds.items()}
    whole = middle.pop("whole")
    bare = middle.pop("bare")
    claim(
        f"step-{args.recipe}", [n * b / t for t in seconds["whole"][WARMUP:]], "patches/s",
        write=args.write, patches=n, batch=b, precision=str(fabric._precision.precision),
        milliseconds={part: round(1e3 * t, 2) for part, t in middle.items()},
        share={part: round(t / whole, 4) for part, t in middle.items()},
        bare_over_whole=round(bare / whole, 4), view_side=policy.view_side(32),
        microseconds_per_patch_of_views=round(1e6 * middle["views"] / (n * b), 2),
    )  # fmt: skip


if __name__ == "__main__":
    main()
