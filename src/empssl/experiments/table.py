"""The table of a comparison: a row for each objective and number of patches, over seeds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from empssl.config import Spec
from empssl.evaluation.results import is_whitened
from empssl.experiments.grid import decisive, differing
from empssl.experiments.run_spec import RunStatus
from empssl.models import LAYERS, Layer
from empssl.progress import visible
from empssl.reports.charts import numeral

EFFORTS = ("patches", "pflop", "seconds")


@dataclass(frozen=True)
class Spread:
    """The mean of `count` values, and the least and the greatest of them."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[int | float]) -> "Spread | None":
        """None if there is no value."""
        if not values:
            return None
        return cls(statistics.fmean(values), float(min(values)), float(max(values)), len(values))

    def text(self, write: Callable[[float], str] = numeral) -> str:
        """The mean, and the range where it has one.

        >>> Spread.of([60.0, 61.0]).text(percent)
        '60.5 (60.0 to 61.0)'
        >>> Spread.of([216000, 216000]).text()
        '216,000'
        """
        low, high = write(self.low), write(self.high)
        return write(self.mean) + (f" ({low} to {high})" if low != high else "")


@dataclass(frozen=True)
class TableRow:
    """What shares all settings but the seed, or a baseline.

    Attributes:
        label: the objective, or what the grid or its settings call it; of a baseline, its name.
        n: patches of each image in a step; None for a baseline.
        seeds: of those that are finished.
        asked: how many seeds there should be.
        efforts: patches, pflop and seconds of training, start-up apart.
        coding_rate_ratio: of the last step's projections, between collapse (0) and full spread (1).
        scores: accuracy by column.
        specs: the names of those that are finished.
    """

    label: str
    n: int | None
    seeds: tuple[int, ...]
    asked: int
    efforts: dict[str, Spread | None]
    coding_rate_ratio: Spread | None
    scores: dict[str, Spread | None]
    specs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonTable:
    """All rows.

    Attributes:
        columns: probe and layer of each score, `linear head`.
        rows: of trained networks.
        baselines: of what needs no training. Whitened patches have no layer: their number stands
            in every column of the probe that it is by, and in no other.
    """

    columns: tuple[str, ...]
    rows: Sequence[TableRow]
    baselines: Sequence[TableRow] = field(default=())

    @classmethod
    def of(cls, statuses: Sequence[RunStatus]) -> "ComparisonTable":
        groups: dict[str, list[RunStatus]] = {}
        for status in statuses:
            kind = f"{status.spec.label} {sorted(decisive(status.spec.settings).items())}"
            groups.setdefault(kind, []).append(status)
        columns = _columns(statuses)
        names = _names(list(groups.values()))
        rows = [
            _row(name, group, columns) for name, group in zip(names, groups.values(), strict=True)
        ]
        order = list(dict.fromkeys(row.label for row in rows))
        rows.sort(key=lambda row: (order.index(row.label), row.n or 0))
        return cls(columns, rows, _baselines(statuses, columns))

    def text(self) -> str:
        """As Markdown, its columns lined up for a terminal."""
        efforts = [name for name in EFFORTS if any(row.efforts[name] for row in self.rows)]
        ratio = [True] if any(row.coding_rate_ratio for row in self.rows) else []
        head = [
            "objective",
            "n",
            "seeds",
            *efforts,
            *("coding rate ratio" for _ in ratio),
            *self.columns,
        ]
        head = ["PFLOP" if name == "pflop" else name for name in head]
        lines = [head]
        for row in (*self.rows, *self.baselines):
            lines.append(
                [
                    visible(row.label).replace("|", "\\|"),
                    "" if row.n is None else str(row.n),
                    seeds(row),
                ]
                + [_written(row.efforts.get(name)) for name in efforts]
                + [_written(row.coding_rate_ratio, share) for _ in ratio]
                + [_written(row.scores[column], percent) for column in self.columns]
            )
        widths = [max(2, *(len(line[at]) for line in lines)) for at in range(len(head))]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        return "\n".join(
            "| " + " | ".join(
                spec.ljust(width) if at == 0 else spec.rjust(width)
                for at, (spec, width) in enumerate(zip(line, widths, strict=True))
            ) + " |"
            for line in lines
        )  # fmt: skip


def percent(value: float) -> str:
    """Percent with one digit: test sets here deserve no more."""
    return f"{value:.1f}"


def share(value: float) -> str:
    """Of 1, with two digits."""
    return f"{value:.2f}"


