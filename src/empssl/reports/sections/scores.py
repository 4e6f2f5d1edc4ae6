"""Scores of the run beside those of its baselines, a table for each evaluation protocol."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from empssl.evaluation.results import is_whitened, score_priority
from empssl.models import Layer
from empssl.reports.charts import numeral

OWN, RANDOM, WHITENED = "this run", "random weights", "whitened patches"
PLAIN = "whitened patches, plain"  # where mirrored ones, which came later, stand beside them
_EVEN = 0.5  # percent by which balanced accuracy may be off before it is worth a column


@dataclass
class ScoreProtocol:
    """Evaluations on one data set under one protocol, together.

    Attributes:
        dataset: its name.
        data: the same as `evaluate` was given it.
        test_data: likewise; None where `data` was divided.
        apart: what sets the protocol apart from the others on this data set; empty if there is
            no other.
        said: the protocol, in a sentence.
        transfer: what the encoder was trained on, where that is other data; empty if it is not.
        results, few_shot, curves: the rows of the weights that the run has now and of what needs no
            training, as the run directory holds them, with an `encoder` each.
    """

    dataset: str
    data: str
    test_data: str | None
    apart: str
    said: str
    transfer: str
    results: list[dict[str, Any]] = field(default_factory=list)
    few_shot: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ScoreRow:
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
class ScoreTable:
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
    rows: Sequence[ScoreRow]

    @property
    def headline(self) -> ScoreRow | None:
        """The run's score that stands for it."""
        own = [row for row in self.rows if row.trained and not row.stale]
        return min(own, key=lambda row: score_priority(row.layer, row.probe), default=None)

    @property
    def baseline(self) -> ScoreRow | None:
        """The best of what needed no training, by the probe of the headline."""
        return self.headline and self.beside(self.headline)

    def beside(self, own: ScoreRow) -> ScoreRow | None:
        """The best baseline by the probe of a score of the run."""
        return next((r for r in self.rows if not r.trained and r.probe == own.probe), None)

    def gain(self, row: ScoreRow) -> float | None:
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
    def axis(self) -> tuple[int, int]:
        """The accuracies at which bars start and end: near those that there are, not 0 and 100."""
        every = [row.accuracy for row in self.rows]
        low, high = min(every), max(every)
        start = 5 * math.floor((low - max(1.0, (high - low) / 4)) / 5)
        start = min(max(start, 0), 95)
        return start, min(100, max(5 * math.ceil(high / 5), start + 5))

    def bar(self, row: ScoreRow) -> float:
        """The length of a score's bar, in percent of the axis."""
        start, end = self.axis
        return 100 * (row.accuracy - start) / (end - start)

    @property
    def uneven(self) -> bool:
        """Whether classes differ in size, so that balanced accuracy says something else."""
        return any(
            row.balanced is not None and abs(row.balanced - row.accuracy) > _EVEN
            for row in self.rows
        )


def score_protocols(
    evaluations: Sequence[dict[str, Any]], identity: str | None
) -> list[ScoreProtocol]:
    """The evaluations of a run, the data that it was trained on first.

    Args:
        evaluations: as the run directory holds them.
        identity: of the weights that it holds now, others are left out; None if that is not known.
    """
    groups: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for evaluation in evaluations:
        key = {"dataset": scored_on(evaluation)} | plain(evaluation["protocol"])
        groups.setdefault(str(key), (key, []))[1].append(evaluation)
    keys = [key for key, _ in groups.values()]
    found = [
        _score_protocol(
            key, group, apart(key, [k for k in keys if k["dataset"] == key["dataset"]]), identity
        )
        for key, group in groups.values()
    ]
    return sorted(found, key=lambda protocol: bool(protocol.transfer))


def _score_protocol(
    key: dict[str, Any], group: Sequence[dict[str, Any]], apart: str, identity: str | None
) -> ScoreProtocol:
    recorded = group[0]["protocol"]
    protocol = ScoreProtocol(
        key["dataset"], group[0]["dataset"], recorded.get("test_data"), apart, said(group[0]),
        transfer(recorded),
    )  # fmt: skip
    kinds = whitened_kinds(group)
    for evaluation in group:
        own = {result["model"] for result in evaluation["results"]}
        parts = (
            (protocol.results, [*evaluation["results"], *evaluation.get("baselines", [])]),
            (protocol.few_shot, evaluation.get("few_shot", [])),
            (protocol.curves, evaluation.get("curves", [])),
        )
        for kept, rows in parts:
            for row in rows:
                if row["model"] not in own:
                    kept.append(row | {"encoder": baseline(row["model"], kinds)})
                elif identity is None or row["model"] == identity:
                    kept.append(row | {"encoder": OWN})
    return protocol


def scored_on(evaluation: dict[str, Any]) -> str:
    """What the data of an evaluation are called."""
    name = Path(evaluation["dataset"]).name
    test_data = evaluation.get("protocol", {}).get("test_data")
    return name if test_data is None else f"{name}, tested on {Path(test_data).name}"


