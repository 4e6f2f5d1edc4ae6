"""CIFAR-10 accuracy after a fixed time of training, over seeds.

    python benchmarks/cifar10_budget.py --data-dir data --budget 5m --seeds 0 1 2 [--write]

Trains on all 50,000 training images without their labels, then probes both layers with all
labels and scores the 10,000 test images once. Nothing is chosen on test: the recipe was chosen on
a 45,000/5,000 split of train. The baselines are scored with the first seed.
"""

import argparse
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claim import claim

import empssl
from empssl.runs.run import Run


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
    parser.add_argument("--train-only", action="store_true", help="leave the scores to --reuse")
    parser.add_argument("--reuse", action="store_true", help="do not repeat what --out has whole")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows, baselines, trained = [], [], []
    for seed in args.seeds:
        out = Path(args.out) / f"cifar10-{args.recipe}-{args.budget}-{seed}"
        done = Run(out).evaluations() if args.reuse and (out / "model").exists() else []
        if done:
            found = done[0]
        else:
            if not (args.reuse and (out / "model").exists()):
                empssl.train(
                    "cifar10", out=out, recipe=args.recipe, budget=args.budget, seed=seed,
                    data_dir=args.data_dir, overwrite=True,
                )  # fmt: skip
            if args.train_only:
                continue
            scores = empssl.evaluate(
                out, "cifar10", data_dir=args.data_dir, probes=args.probes, crops=args.crops,
                baselines=not (baselines or args.no_baselines),
            )  # fmt: skip
            print(scores.table(), flush=True)
            found = asdict(scores)
        last = Run(out).metrics()[-1]
        trained.append(
            {"seed": seed, "seconds": round(last["seconds"], 1), "steps": last["step"] + 1,
             "patches": last["patches"], "pflop": round(last["pflop"], 4),
             "epochs": round(last["epoch"], 3),
             "coding_rate_ratio": round(last["coding_rate_ratio"], 4)}
        )  # fmt: skip
        rows += [result | {"train_seed": seed} for result in found["results"]]
        baselines = baselines or found["baselines"]
        report(args, Path(out), rows, baselines, trained)


def report(
    args: argparse.Namespace,
    out: Path,
    rows: list[dict[str, Any]],
    baselines: list[dict[str, Any]],
    trained: list[dict[str, Any]],
) -> None:
    """Everything so far: a seed that is cut short takes nothing with it."""
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
        "% linear, head layer, test", write=args.write,
        seeds=[run["seed"] for run in trained], summary=summary,
        training=trained, config={k: v for k, v in Run(out).config.items() if k != "data_dir"},
        environment=Run(out).environment, results=rows, baselines=baselines,
    )  # fmt: skip


if __name__ == "__main__":
    main()
