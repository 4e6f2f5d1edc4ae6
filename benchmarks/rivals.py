"""Every objective with 2, 8 and 20 patches by one protocol: CIFAR-10, as many patches for each.

    python benchmarks/rivals.py --data-dir data --out runs/rivals [--seeds 0 1 2] [--write]

A grid of `empssl compare`: interrupt it and it goes on, and several processes may share it, each
with OMP_NUM_THREADS=1. What each objective has of its own is its form of `laptop`, found on a part
of train (`benchmarks/holdout.py`, docs/log.md). The claim is the ridge accuracy of the head layer,
the mean over seeds, of every objective and n in turn.
"""

import argparse
import json
from typing import Any

from claim import claim

import empssl
from empssl.objectives import OBJECTIVES

FIRST = "ridge head"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patches", type=int, nargs="+", default=[2, 8, 20])
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--equal", default="patches=72000")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = empssl.compare(
        data="cifar10", data_dir=args.data_dir, out=args.out, objectives=args.objectives,
        patches=args.patches, seeds=args.seeds, equal=args.equal, recipe="laptop",
        backbone={"name": "resnet10", "width": 16}, whitened=0, probes=["ridge", "knn"],
        crops="grid2", train_size=10_000,
    )  # fmt: skip
    record = json.loads(found.to_json())
    rows = sorted(record["rows"], key=lambda row: (row["n"], -_mean(row)))
    claim(
        "rivals-cifar10", [_mean(row) for row in rows], "% ridge, head layer", write=args.write,
        **{key: record[key] for key in ("data", "equal", "protocol", "columns", "baselines")},
        rows=rows, cells=[_short(cell) for cell in record["cells"]],
    )  # fmt: skip


def _mean(row: dict[str, Any]) -> float:
    mean: float = row["scores"][FIRST]["mean"]
    return mean


def _short(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell's numbers, without the settings that the others share."""
    kept = ("name", "steps", "epochs", "patches", "pflop", "seconds")
    own = {
        key: value for key, value in cell["settings"].items()
        if key.split(".")[0] in ("objective", "optimizer", "projector", "views", "batch")
    }  # fmt: skip
    scores = {f"{s['probe']} {s['layer']}": round(s["accuracy"], 2) for s in cell["scores"]}
    last = cell["last_step"]
    gauge = {k: last[k] for k in ("coding_rate_ratio", "participation_ratio") if k in last}
    return {key: cell[key] for key in kept} | {"scores": scores, "gauge": gauge, "own": own}


if __name__ == "__main__":
    main()
