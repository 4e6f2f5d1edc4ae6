"""Confusion: which classes are taken for which others, and how sure the probe is of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps

from empssl.evaluation.results import score_priority
from empssl.reports.charts import Axis, Chart, Line, Panel, dot, path
from empssl.reports.html import Picture, picture
from empssl.reports.sections.scores import OWN, ScoreProtocol, layer_index

FEW = 20  # classes that have room for a number in each cell of the table
_SIDE = 96.0
_PIXELS = 600  # at least, of the picture that stands in the table's place
_COLORS = colormaps["viridis"]
_TAKEN = 3  # classes that a class is most often taken for


@dataclass(frozen=True)
class Class:
    """One class.

    Attributes:
        images: of it in test.
        accuracy: percent of them that are put in it.
        taken: what the others are most often taken for, with how many.
    """

    name: str
    images: int
    accuracy: float
    taken: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class ConfusionCell:
    """Images of one class that were put in another, or in the same.

    Attributes:
        share: how deep the cell's color is, from 0 to 1.
    """

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Classes:
    """The headline of a protocol, class by class.

    Attributes:
        score: its probe, layer and crops.
        accuracy: of all test images, in percent.
        classes: those that test has, the worst first.
        names: of all, in the order of the confusion.
        confusion: a row for each class; empty where there are too many for a table.
        most: the largest share of a class that was taken for another, in percent.
        heat: the same as a picture, where there are too many.
        reliability: a chart for each score whose probe gives probabilities.
    """

    protocol: ScoreProtocol
    score: str
    accuracy: float
    classes: Sequence[Class]
    names: Sequence[str]
    confusion: Sequence[Sequence[ConfusionCell]]
    most: float
    heat: Picture | None
    reliability: Sequence[Panel]


def class_by_class(protocol: ScoreProtocol) -> Classes | None:
    """The breakdown of the score that stands for the run; None where there is none."""
    own = [row for row in protocol.results if row["encoder"] == OWN and row.get("breakdown")]
    if not own:
        return None
    shown = min(own, key=lambda row: score_priority(row["layer"], row["probe"]))
    names = shown["breakdown"]["classes"]
    counts = np.array(shown["breakdown"]["confusion"])
    few = len(names) <= FEW
    wrong = _shares(counts) * (1 - np.eye(len(names)))
    known = {(row["layer"], row["probe"], row["crops"]): row for row in own}
    ordered = sorted(known.values(), key=lambda row: layer_index(row["layer"]))
    sure = [row for row in ordered if row["breakdown"].get("calibration")]
    titles = _titles(sure)
    return Classes(
        protocol=protocol,
        score=f"{shown['probe']} probe on the {shown['layer']} layer, {shown['crops']} crops",
        accuracy=shown["accuracy"],
        classes=_classes(shown["breakdown"], counts),
        names=names,
        confusion=_cells(counts) if few else [],
        most=100 * float(wrong.max()),
        heat=None if few else _heat(counts),
        reliability=[_reliability(row, t) for row, t in zip(sure, titles, strict=True)],
    )


def _shares(counts: np.ndarray) -> np.ndarray:
    """Of each class, the share that was put in each."""
    shares: np.ndarray = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares


def _classes(breakdown: dict[str, Any], counts: np.ndarray) -> list[Class]:
    names, found = breakdown["classes"], []
    for at, (name, accuracy) in enumerate(zip(names, breakdown["per_class"], strict=True)):
        if accuracy is None:
            continue
        others = [
            int(k) for k in np.argsort(-counts[at], kind="stable") if k != at and counts[at, k]
        ]
        taken = [(names[k], int(counts[at, k])) for k in others[:_TAKEN]]
        found.append(Class(name, int(counts[at].sum()), accuracy, taken))
    return sorted(found, key=lambda one: one.accuracy)


def _cells(counts: np.ndarray) -> list[list[ConfusionCell]]:
    """What is wrong on a scale of its own: beside what is right, one could not see it."""
    shares = _shares(counts)
    right = np.eye(len(counts), dtype=bool)
    most = shares[~right].max(initial=0.0) or 1.0
    depths = np.where(right, shares, shares / most)
    return [
        [ConfusionCell(int(counts[r, c]), float(depths[r, c]), r == c) for c in range(len(counts))]
        for r in range(len(counts))
    ]


def _heat(counts: np.ndarray) -> Picture:
    """A cell for each pair of classes, by the square root of the share: so one sees few, too."""
    side = max(_PIXELS, len(counts))
    at = np.arange(side) * len(counts) // side
    colors = _COLORS(np.sqrt(_shares(counts)), bytes=True)[..., :3][at][:, at]
    return picture(torch.from_numpy(colors.copy()).permute(2, 0, 1), largest=side)


def _titles(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The layer of each score, and what else tells them apart."""
    keys = ["layer", *(k for k in ("probe", "crops") if len({row[k] for row in rows}) > 1)]
    return [", ".join(row[key] for key in keys) for row in rows]


def _reliability(row: dict[str, Any], title: str) -> Panel:
    """How sure the probe is and how often it is right, beside its expected calibration error."""
    calibration = row["breakdown"]["calibration"]
    bins = calibration["bins"]
    x, y = Axis(-4.0, 104.0, _SIDE), Axis(-4.0, 104.0, _SIDE, reverse=True)
    sure = np.array([part["confidence"] for part in bins])
    right = np.array([part["accuracy"] for part in bins])
    ends = np.array([0.0, 100.0])
    lines = [
        Line(path(x.place(ends), y.place(ends)), "base d2"),
        Line(path(x.place(sure), y.place(right)), "smooth"),
    ]
    words = [
        f"{s:.1f} % sure, {r:.1f} % right, {part['count']} images"
        for s, r, part in zip(sure, right, bins, strict=True)
    ]
    lines += [
        dot(float(x.place(s)), float(y.place(r)), "point", text)
        for s, r, text in zip(sure, right, words, strict=True)
    ]
    chart = Chart(x.ticks(3), y.ticks(3), lines, width=_SIDE, height=_SIDE)
    error = calibration["expected_error"]
    about = f"{title}, {row['probe']} probe: expected calibration error {error:.2f} points; "
    return Panel(title, about + "; ".join(words), chart, f"{error:.2f}")
