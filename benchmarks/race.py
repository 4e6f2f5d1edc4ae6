"""CIFAR-10 accuracy against seconds of training: this package, and the slow pipeline.

    python benchmarks/race.py empssl --data-dir data --budgets 30s 1m 2m30s 5m \
        --joint 30s [--write]
    python benchmarks/race.py slow --data-dir data --budgets 5m 10m [--write]
    python benchmarks/race.py slow --name slow-paper --data-dir data --budgets 5m \
        --recipe paper --set '{patches: 20}' [--write]

Each point is a run of its own, with a learning rate that ends at zero on time; all are scored on
the test set in the same way, logistic regression on frozen features of a clean 3 x 3 grid.
`--train-only` leaves the scores to a second call with `--reuse`, for which the machine need not be
idle. `benchmarks/plot.py` draws the results.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from claim import claim

import empssl
from empssl.models import Layer
from empssl.runs.run import Run
from empssl.training.budget import parse_duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=["empssl", "slow"])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--budgets", nargs="+", default=["30s", "1m", "2m30s", "5m"])
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default=tempfile.gettempdir())
    parser.add_argument("--set", default="{}", help="YAML of settings laid over the recipe")
    parser.add_argument("--name", help="of the results, if not the system's")
    parser.add_argument("--joint", nargs="+", default=[], help="budgets to score in that layer too")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--reuse", action="store_true", help="do not repeat what --out has whole")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    name = args.name or args.system
    points = []
    for budget in args.budgets:
        for seed in args.seeds:
            out = Path(args.out) / f"race-{name}-{budget}-{seed}"
            if not (args.reuse and (out / "wall.json").exists()):
                began = time.monotonic()
                train(args, out, budget, seed)
                wall = time.monotonic() - began
                (out / "wall.json").write_text(json.dumps(wall))
            if args.train_only:
                continue
            wall = json.loads((out / "wall.json").read_text())
            scores = score(args, out, () if budget in args.joint else ("backbone", "head"))
            last, trained_by = Run(out).metrics()[-1], Run(out).environment
            point = {"budget": budget, "seed": seed, "wall_seconds": round(wall, 1)}
            point |= {"patches": last["patches"], "patches_per_second": last["patches"] / wall}
            point |= {key: trained_by[key] for key in ("empssl", "device", "threads", "precision")}
            point |= scores
            points.append(point)
            print(point, flush=True)
    if points:
        claim(
            f"race-{name}", [point["head"] for point in points], "% linear, head layer, test",
            write=args.write, points=points, config=Run(out).config,
        )  # fmt: skip


def score(args: argparse.Namespace, out: Path, layers: tuple[Layer, ...]) -> dict[str, float]:
    """Linear accuracy by layer."""
    done = Run(out).evaluations() if args.reuse else []
    if done:
        rows = done[0]["results"]
        return {row["layer"]: row["accuracy"] for row in rows}
    found = empssl.evaluate(
        out, "cifar10", data_dir=args.data_dir, probes=["linear"], layers=layers, baselines=False
    )
    return {row.layer: row.accuracy for row in found.results}


def train(args: argparse.Namespace, out: Path, budget: str, seed: int) -> None:
    """One run of either system."""
    if args.system == "slow":
        script = Path(__file__).with_name("slow_pipeline.py")
        words = ["--data-dir", args.data_dir, "--recipe", args.recipe, "--out", str(out),
                 "--seconds", str(parse_duration(budget)), "--seed", str(seed),
                 "--set", args.set, "--overwrite"]  # fmt: skip
        subprocess.run([sys.executable, str(script), *words], check=True)
    else:
        empssl.train(
            "cifar10", out=out, recipe=args.recipe, budget=budget, seed=seed,
            data_dir=args.data_dir, overwrite=True, **yaml.safe_load(args.set),
        )  # fmt: skip


if __name__ == "__main__":
    main()