def seeds(row: TableRow) -> str:
    """How many seeds a row has, of how many."""
    if row.n is None:
        return ""
    done = len(row.seeds)
    return str(done) if done == row.asked else f"{done} of {row.asked}"


def _written(value: Spread | None, *write: Any) -> str:
    return "" if value is None else value.text(*write)


def _columns(statuses: Sequence[RunStatus]) -> tuple[str, ...]:
    """Every probe and layer that was scored: probes as asked, layers from head on.

    Those that are not probed unless asked for stand last, from the output to the input.
    """
    found = dict.fromkeys((row["probe"], row["layer"]) for o in statuses for row in o.scores)
    probes = list(dict.fromkeys(probe for probe, _ in found))
    layers = [*dict.fromkeys(("head", "backbone", *LAYERS, *reversed(get_args(Layer))))]
    layers += [layer for _, layer in found if layer not in layers]
    ordered = sorted(found, key=lambda key: (probes.index(key[0]), layers.index(key[1])))
    return tuple(f"{probe} {layer}" for probe, layer in ordered)


def _names(groups: Sequence[Sequence[RunStatus]]) -> list[str]:
    """Labels; those that several kinds with the same n share, with what sets these apart."""
    specs = [group[0].spec for group in groups]
    names = []
    for spec in specs:
        twins = [other for other in specs if (other.label, other.n) == (spec.label, spec.n)]
        settings = [decisive(twin.settings) for twin in twins]
        own = decisive(spec.settings)
        apart = [f"{name} {own.get(name)}" for name in differing(settings)]
        names.append(", ".join([spec.label, *apart]))
    return names


def _row(label: str, group: Sequence[RunStatus], columns: Sequence[str]) -> TableRow:
    done = [status for status in group if status.scores]
    efforts = {name: Spread.of([o.last[name] for o in done if name in o.last]) for name in EFFORTS}
    return TableRow(
        label=label,
        n=group[0].spec.n,
        seeds=tuple(status.spec.seed for status in done),
        asked=len(group),
        efforts=efforts,
        coding_rate_ratio=Spread.of(
            [o.last["coding_rate_ratio"] for o in done if "coding_rate_ratio" in o.last]
        ),
        scores={
            column: Spread.of([
                row["accuracy"] for status in done for row in status.scores
                if f"{row['probe']} {row['layer']}" == column
            ])
            for column in columns
        },
        specs=tuple(status.spec.name for status in done),
    )  # fmt: skip


def _baselines(statuses: Sequence[RunStatus], columns: Sequence[str]) -> list[TableRow]:
    """One row for random weights of each network, one for whitened patches with each probe."""
    random: dict[str, tuple[list[str], dict[str, float]]] = {}
    white: dict[str, dict[str, float]] = {}
    for status in statuses:
        labels, scores = random.setdefault(status.spec.network, ([], {}))
        if status.spec.label not in labels:
            labels.append(status.spec.label)
        for row in status.baselines:
            if is_whitened(row["model"]):
                kind = _kind(row["model"], status.spec.settings.get("whitened", 0))
                patches = white.setdefault(kind, {})
                patches.setdefault(row["probe"], row["accuracy"])
            else:
                scores.setdefault(f"{row['probe']} {row['layer']}", row["accuracy"])
    rows = [
        _baseline(
            "random weights" + (f", {' '.join(labels)}" if len(random) > 1 else ""),
            {column: scores.get(column) for column in columns},
        )
        for labels, scores in random.values() if scores
    ]  # fmt: skip
    for kind, scores in white.items():
        name = "whitened patches" + (f", {kind}" if len(white) > 1 else "")
        rows.append(_baseline(name, {column: scores.get(column.split()[0]) for column in columns}))
    return rows


def _kind(model: str, whitened: Spec | int) -> str:
    """What tells whitened patches from others: their number, and which they are if not plain.

    >>> _kind("whitened-patches", 64), _kind("whitened-mirrored", 0)
    ('64', 'mirrored')
    >>> _kind("whitened-mirrored", {"name": "mirrored", "num_features": 96, "patch": 6})
    'mirrored, num_features 96, patch 6'
    """
    if isinstance(whitened, dict):
        return ", ".join(str(v) if k == "name" else f"{k} {v}" for k, v in whitened.items())
    return str(whitened) if model == "whitened-patches" else model.removeprefix("whitened-")


def _baseline(label: str, scores: dict[str, float | None]) -> TableRow:
    spreads = {c: None if v is None else Spread.of([v]) for c, v in scores.items()}
    return TableRow(label, None, (), 0, {}, None, spreads)
