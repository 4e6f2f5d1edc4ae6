"""What the collapse metrics of healthy and of faulty runs show, and when the warning comes.

    python benchmarks/alarm.py --out runs.jsonl [--objectives emp vicreg] [--seeds 5]
                               [--faults NAMES] [--write]
    python benchmarks/alarm.py --runs RUNS...

Trains every objective with recipe `demo` on digits, as it is and with each fault of
`tests/wrong_objectives.py`, and adds a line for each run to a file: its measures at every step, the
k-NN accuracy after it and of random weights. Runs that the file has are not run again. In the end,
for each run of the file: the level that `embedding_std` and `participation_ratio` stayed under for
some 20
steps from step 20 on, and the step of the warning. The claim is how many faults were told of.
With --runs nothing is trained: those finished runs are looked at, and the ones told of are named.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from claim import ROOT, claim

from empssl.data import DATASETS
from empssl.errors import DivergenceError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes.knn import knn_score
from empssl.metrics.projections import FIRST_STEP, LOW, WARN_STEPS, CollapseWatch
from empssl.objectives import OBJECTIVES
from empssl.runs.run import Run
from empssl.training.train import train

sys.path.insert(0, str(ROOT / "tests"))
from wrong_objectives import FAULTS, planted

MEASURES = (
    "loss", "coding_rate_ratio", "participation_ratio", "embedding_std", "alignment", "uniformity",
)  # fmt: skip
PATCHES, BATCH, IMAGES = 4, 40, 1437


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", help="directories of finished runs")
    parser.add_argument("--objectives", nargs="+", default=sorted(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=5, help="healthy runs of each objective")
    parser.add_argument("--faults", nargs="+", help="names of faults; all by default")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--fault-steps", type=int, default=80)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.runs:
        look(args.runs)
        return
    if args.out is None:
        parser.error("give --out, or --runs")
    done = {(run["objective"], run["fault"], run["seed"]) for run in read(args.out)}
    digits = DATASETS["digits"]
    DATASETS["digits"] = replace(digits, open=cache(digits.open))
    wanted = [(name, None, seed) for seed in range(args.seeds) for name in args.objectives]
    wanted[len(args.objectives) : len(args.objectives)] = [
        (name, fault, 0) for name in args.objectives for fault in args.faults or FAULTS[name]
    ]
    for name, fault, seed in wanted:
        if (name, fault, seed) not in done:
            line = measure(name, fault, seed, args.fault_steps if fault else args.steps)
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    summarize(read(args.out), write=args.write)


def look(runs: list[Path]) -> None:
    """Name the runs that are told of, and count them all."""
    told = 0
    for path in runs:
        metrics = Run(path).metrics()
        measures = {g: [entry[g] for entry in metrics] for g in ("loss", *LOW)}
        step = warned(measures)
        if step is not None:
            told += 1
            levels = ", ".join(f"{measure} {level(measures[measure]):.2f}" for measure in LOW)
            print(f"{path.name}: warning at step {step} of {len(metrics)}; {levels}")
    print(f"{told} of {len(runs)} runs told of")


def read(path: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def summarize(runs: list[dict[str, Any]], *, write: bool) -> None:
    """A line for each run, and the claim over all."""
    for run in runs:
        levels = {measure: level(run[measure]) for measure in LOW}
        print(run["objective"], run["fault"] or "healthy", run["seed"],
              *(f"{measure} {value:.2f}" for measure, value in levels.items()),
              f"knn {run['knn']:.1f} random {run['random']:.1f}" if "knn" in run else "diverged",
              f"warning at step {warned(run)}")  # fmt: skip
    healthy = [warned(run) for run in runs if run["fault"] is None]
    faulty = [warned(run) for run in runs if run["fault"] is not None]
    claim(
        "alarm", [float(step is not None) for step in faulty], "of planted faults told",
        write=write, told=sum(step is not None for step in faulty), faults=len(faulty),
        alarms_in_healthy=sum(step is not None for step in healthy), healthy=len(healthy),
    )  # fmt: skip


def level(values: list[float]) -> float:
    """The lowest threshold under which the values stayed for as long as a warning takes."""
    starts = range(FIRST_STEP, len(values) - WARN_STEPS + 1)
    return min((max(values[at : at + WARN_STEPS]) for at in starts), default=float("nan"))


def warned(run: dict[str, Any]) -> int | None:
    watch = CollapseWatch()
    for step in range(len(run["loss"])):
        if watch.update(step, {measure: run[measure][step] for measure in LOW}):
            return step
    return None


def measure(name: str, fault: str | None, seed: int, steps: int) -> dict[str, Any]:
    """One run: its measures, and what it learned."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        diverged = None
        with planted(FAULTS[name][fault] if fault else None):
            try:
                train(
                    "digits", out=out, recipe="demo", patches=PATCHES, batch=BATCH,
                    epochs=steps / (IMAGES // BATCH), objective=name, seed=seed, device="cpu",
                )  # fmt: skip
            except DivergenceError as error:
                diverged = str(error)
        metrics = Run(out).metrics()
        line: dict[str, Any] = {
            "objective": name, "fault": fault, "seed": seed, "diverged": diverged,
        } | {g: [round(entry[g], 5) for entry in metrics] for g in MEASURES}  # fmt: skip
        if diverged is None:
            line["knn"] = knn(Encoder.from_pretrained(out, device="cpu"))
            line["random"] = knn(Encoder.random(out, device="cpu"))
    return line


def knn(encoder: Encoder) -> float:
    """Accuracy of the head on the held-out digits, of whole images."""
    train_set, test_set = (
        DATASETS["digits"].open(split=split, side=encoder.image_side) for split in ("train", "test")
    )
    bags = [
        encoder.embed(part.pixels, torch.arange(len(part)), Crops.parse("whole"), ["head"])["head"]
        for part in (train_set, test_set)
    ]
    return knn_score(bags[0], train_set.labels, bags[1], test_set.labels).accuracy


if __name__ == "__main__":
    main()
