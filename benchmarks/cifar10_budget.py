"""CIFAR-10 accuracy after a fixed time of training, over seeds.

    python benchmarks/cifar10_budget.py --data-dir data --budget 5m --seeds 0 1 2 [--write]

Trains on all 50,000 training images without their labels, then probes both layers with all
labels and scores the 10,000 test images once. Nothing is chosen on test: the recipe was chosen on
a 45,000/5,000 split of train. The baselines are scored with the first seed.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from claim import claim

import empssl
from empssl.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--crops", nargs="+", default=["grid3"])
    parser.add_argument("--probes", nargs="+", default=["linear", "knn"])
    parser.add_argument("--no-baselines", action="store_true", help="another budget has them")
    parser.add_argument("--out", default=tempfile.gettempdir())
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows, baselines, trained, evaluated = [], [], [], []
    for seed in args.seeds:
        out = Path(args.out) / f"cifar10-{args.recipe}-{args.budget}-{seed}"
        began = time.monotonic()
        empssl.train(
            "cifar10", out=out, recipe=args.recipe, budget=args.budget, seed=seed,
            data_dir=args.data_dir, overwrite=True,
        )  # fmt: skip
        middle = time.monotonic()
        found = empssl.evaluate(
            out, "cifar10", data_dir=args.data_dir, probes=args.probes, crops=args.crops,
            baselines=not (baselines or args.no_baselines),
        )  # fmt: skip
        last = Run(out).metrics()[-1]
        trained.append(
            {"seed": seed, "wall_seconds": round(middle - began, 1), "steps": last["step"] + 1,
             "patches": last["patches"], "pflop": round(last["pflop"], 4),
             "epochs": round(last["epoch"], 3), "fill": round(last["fill"], 4)}
        )  # fmt: skip
        evaluated.append(round(time.monotonic() - middle, 1))
        rows += [asdict(result) | {"train_seed": seed} for result in found.results]
        baselines = baselines or [asdict(result) for result in found.baselines]
        print(found.table(), flush=True)
    groups: dict[str, list[float]] = {}
    for row in rows:
        key = f"{row['probe']} {row['layer']} {row['crops']}"
        groups.setdefault(key, []).append(row["accuracy"])
    summary = {
        key: {
            "mean": round(statistics.mean(v), 2),
            "spread": round(max(v) - min(v), 2),
            "n": len(v),
        }
        for key, v in groups.items()
    }
    claim(
        f"cifar10-{args.recipe}-{args.budget}", groups[f"linear head {args.crops[0]}"],
        "% linear, head layer, test", write=args.write, seeds=args.seeds, summary=summary,
        training=trained, evaluation_seconds=evaluated,
        config={key: v for key, v in Run(out).config.items() if key != "data_dir"},
        environment=Run(out).environment, results=rows, baselines=baselines,
    )  # fmt: skip


if __name__ == "__main__":
    main()