def said(evaluation: dict[str, Any]) -> str:
    """How it was measured, in a sentence."""
    protocol, results = evaluation["protocol"], evaluation["results"]
    sizes = {row.get("train_size"): row.get("test_size") for row in results}
    epoch = protocol.get("epoch", "last")
    parts = [
        "frozen encoder" if protocol.get("frozen") else "",
        f"{protocol['mode']} mode" if "mode" in protocol else "",
        f"weights of {'the last epoch' if epoch == 'last' else f'epoch {epoch}'}",
        f"images of {protocol['image_side']} pixels" if "image_side" in protocol else "",
        *(f"{numeral(n)} train and {numeral(m)} test images" for n, m in sizes.items() if n and m),
        f"seed {protocol['seed']}" if "seed" in protocol else "",
    ]
    text = ", ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + "."


def transfer(protocol: dict[str, Any]) -> str:
    """What the encoder was trained on, where that is other data."""
    return Path(protocol.get("trained_on", "other data")).name if protocol.get("transfer") else ""


def plain(protocol: dict[str, Any]) -> dict[str, Any]:
    """What of a protocol is a word or a number."""
    return {k: v for k, v in protocol.items() if isinstance(v, str | int | float)}


def apart(key: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    """The entries in which a protocol differs from the others of its data set."""
    keys = [name for name in key if any(o.get(name) != key[name] for o in others)]
    shown = [name for name in keys if not name.endswith("fingerprint")] or keys
    return ", ".join(f"{name.replace('_', ' ')} {key[name]}" for name in shown)


def whitened_kinds(evaluations: Iterable[dict[str, Any]]) -> set[str]:
    """Which kinds of whitened patches stand among the baselines."""
    rows = (row for each in evaluations for row in each.get("baselines", []))
    return {row["model"] for row in rows if is_whitened(row["model"])}


def baseline(model: str, kinds: Collection[str] = ()) -> str:
    """What needs no training, in words.

    Args:
        model: of a score.
        kinds: of whitened patches that stand beside each other.

    >>> baseline("whitened-patches"), baseline("whitened-mirrored")
    ('whitened patches', 'whitened patches')
    >>> both = ("whitened-patches", "whitened-mirrored")
    >>> [baseline(model, both) for model in both]
    ['whitened patches, plain', 'whitened patches']
    """
    if model.startswith("random-"):
        return RANDOM
    if not is_whitened(model):
        return model
    return PLAIN if len(kinds) > 1 and model == "whitened-patches" else WHITENED


def layer_index(layer: str) -> int:
    """Layers from the input to the output."""
    known = get_args(Layer)
    return known.index(layer) if layer in known else len(known)


def scores(evaluations: Sequence[dict[str, Any]], identity: str | None) -> list[ScoreTable]:
    """The evaluations of a run, the data that it was trained on first.

    Only scores of one protocol stand in one table.

    Args:
        evaluations: as the run directory holds them.
        identity: of the weights that it holds now; None if that is not known.
    """
    groups: dict[str, tuple[dict[str, Any], list[ScoreRow], str]] = {}
    kinds = whitened_kinds(evaluations)
    for evaluation in evaluations:
        own = [(result, True) for result in evaluation["results"]]
        others = [(result, False) for result in evaluation.get("baselines", [])]
        for result, trained in own + others:
            sizes = {name: result.get(name) for name in ("train_size", "test_size")}
            protocol = {"dataset": scored_on(evaluation)}
            protocol |= plain(evaluation.get("protocol", {})) | sizes
            _, rows, _ = groups.setdefault(str(protocol), (protocol, [], _saw_test(evaluation)))
            rows.append(_row(result, kinds, identity if trained else None, trained=trained))
    protocols = [protocol for protocol, _, _ in groups.values()]
    tables = [
        ScoreTable(
            dataset=protocol["dataset"],
            apart=apart(protocol, [g for g in protocols if g["dataset"] == protocol["dataset"]]),
            transfer=transfer(protocol),
            saw_test=saw_test,
            train_size=protocol["train_size"],
            test_size=protocol["test_size"],
            rows=_by_probe(dict.fromkeys(rows)),
        )
        for protocol, rows, saw_test in groups.values()
    ]
    return sorted(tables, key=lambda table: bool(table.transfer))


def _by_probe(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    rows = list(rows)
    own = {row.probe for row in rows if row.trained}

    def place(row: ScoreRow) -> tuple[bool, int, str, float]:
        return (
            row.probe not in own,
            score_priority(row.layer, row.probe)[1],
            row.probe,
            -row.accuracy,
        )

    return sorted(rows, key=place)


def _saw_test(evaluation: dict[str, Any]) -> str:
    if not evaluation.get("protocol", {}).get("saw_test"):
        return ""
    count = evaluation.get("images", {}).get("test", {}).get("trained_on")
    labels = "with" if evaluation.get("trained_with_labels") else "without"
    many = "the" if count is None else f"{numeral(count)} of the"
    return f"{many} test images too, {labels} their labels"


def _row(
    result: dict[str, Any], kinds: Collection[str], identity: str | None, *, trained: bool
) -> ScoreRow:
    return ScoreRow(
        encoder=OWN if trained else baseline(result["model"], kinds),
        trained=trained,
        stale=identity is not None and result["model"] != identity,
        probe=result["probe"],
        layer=result["layer"],
        crops=result["crops"],
        accuracy=result["accuracy"],
        balanced=result.get("balanced_accuracy"),
    )
