"""What a change of recipe is worth, without a look at the test set.

    python benchmarks/holdout.py --data-dir data --epochs 0.6 --set '{optimizer: {eta: 0.01}}'

Trains on the first 45,000 training images of CIFAR-10 without labels, fits a ridge probe on the
first 20,000 of them (or as many as --probed says) and scores it on the other 5,000 of train, with
2 x 2 clean crops and their mirror images, or what --crops names. The standard error of a score
near 60 % is 0.7 points.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import yaml
from claim import claim

from empssl.data import MemoryImages, open_images
from empssl.distributed.launch import launch
from empssl.distributed.signals import stop_requests
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes.ridge import ridge_probe
from empssl.runs.run import Run
from empssl.training.recipes import resolve
from empssl.training.trainer import Trainer

TRAINED = 45_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--epochs", type=float, default=0.6)
    parser.add_argument("--set", default="{}", help="YAML of settings laid over the recipe")
    parser.add_argument("--probed", type=int, default=20_000)
    parser.add_argument("--crops", default="grid2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    changes = yaml.safe_load(args.set)
    every = open_images("cifar10", split="train", data_dir=args.data_dir)
    fabric = launch(device="auto", devices=1, precision="auto")
    scores: dict[str, list[float]] = {"head": [], "backbone": []}
    last = {}
    for seed in args.seeds:
        settings = {"data": "cifar10"} | resolve(args.recipe, {"epochs": args.epochs} | changes)
        settings |= {"split": "train", "seed": seed, "precision": "auto"}
        run = Run.create(Path(tempfile.mkdtemp()) / "run", settings)
        with stop_requests() as request:
            training = Trainer.build(settings, fabric, part(every, 0, TRAINED), time.monotonic())
            training.enter(run)
            training.start()
            training.loop(request)
        last = run.metrics()[-1]
        encoder = Encoder.from_pretrained(run.path)
        train, test = part(every, 0, args.probed), part(every, TRAINED, len(every))
        bags = [
            encoder.embed(p.pixels, torch.arange(len(p)), Crops.parse(args.crops), list(scores))
            for p in (train, test)
        ]
        for layer, found in scores.items():
            score = ridge_probe(bags[0][layer], train.labels, bags[1][layer], test.labels)
            found.append(score.accuracy)
    claim(
        "holdout", scores["head"], "% ridge, head layer, 5,000 images of train", seeds=args.seeds,
        backbone=scores["backbone"], probed=args.probed, crops=args.crops, recipe=args.recipe,
        changes=changes, steps=last["step"] + 1,
        patches=last["patches"], pflop=last["pflop"], fill=last["coding_rate_ratio"],
    )  # fmt: skip


def part(images: MemoryImages, start: int, stop: int) -> MemoryImages:
    """Some of the images, with their labels."""
    return MemoryImages(
        images.pixels[start:stop], name=images.name, split="train", fingerprint="a part",
        labels=images.labels[start:stop],
    )  # fmt: skip


if __name__ == "__main__":
    main()
