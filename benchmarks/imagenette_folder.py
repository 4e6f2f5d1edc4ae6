"""An unlabeled flat folder of photographs, end to end.

    python benchmarks/imagenette_folder.py --parquet train.parquet [--budget 3m] [--write]

Writes the images of a labeled Parquet file (Hugging Face schema) as one flat folder, trains on
it, embeds it and makes the report. Then the labels are put back, as one folder per class, and the
k-NN score of the trained encoder stands beside that of random weights.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
from claim import claim

import empssl
from empssl.runs.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parquet", required=True)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--out", default=tempfile.mkdtemp())
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    out = Path(args.out)
    flat, classes, run = out / "flat", out / "classes", out / "run"
    flat.mkdir(parents=True)
    table = pq.read_table(args.parquet)
    for i, row in enumerate(table.to_pylist()):
        image, label = row["image"], row["label"]
        name = f"{i:05d}{Path(image['path']).suffix}"
        (flat / name).write_bytes(image["bytes"])
        (classes / f"{label}").mkdir(parents=True, exist_ok=True)
        (classes / f"{label}" / name).write_bytes(image["bytes"])
    began = time.monotonic()
    empssl.train(str(flat), out=run, budget=args.budget)
    trained = time.monotonic() - began
    embeddings = empssl.embed(run, str(flat), out=out / "embeddings.parquet")
    report = empssl.report(run)
    found = empssl.evaluate(run, str(classes), probes=["knn", "linear"])
    print(found.table())
    last = Run(run).metrics()[-1]
    [score] = [r.accuracy for r in found.results if (r.probe, r.layer) == ("knn", "head")]
    claim(
        "imagenette-folder", [score], "% k-NN, head layer, held-out fifth", write=args.write,
        images=table.num_rows, budget=args.budget, train_wall_seconds=round(trained, 1),
        steps=last["step"] + 1, patches=last["patches"],
        embedded_rows=pq.read_metadata(embeddings).num_rows,
        report_bytes=report.stat().st_size, results=[asdict(r) for r in found.results],
        baselines=[asdict(r) for r in found.baselines], environment=Run(run).environment,
    )  # fmt: skip


if __name__ == "__main__":
    main()
