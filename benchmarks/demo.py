"""The demo's time and score: what `make demo` runs, over seeds.

python benchmarks/demo.py [--seeds 0 1 2] [--write]
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from claim import claim

import empssl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    scores, seconds, rows, baselines = [], [], [], []
    for seed in args.seeds:
        out = Path(tempfile.mkdtemp()) / "demo"
        began = time.monotonic()
        empssl.train("pentominoes", out=out, recipe="shapes", seed=seed)
        found = empssl.evaluate(out, "pentominoes", seed=seed)
        empssl.report(out)
        seconds.append(round(time.monotonic() - began, 1))
        [score] = [r.accuracy for r in found.results if (r.probe, r.layer) == ("knn", "head")]
        scores.append(score)
        rows += [asdict(r) | {"train_seed": seed} for r in found.results]
        baselines += [asdict(r) | {"train_seed": seed} for r in found.baselines]
        print(found.table(), flush=True)
    claim(
        "demo", scores, "% k-NN, head layer, 500 held-out images of pentominoes", write=args.write,
        seeds=args.seeds, seconds_train_evaluate_report=seconds, results=rows,
        baselines=baselines,
    )  # fmt: skip


if __name__ == "__main__":
    main()
