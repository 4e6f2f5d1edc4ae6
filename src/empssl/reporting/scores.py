"""Scores of the run beside those of its baselines, a table for each data set."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    """All scores on one data set, the run's before the baselines', best first."""

    dataset: str
    rows: Sequence[Row]
    protocol: dict[str, Any]

    @property
    def best(self) -> Row | None:
        return next((row for row in self.rows if row.trained and not row.stale), None)

    @property
    def baseline(self) -> Row | None:
        """The best of what needed no training."""
        return next((row for row in self.rows if not row.trained), None)


def scores(evaluations: Sequence[dict[str, Any]], identity: str | None) -> list[Scores]:
    """The evaluations of a run.

    Args:
        evaluations: as the run directory holds them.
        identity: of the weights that it holds now; None if that is not known.
    """
    return [
        Scores(
            dataset=str(evaluation["dataset"]),
            rows=[
                *_rows(evaluation["results"], identity, trained=True),
                *_rows(evaluation["baselines"], identity, trained=False),
            ],
            protocol=evaluation["protocol"],
        )
        for evaluation in evaluations
    ]


def _rows(results: Sequence[dict[str, Any]], identity: str | None, *, trained: bool) -> list[Row]:
    rows = [
        Row(
            encoder="this run" if trained else _baseline(result["model"]),
            trained=trained,
            stale=trained and identity is not None and result["model"] != identity,
            **{key: result[key] for key in
               ("probe", "layer", "crops", "accuracy", "train_size", "test_size")},
        )
        for result in results
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row.accuracy)


def _baseline(model: str) -> str:
    if model.startswith("random-"):
        return "random weights"
    return "whitened patches" if model == "whitened-patches" else model
