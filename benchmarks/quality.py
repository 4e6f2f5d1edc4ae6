"""Whether measures without labels rank runs as a probe with labels does.

    python benchmarks/quality.py RUNS... --data cifar10 [--data-dir data] [--images 2000]
                                 [--layers backbone head] [--crops grid3] [--probed N] [--write]

Every run's network is measured on a sample of the train images, without labels, and scored by
ridge regression from the embeddings of train to the classes of test. For each layer and measure:
Spearman's rho and Kendall's tau, over the runs, of the score and the measure, turned so that larger
is healthier. 1 means that to pick a run by the measure is to pick it by its score. With few runs
chance alone reaches large values, so read p. Runs of one network and data only: between others the
measures compare nothing.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
from claim import claim
from scipy.stats import ConstantInputWarning, kendalltau, spearmanr

from empssl.bag import Crops
from empssl.data import ImageSet, open_images
from empssl.evaluation.ridge import ridge_probe
from empssl.models import Layer
from empssl.pretrained import Encoder
from empssl.quality import MEASURES, examine
from empssl.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--images", type=int, default=2000, help="that are measured")
    parser.add_argument("--layers", nargs="+", default=["backbone", "head"])
    parser.add_argument("--crops", default="grid3")
    parser.add_argument("--probed", type=int, help="the first images of train and test; all")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if len(args.runs) < 3:
        parser.error(f"{len(args.runs)} runs have no rank correlation; give 3 or more")
    rows = []
    for run in args.runs:
        row = measures_and_scores(run, args)
        rows.append(row)
        print(json.dumps(row), flush=True)
    networks = {json.dumps(row["network"], sort_keys=True) for row in rows}
    if len(networks) > 1:
        print("warning: the runs' networks differ, so their measures cannot be compared")
    found = {layer: correlations(rows, layer) for layer in args.layers}
    scores = {layer: [row["ridge"][layer] for row in rows] for layer in args.layers}
    for layer, measures in found.items():
        low, high = min(scores[layer]), max(scores[layer])
        print(f"\n{layer}: ridge {low:.1f} to {high:.1f} %, n = {len(rows)} runs")
        print(f"{'measure':16} {'spearman':>10} {'p':>10} {'kendall':>10} {'p':>10}")
        for name, c in measures.items():
            shown = [f"{'-' if value is None else f'{value:.3f}':>10}" for value in c.values()]
            print(f"{name:16}", *shown)
    print()
    claim(
        "quality", [c["spearman"] or 0.0 for each in found.values() for c in each.values()],
        "Spearman's rho with the ridge probe, over measures and layers", write=args.write,
        data=args.data, images=args.images, crops=args.crops, probed=args.probed,
        num_runs=len(rows), correlations=found, runs=rows,
    )  # fmt: skip


def measures_and_scores(run: Path, args: argparse.Namespace) -> dict[str, object]:
    """What is known of one run, as plain values."""
    quality = examine(run, data=args.data, data_dir=args.data_dir, images=args.images,
                      layers=args.layers, crops=args.crops, random=False)  # fmt: skip
    measured: dict[str, dict[str, float]] = {layer: {} for layer in args.layers}
    for reading in quality.readings:
        measured[reading.layer][reading.measure] = round(reading.value, 4)
    encoder = Encoder.from_pretrained(run)
    (x, y), (test_x, test_y) = (
        embedded(encoder, open_images(args.data, split=split, data_dir=args.data_dir,
                                      side=encoder.image_side), args)
        for split in ("train", "test")
    )  # fmt: skip
    scores = {layer: ridge_probe(x[layer], y, test_x[layer], test_y) for layer in args.layers}
    config = Run(run).config
    return {
        "run": run.name,
        "objective": config["objective"]["name"],
        "epochs": config["epochs"],
        "patches": config["patches"],
        "seed": config["seed"],
        "network": {"backbone": config["backbone"], "projector": config["projector"]},
        "ridge": {layer: round(score.accuracy, 3) for layer, score in scores.items()},
        "measures": measured,
    }


def embedded(
    encoder: Encoder, images: ImageSet, args: argparse.Namespace
) -> tuple[dict[Layer, torch.Tensor], torch.Tensor]:
    """Embeddings and labels of the images that are probed and can be read."""
    assert images.labels is not None, f"{images.name} has no labels"
    parts, labels = [], []
    crops, layers = Crops.parse(args.crops), args.layers
    for rows in encoder.batches(min(len(images), args.probed or len(images))):
        batch, samples = images.read(rows), torch.tensor(rows)
        good = batch.valid & (images.labels[samples] >= 0)
        parts.append(encoder.embed(batch.pixels[good], samples[good], crops, layers))
        labels.append(images.labels[samples[good]])
    return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}, torch.cat(
        labels
    )


def correlations(rows: list[dict], layer: str) -> dict[str, dict[str, float | None]]:
    """Of each measure with the score at one layer; None where all runs measure the same."""
    scores = [row["ridge"][layer] for row in rows]
    found = {}
    for name, measure in MEASURES.items():
        healths = [measure.health(row["measures"][layer][name]) for row in rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            rho, tau = spearmanr(healths, scores), kendalltau(healths, scores)
        values = {"spearman": rho.statistic, "spearman_p": rho.pvalue, "kendall": tau.statistic,
                  "kendall_p": tau.pvalue}  # fmt: skip
        found[name] = {key: None if v != v else round(float(v), 3) for key, v in values.items()}
    return found


if __name__ == "__main__":
    main()
