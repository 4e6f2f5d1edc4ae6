"""The plot of README.md, accuracy against seconds, from docs/results/*.json.

python benchmarks/plot.py
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
LINES = {
    "joint": ("empssl, joint embedding", "#1b7837", "o"),
    "head": ("empssl, head layer", "#2166ac", "s"),
}


def main() -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    ours = load("race-empssl")["points"] + budget_points("cifar10-laptop-10m")
    for layer, (label, color, marker) in LINES.items():
        curve(axes, ours, layer, label, color, marker)
    curve(axes, load("race-slow")["points"], "head", "slow pipeline, head layer", "#b2182b", "^")
    rows = load("cifar10-laptop-10m")["baselines"]
    white = {row["probe"]: row["accuracy"] for row in rows if "whitened" in row["model"]}
    for probe, style in {"linear": "--", "ridge": ":"}.items():
        axes.axhline(white[probe], color="#777777", linestyle=style, linewidth=1)
        axes.annotate(
            f"whitened patches, {probe}", (0.45, white[probe]), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", color="#555555", fontsize=8,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = [30, 60, 120, 300, 600]
    axes.set_xticks(ticks, ["30 s", "1 min", "2 min", "5 min", "10 min"])
    axes.minorticks_off()
    axes.set_xlabel("training time on two CPU cores")
    axes.set_ylabel("CIFAR-10 test accuracy, linear probe, %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    figure.savefig(RESULTS / "accuracy-per-second.png", dpi=150)


def load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def budget_points(name: str) -> list[dict[str, Any]]:
    """The runs of `cifar10_budget.py` as points of the race."""
    record = load(name)
    points = []
    for run in record["training"]:
        rows = [
            row for row in record["results"]
            if row["train_seed"] == run["seed"] and row["probe"] == "linear"
        ]  # fmt: skip
        found = {row["layer"]: row["accuracy"] for row in rows if row["crops"] == "grid3"}
        budget = record["config"]["budget"]
        points.append({"budget": budget, "wall_seconds": run["seconds"]} | found)
    return points


def curve(
    axes: Any, points: list[dict[str, Any]], layer: str, label: str, color: str, marker: str
) -> None:
    """Every run as a mark, and a line through the mean of each budget."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        groups[point["budget"]].append(point)
    means = sorted(
        (statistics.mean(p["wall_seconds"] for p in g), statistics.mean(p[layer] for p in g))
        for g in groups.values()
    )
    axes.plot(*zip(*means, strict=True), linestyle="--", color=color, linewidth=1.2)
    axes.plot(
        [p["wall_seconds"] for p in points], [p[layer] for p in points], marker, color=color,
        markersize=5, label=label,
    )  # fmt: skip


if __name__ == "__main__":
    main()
