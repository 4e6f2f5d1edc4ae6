"""Whether measures without labels rank runs as a probe with labels does.

    python benchmarks/quality.py RUNS... --data cifar10 [--data-dir data] [--images 2000]
                                 [--layers backbone head] [--crops grid3] [--probed N] [--write]
    python benchmarks/quality.py --recompute    # the correlations in docs/results, again

Every run's network is measured on a sample of the train images, without labels, and scored by
ridge regression from the embeddings of train to the classes of test. For each layer and measure:
Spearman's rho and Kendall's tau, over the runs, of the score and the measure, turned so that larger
is healthier. 1 means that to pick a run by the measure is to pick it by its score.

Runs of one objective are alike, so they are not independent samples. What chance alone reaches is
therefore counted by permuting whole objectives (their runs stay together, ordered by the number of
patches and the seed), and the interval by drawing whole objectives with replacement. Runs of one
network and data only: between others the measures compare nothing.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from claim import ROOT, claim
from scipy.stats import ConstantInputWarning, kendalltau, rankdata, spearmanr

from empssl.data import ImageSet, open_images
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.examine import examine
from empssl.evaluation.label_free import MEASURES
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes.ridge import ridge_probe
from empssl.models import Layer
from empssl.runs.run import Run

DRAWS = 10_000  # permutations, and as many bootstrap samples
RESULT = ROOT / "docs" / "results" / "quality.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--data-dir")
    parser.add_argument("--images", type=int, default=2000, help="that are measured")
    parser.add_argument("--layers", nargs="+", default=["backbone", "head"])
    parser.add_argument("--crops", default="grid3")
    parser.add_argument("--probed", type=int, help="the first images of train and test; all")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--recompute", action="store_true", help="needs no runs and no data")
    args = parser.parse_args()
    if args.recompute:
        recompute()
        return
    if args.data is None:
        parser.error("--data says which data set the runs are scored on")
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
        print(f"{'measure':16} {'spearman':>10} {'kendall':>10} {'chance':>10} {'interval':>16}")
        for name, c in measures.items():
            shown = [f"{'-' if c[key] is None else f'{c[key]:.3f}':>10}"
                     for key in ("spearman", "kendall", "chance")]  # fmt: skip
            print(f"{name:16}", *shown, "{:>7.2f} {:>7.2f}".format(*c["interval"]))
    print()
    claim(
        "quality", [c["spearman"] or 0.0 for each in found.values() for c in each.values()],
        "Spearman's rho with the ridge probe, over measures and layers", write=args.write,
        data=args.data, images=args.images, crops=args.crops, probed=args.probed,
        num_runs=len(rows), correlations=found, runs=rows,
    )  # fmt: skip


def recompute() -> None:
    """Write the correlations of the committed measures and scores again."""
    record = json.loads(RESULT.read_text())
    record["correlations"] = {
        layer: correlations(record["runs"], layer) for layer in record["correlations"]
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


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


def correlations(rows: list[dict], layer: str) -> dict[str, dict[str, float | list | None]]:
    """Of each measure with the score at one layer; None where all runs measure the same."""
    scores = [row["ridge"][layer] for row in rows]
    found = {}
    for name, measure in MEASURES.items():
        healths = [measure.larger_is_better(row["measures"][layer][name]) for row in rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            rho, tau = spearmanr(healths, scores), kendalltau(healths, scores)
        values = {"spearman": rho.statistic, "kendall": tau.statistic}
        values = {key: None if v != v else round(float(v), 3) for key, v in values.items()}
        groups = blocks(rows)
        found[name] = values | {
            "chance": round(chance_bound(healths, scores, groups), 3),
            "interval": [round(v, 3) for v in interval(healths, scores, groups)],
        }
    return found


def blocks(rows: list[dict]) -> np.ndarray:
    """Positions of the runs, (objective, run): each objective's ordered by patches, then seed.

    Raises:
        ValueError: the objectives do not have equally many runs, so none can take another's place.
    """
    found: dict[str, list[int]] = {}
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["patches"], rows[i]["seed"]))
    for i in order:
        found.setdefault(rows[i]["objective"], []).append(i)
    sizes = {len(members) for members in found.values()}
    if len(sizes) > 1:
        raise ValueError(f"objectives have {sorted(sizes)} runs; give equally many of each")
    return np.array(list(found.values()))


def chance_bound(
    x: list[float], y: list[float], groups: np.ndarray, *, level: float = 0.95
) -> float:
    """The |rho| that a measure stays below with this probability if objectives were exchangeable.

    Whole objectives are permuted: runs of one are alike, and to permute them one by one would call
    too much unlikely.
    """
    generator = np.random.default_rng(0)
    x_ranks, y_ranks = rankdata(x), rankdata(y)
    flat = groups.ravel()
    shuffled = np.array([groups[generator.permutation(len(groups))].ravel() for _ in range(DRAWS)])
    null = _pearson(x_ranks[flat][None], y_ranks[shuffled])
    return float(np.nanquantile(np.abs(null), level))


def interval(
    x: list[float], y: list[float], groups: np.ndarray, *, level: float = 0.95
) -> tuple[float, float]:
    """Of rho, from whole objectives drawn with replacement (percentile bootstrap)."""
    generator = np.random.default_rng(0)
    drawn = groups[generator.integers(len(groups), size=(DRAWS, len(groups)))].reshape(DRAWS, -1)
    ranks = (rankdata(np.asarray(values)[drawn], axis=1) for values in (x, y))
    found = _pearson(*ranks)
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row by row; nan where a row is constant."""
    x, y = (values - values.mean(1, keepdims=True) for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))


if __name__ == "__main__":
    main()
