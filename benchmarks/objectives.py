"""What each objective costs beside the network it trains, by the number of views.

    python benchmarks/objectives.py [--views 2 8 20] [--repetitions 10] [--objectives emp vicreg]
                                    [--write]

Forward and backward of each objective on noise, float32, and forward and backward of the recipe's
network in the precision it trains in, the repetitions of all in turn. The first one of each does
not count. The claim is the share of the network's time that the dearest objective takes, for each
number of views; the medians of all are beside it.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from claim import claim

from empssl.config import build
from empssl.device import resolve_precision, synchronize
from empssl.distributed.launch import launch
from empssl.models import build_network
from empssl.objectives import OBJECTIVES, build_objective
from empssl.training.recipes import resolve
from empssl.training.step import objective_loss
from empssl.views import POLICIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--views", type=int, nargs="+", default=[2, 8, 20])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--objectives", nargs="+", default=sorted(OBJECTIVES))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    settings = resolve(args.recipe, {"objective": {"name": "emp"}})
    dim = settings["projector"]["dim"]
    fabric = launch(device="auto", devices=1, precision="auto")
    network = build_network(settings["backbone"], settings["projector"])
    network.to(memory_format=torch.channels_last)
    module = fabric.setup(network)
    side = build(POLICIES, settings["views"]).view_side(32)
    generator = torch.Generator().manual_seed(0)
    milliseconds: dict[int, dict[str, float]] = {}
    quartiles: dict[int, dict[str, list[float]]] = {}
    for views in args.views:
        z = torch.randn(views, args.batch, dim, generator=generator).to(fabric.device)
        patches = torch.randn(views * args.batch, 3, side, side, generator=generator)
        flat = patches.to(fabric.device).contiguous(memory_format=torch.channels_last)

        def train_network(flat: torch.Tensor = flat) -> None:
            fabric.backward(module(flat).square().mean())
            network.zero_grad(set_to_none=True)

        def train_on(name: str, z: torch.Tensor = z) -> Callable[[], None]:
            objective = build_objective({"name": name}, dim=dim).to(fabric.device)
            asked = {}
            if objective.target is not None:
                asked["targets"] = z[: objective.target_views]
            if objective.needs_labels:
                asked["labels"] = torch.arange(args.batch, device=z.device) % 10
            seen = z[objective.weak_views :]

            def step() -> None:
                objective_loss(objective, seen.clone().requires_grad_(), **asked).total.backward()

            return step

        works = {"network": train_network} | {name: train_on(name) for name in args.objectives}
        seconds = defaultdict(list)
        for repetition in range(args.repetitions + 1):
            for name, work in works.items():
                synchronize(fabric)
                began = time.perf_counter()
                work()
                synchronize(fabric)
                if repetition:
                    seconds[name].append(1e3 * (time.perf_counter() - began))
        milliseconds[views] = {k: round(statistics.median(v), 3) for k, v in seconds.items()}
        quartiles[views] = {
            k: [round(q, 3) for q in statistics.quantiles(v, n=4)[::2]] for k, v in seconds.items()
        }
        print(f"n = {views}: ", milliseconds[views], flush=True)
    shares = {
        views: {name: ms[name] / ms["network"] for name in args.objectives}
        for views, ms in milliseconds.items()
    }
    claim(
        "objectives", [max(share.values()) for share in shares.values()],
        f"of forward and backward of {args.recipe}", write=args.write, views=args.views,
        batch=args.batch, dim=dim, view_side=side, repetitions=args.repetitions,
        precision=resolve_precision("auto", fabric.device.type),
        share={n: {k: round(v, 4) for k, v in share.items()} for n, share in shares.items()},
        milliseconds=milliseconds, quartiles=quartiles,
    )  # fmt: skip


if __name__ == "__main__":
    main()
