"""The plot of docs/results.md, accuracy against seconds, from docs/results/*.json.

python benchmarks/plot.py
"""

from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from table import RESULTS, budget_points, load, mean_curve

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
    curve(axes, load("race-slow")["points"], "head", "slow pipeline, same views", "#b2182b", "^")
    curve(
        axes, load("race-slow-paper")["points"], "head", "slow pipeline, the paper's views",
        "#8c510a", "v",
    )  # fmt: skip
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
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(RESULTS / "accuracy-per-second.png", dpi=150)


def curve(
    axes: Any, points: list[dict[str, Any]], layer: str, label: str, color: str, marker: str
) -> None:
    """Every run as a mark, and a line through the mean of each budget."""
    axes.plot(
        *zip(*mean_curve(points, layer), strict=True), linestyle="--", color=color, linewidth=1.2
    )
    axes.plot(
        [p["wall_seconds"] for p in points], [p.get(layer) for p in points], marker, color=color,
        markersize=5, label=label,
    )  # fmt: skip


if __name__ == "__main__":
    main()
