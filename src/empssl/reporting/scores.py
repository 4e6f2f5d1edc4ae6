"""Scores of the run beside those of its baselines, a table for each protocol."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl.headline import rank
from empssl.reporting.ground import OWN, apart, baseline, plain, transfer
from empssl.reporting.numerals import numeral

_EVEN = 0.5  # percent by which balanced accuracy may be off before it is worth a column


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        encoder: what made the embeddings, in words.
        trained: the run's own network, not a baseline.
        stale: the run's network, but with other weights than it has now.
        balanced: mean accuracy over classes; None where it was not measured.
    """

    encoder: str
    trained: bool
    stale: bool
    probe: str
    layer: str
    crops: str
    accuracy: float
    balanced: float | None


@dataclass(frozen=True)
class Scores:
    """All scores of one protocol on one data set, the run's among its baselines'.

    Those of one probe stand together, best first: no other score of a baseline is beside one of
    the run. A probe that the run was not scored by comes last.

    Attributes:
        apart: what sets the protocol apart from the others on this data set, in words; empty if
            there is no other.
        transfer: what the encoder was trained on, where that is other data; empty if it is not.
        saw_test: on which test images the encoder was trained too, in words; empty if on none.
        train_size: images that a probe learns from; None where that was not written down.
        test_size: images that it is scored on.
    """

    dataset: str
    apart: str
    transfer: str
    saw_test: str
    train_size: int | None
    test_size: int | None
    rows: Sequence[Row]

    @property
    def headline(self) -> Row | None:
        """The run's score that stands for it."""
        own = [row for row in self.rows if row.trained and not row.stale]
        return min(own, key=lambda row: rank(row.layer, row.probe), default=None)

    @property
    def baseline(self) -> Row | None:
        """The best of what needed no training, by the probe of the headline."""
        return self.headline and self.beside(self.headline)

    def beside(self, own: Row) -> Row | None:
        """The best baseline by the probe of a score of the run."""
        return next((r for r in self.rows if not r.trained and r.probe == own.probe), None)

    def gain(self, row: Row) -> float | None:
        """Points that a score of the run is above the best baseline by its probe."""
        base = self.beside(row) if row.trained else None
        return None if base is None else row.accuracy - base.accuracy

    @property
    def compared(self) -> bool:
        """Whether a score of the run has a baseline by its probe."""
        return any(self.gain(row) is not None for row in self.rows)

    @property
    def descending(self) -> bool:
        """Whether the rows stand in the order of their accuracies, as with one probe."""
        accuracies = [row.accuracy for row in self.rows]
        return accuracies == sorted(accuracies, reverse=True)

    @property
    def uneven(self) -> bool:
        """Whether classes differ in size, so that balanced accuracy says something else."""
        return any(
            row.balanced is not None and abs(row.balanced - row.accuracy) > _EVEN
            for row in self.rows
        )


def scores(evaluations: Sequence[dict[str, Any]], identity: str | None) -> list[Scores]:
    """The evaluations of a run, the data that it was trained on first.

    Only scores of one protocol stand in one table.

    Args:
        evaluations: as the run directory holds them.
        identity: of the weights that it holds now; None if that is not known.
    """
    groups: dict[str, tuple[dict[str, Any], list[Row], str]] = {}
    for evaluation in evaluations:
        own = [(result, True) for result in evaluation["results"]]
        others = [(result, False) for result in evaluation.get("baselines", [])]
        for result, trained in own + others:
            sizes = {name: result.get(name) for name in ("train_size", "test_size")}
            ground = {"dataset": Path(evaluation["dataset"]).name}
            ground |= plain(evaluation.get("protocol", {})) | sizes
            _, rows, _ = groups.setdefault(str(ground), (ground, [], _saw_test(evaluation)))
            rows.append(_row(result, identity if trained else None, trained=trained))
    grounds = [ground for ground, _, _ in groups.values()]
    tables = [
        Scores(
            dataset=ground["dataset"],
            apart=apart(ground, [g for g in grounds if g["dataset"] == ground["dataset"]]),
            transfer=transfer(ground),
            saw_test=saw_test,
            train_size=ground["train_size"],
            test_size=ground["test_size"],
            rows=_by_probe(dict.fromkeys(rows)),
        )
        for ground, rows, saw_test in groups.values()
    ]
    return sorted(tables, key=lambda table: bool(table.transfer))


def _by_probe(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    own = {row.probe for row in rows if row.trained}

    def place(row: Row) -> tuple[bool, int, str, float]:
        return row.probe not in own, rank(row.layer, row.probe)[1], row.probe, -row.accuracy

    return sorted(rows, key=place)


def _saw_test(evaluation: dict[str, Any]) -> str:
    if not evaluation.get("protocol", {}).get("saw_test"):
        return ""
    count = evaluation.get("images", {}).get("test", {}).get("trained_on")
    labels = "with" if evaluation.get("trained_with_labels") else "without"
    many = "the" if count is None else f"{numeral(count)} of the"
    return f"{many} test images too, {labels} their labels"


def _row(result: dict[str, Any], identity: str | None = None, *, trained: bool) -> Row:
    return Row(
        encoder=OWN if trained else baseline(result["model"]),
        trained=trained,
        stale=identity is not None and result["model"] != identity,
        probe=result["probe"],
        layer=result["layer"],
        crops=result["crops"],
        accuracy=result["accuracy"],
        balanced=result.get("balanced_accuracy"),
    )
