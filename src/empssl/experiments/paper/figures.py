"""The figures, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from empssl.experiments.paper.base import Exhibit
from empssl.experiments.paper.plan import PaperPlan
from empssl.experiments.paper.published import EPOCHS, OURS
from empssl.experiments.paper.results import CurvePoint, ReproducedNumber

FORMATS = ("png", "svg")
COLUMNS = 3  # of maps
REACH = 2.7  # standard deviations from the middle of a map to its edge


def draw(name: str, plan: PaperPlan, found: Sequence[ReproducedNumber], folder: Path) -> list[str]:
    """Draw what there is of a figure.

    Returns:
        The files' names; none for a table, or where nothing has been run.
    """
    exhibit = plan.exhibits[name]
    if exhibit.plot is None or not any(reproduced.curves for reproduced in found):
        return []
    # Imported here: it takes a second, and a table does not need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "font.size": 9}):
        if exhibit.plot == "convergence":
            figure = Figure(figsize=(11, 4.0), layout="constrained")
            _convergence(figure, exhibit, plan, found)
        else:
            rows = -(-len(found) // COLUMNS)
            figure = Figure(figsize=(9.6, 3.4 * rows), layout="constrained")
            _maps(figure, plan, found, rows)
        files = [f"{name}.{kind}" for kind in FORMATS]
        for file in files:
            when = {"Date": None} if file.endswith("svg") else {}
            figure.savefig(folder / file, dpi=150, metadata=when)
    return files


def _convergence(
    figure: Any, exhibit: Exhibit, plan: PaperPlan, found: Sequence[ReproducedNumber]
) -> None:
    """Theirs where a table has them, ours by epochs, and ours by compute."""
    published = {f.number.experiment: f.number for f in found if f.number.theirs is not None}
    axes = list(figure.subplots(1, 2 + bool(published), sharey=not published)[:])
    if published:
        left = axes.pop(0)
        for color, number in enumerate(published.values()):
            theirs = OURS[number.on][number.experiment.n]
            label = f"the paper, {number.experiment.n} patches"
            left.plot(EPOCHS, theirs, "o", color=f"C{color}", mfc="none", label=label)
        left.set_title("the paper, Table 2 (its curve is a picture)")
        left.set_xlabel("epochs of the paper")
    for axis, key in zip(axes, ("epoch", "pflop"), strict=True):
        for color, reproduced in enumerate(found):
            if reproduced.curves:
                _line(axis, reproduced, key, f"C{color}", plan.name(reproduced.number))
        axis.set_title(f"here, scale {plan.scale.name}, {_seeds(found)}")
        axis.set_xlabel({"epoch": "epochs", "pflop": "PFLOP of training"}[key])
    for axis in figure.axes:
        axis.set_ylabel(f"{found[0].number.on}, linear probe, %")
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    shown = axes if not published else figure.axes[:2]
    lines, labels = (
        [each for axis in shown for each in axis.get_legend_handles_labels()[part]]
        for part in (0, 1)
    )
    figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(exhibit.title)


def _line(axis: Any, reproduced: ReproducedNumber, key: str, color: str, label: str) -> None:
    """The mean over seeds, shaded by a standard deviation where there are several."""
    runs: Sequence[Sequence[CurvePoint]] = reproduced.curves
    values = np.array([[point.value for point in run] for run in runs])
    x = np.mean([[getattr(point, key) for point in run] for run in runs], axis=0)
    axis.plot(x, values.mean(0), "o-", color=color, markersize=3, label=label)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axis.fill_between(
            x, values.mean(0) - spread, values.mean(0) + spread, color=color, alpha=0.2, linewidth=0
        )


def _seeds(found: Sequence[ReproducedNumber]) -> str:
    counts = sorted({len(reproduced.curves) for reproduced in found if reproduced.curves})
    text = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{text} seed{'s' if counts[-1] > 1 else ''}"


def _maps(figure: Any, plan: PaperPlan, found: Sequence[ReproducedNumber], rows: int) -> None:
    """One plane a method, all with the same axes; one that was not run says why."""
    grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axis, reproduced in zip(grid, found, strict=False):
        axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
        axis.set_title(plan.name(reproduced.number))
        if not reproduced.maps:
            state = "not finished" if reproduced.state == "begun" else reproduced.state
            axis.text(0, 0, state, ha="center")
            continue
        seen = reproduced.maps[0]
        points, labels = np.array(seen["plane"]), np.array(seen["labels"])
        axis.scatter(*points.T, c=labels % 10, cmap="tab10", s=3, linewidths=0)
        axis.set_xlabel(f"separation {seen['separation']:.3f}")
    for axis in grid[len(found) :]:
        axis.set_axis_off()
