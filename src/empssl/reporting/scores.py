"""Scores of the run beside those of its baselines, a table for each data set and protocol."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        encoder: what made the embeddings, in words.
        trained: the run's own network, not a baseline.
        stale: the run's network, but with other weights than it has now.
    """

    encoder: str
    trained: bool
    stale: bool
    probe: str
    layer: str
    crops: str
    accuracy: float
    train_size: int
    test_size: int


@dataclass(frozen=True)
class Scores:
    """All scores on one data set, the run's among its baselines', best first."""

    dataset: str
    rows: Sequence[Row]

    @property
    def best(self) -> Row | None:
        return next((row for row in self.rows if row.trained and not row.stale), None)

    @property
    def baseline(self) -> Row | None:
        """The best of what needed no training."""
        return next((row for row in self.rows if not row.trained), None)


def scores(evaluations: Sequence[dict[str, Any]], identity: str | None) -> list[Scores]:
    """The evaluations of a run. Those with one protocol share a table.

    Args:
        evaluations: as the run directory holds them.
        identity: of the weights that it holds now; None if that is not known.
    """
    alike: dict[str, list[dict[str, Any]]] = {}
    for evaluation in evaluations:
        key = json.dumps([evaluation["dataset"], evaluation["protocol"]], sort_keys=True)
        alike.setdefault(key, []).append(evaluation)
    return [
        Scores(
            dataset=Path(group[0]["dataset"]).name,
            rows=sorted(
                dict.fromkeys(
                    [_row(row, identity, trained=True) for e in group for row in e["results"]]
                    + [_row(row, trained=False) for e in group for row in e["baselines"]]
                ),
                key=lambda row: -row.accuracy,
            ),
        )
        for group in alike.values()
    ]


def _row(result: dict[str, Any], identity: str | None = None, *, trained: bool) -> Row:
    shown = ("probe", "layer", "crops", "accuracy", "train_size", "test_size")
    return Row(
        encoder="this run" if trained else _baseline(result["model"]),
        trained=trained,
        stale=identity is not None and result["model"] != identity,
        **{key: result[key] for key in shown},
    )


def _baseline(model: str) -> str:
    if model.startswith("random-"):
        return "random weights"
    return "whitened patches" if model == "whitened-patches" else model
