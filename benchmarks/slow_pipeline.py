"""Train on CIFAR-10 with the slow pipeline, into a run directory that `empssl evaluate` scores.

    python benchmarks/slow_pipeline.py --data-dir data --out runs/slow --seconds 300
    python benchmarks/slow_pipeline.py --data-dir data --out runs/slow-paper --epochs 1 \
        --set '{patches: 20, batch: 100, views: {side: 32}}'
    empssl evaluate runs/slow cifar10 --data-dir data

The same images, n, b, views, network and schedule as the recipe's, in float32, with LARS. The
learning rate follows the share that is done of the epochs, or of the seconds.
"""

import argparse
import math
import time

import yaml
from claim import claim

from empssl.config import build
from empssl.data import MemoryImages, in_memory, open_images
from empssl.device import environment
from empssl.diagnostics.reference import SlowPipeline
from empssl.diagnostics.reference.pipeline import lars_options
from empssl.distributed.launch import launch
from empssl.objectives import build_objective
from empssl.optim import SCHEDULES, set_lr
from empssl.progress import progress
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training.flops import flops_per_view
from empssl.training.recipes import resolve
from empssl.views import POLICIES

RESOLUTION = 10_000  # parts into which the schedule divides a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", required=True)
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--set", default="{}", help="YAML of settings laid over the recipe")
    parser.add_argument("--seconds", type=float, help="train this long, start-up included")
    parser.add_argument("--epochs", type=float, default=1.0, help="if not for a time")
    parser.add_argument("--workers", type=int, help="loader processes; one a core by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    began = time.monotonic()
    settings = {"data": args.data} | resolve(
        args.recipe, {"epochs": args.epochs} | yaml.safe_load(args.set)
    )
    settings |= {"whitened": 0, "split": "train", "seed": args.seed, "precision": "32-true"}
    settings |= {"optimizer": {"name": "lars"} | lars_options(settings["optimizer"])}
    settings |= {"pipeline": "slow", "budget": args.seconds and f"{args.seconds:g}s"}
    images = in_memory(
        open_images(args.data, split="train", data_dir=args.data_dir, side=settings["image_side"])
    )
    assert isinstance(images, MemoryImages)
    fabric = launch(device="auto", devices=1, precision="32-true")
    pipeline = SlowPipeline(
        settings, images.pixels[images.valid], seed=args.seed, device=str(fabric.device),
        workers=args.workers,
    )  # fmt: skip
    policy = build(POLICIES, settings["views"])
    objective = build_objective(settings["objective"], dim=pipeline.network.projector.dim)
    # As `train` would take the same step, of whose losses the slow pipeline's are the plain twins.
    flops = flops_per_view(
        pipeline.network, objective, settings["patches"], policy.view_side(images.side),
        settings["batch"], settings["optimizer"],
    )  # fmt: skip
    run = Run.create(args.out, settings, overwrite=args.overwrite)
    run.environment = environment(fabric, "32-true") | {"workers": pipeline.workers}
    per_epoch = int(images.valid.sum()) // settings["batch"]
    steps = max(1, round(args.epochs * per_epoch))
    run.plan = {
        "steps": steps if args.seconds is None else None, "steps_per_epoch": per_epoch,
        "samples": len(images), "usable_samples": int(images.valid.sum()),
        "image_side": images.side, "patch_side": policy.patch_side(images.side),
        "view_side": policy.view_side(images.side), "gflop_per_patch": flops / 1e9,
        "fingerprint": images.fingerprint,
    }  # fmt: skip
    schedule = build(SCHEDULES, settings["schedule"], steps=RESOLUTION)
    entry: dict[str, float] = {}
    batches = pipeline.batches()
    with run.lock(), progress("training", math.ceil(args.seconds or steps)) as advance:
        for step in range(steps) if args.seconds is None else range(2**62):
            share = step / steps
            if args.seconds is not None:
                share = (time.monotonic() - began) / args.seconds
            if share >= 1:
                break
            lr = set_lr([pipeline.optimizer], schedule(math.floor(share * RESOLUTION)))
            loss = pipeline.step(next(batches))
            patches = (step + 1) * settings["patches"] * settings["batch"]
            seconds = time.monotonic() - began
            entry = {
                "step": step, "epoch": (step + 1) / per_epoch, "loss": loss, "lr": lr,
                "patches": patches, "pflop": patches * flops / 1e15,
                "patches_per_second": patches / seconds, "seconds": seconds,
            }  # fmt: skip
            run.add_metrics(entry)
            advance(step + 1 if args.seconds is None else int(seconds), f"loss {loss:.1f}")
        if not entry:
            raise SystemExit(f"not one step fits into {args.seconds:g} seconds")
        run.plan |= {"steps": entry["step"] + 1}
        keys = ("backbone", "projector", "whitened", "views", "patches")
        identity = {
            "network": {key: settings[key] for key in keys}, "image_side": images.side,
            "step": entry["step"] + 1, "seconds": entry["seconds"], "data": args.data,
        }  # fmt: skip
        run.save_model(Checkpoint({"model": dict(pipeline.network.state_dict())}, identity))
    claim(
        "slow-pipeline", [entry["patches_per_second"]], "patches/s", seed=args.seed,
        steps=entry["step"] + 1, patches=entry["patches"], pflop=entry["pflop"],
        seconds=entry["seconds"], workers=pipeline.workers, config=settings,
    )  # fmt: skip


if __name__ == "__main__":
    main()
