"""The tables of README.md, from docs/results/*.json.

    python benchmarks/table.py

`tests/test_results.py` fails when README.md says anything else.
"""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
COLUMNS = ("linear head grid3", "linear joint grid3", "knn head grid3", "knn joint grid3")


def load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def cifar_table() -> list[str]:
    """CIFAR-10 test accuracy by what was trained and for how long."""
    record, slow = load("cifar10-laptop-10m"), load("race-slow")
    lines = [
        "| CIFAR-10 test set, percent | seeds | linear, head | linear, joint | k-NN, head "
        "| k-NN, joint |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    cells = [_with_range(_values(record["results"], column)) for column in COLUMNS]
    lines.append(f"| `laptop`, 10 minutes | {record['n']} | {' | '.join(cells)} |")
    cells = [_with_range(_values(_untrained(record), column)) for column in COLUMNS]
    lines.append(f"| the same network, random weights | 1 | {' | '.join(cells)} |")
    white = {
        row["probe"]: row["accuracy"] for row in record["baselines"] if "whitened" in row["model"]
    }
    lines.append(
        f"| whitened patches, no network | 1 | | {white['linear']:.1f} "
        f"(ridge {white['ridge']:.1f}) | | {white['knn']:.1f} |"
    )
    lines.append(f"| the slow pipeline, 5 minutes | {slow['n']} | {slow['value']:.1f} | | | |")
    return lines


def other_table() -> list[str]:
    """Everything else, one line for each claim."""
    demo, flat, step = load("demo"), load("imagenette-folder"), load("step-laptop")
    random = _values(_untrained(demo), "knn head grid3")
    [untrained] = _values(_untrained(flat), "knn head grid3")
    share = step["share"]
    return [
        "| measured | value | n |",
        "| --- | --- | --- |",
        f"| demo: k-NN on 360 held-out digits, percent | {_with_range(demo['values'])}, "
        f"random weights {_with_range(random)} | {demo['n']} |",
        f"| demo: train, evaluate and report, seconds | "
        f"{_with_range(demo['seconds_train_evaluate_report'])} | {demo['n']} |",
        f"| {flat['images']:,} photographs in a flat folder, {flat['budget']}: k-NN on a held-out "
        f"fifth, percent | {flat['value']:.1f}, random weights {untrained:.1f} | {flat['n']} |",
        f"| `laptop` step, patches/s | {_with_range(step['values'], 0)} | {step['n']} steps |",
        f"| share of the step: views, objective, optimizer | {share['views']:.1%}, "
        f"{share['objective']:.1%}, {share['optimizer']:.1%} | |",
        f"| forward and backward alone / whole step | {step['bare_over_whole']:.2f} | |",
    ]


def _untrained(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in record["baselines"] if row["model"].startswith("random")]


def _values(rows: list[dict[str, Any]], column: str) -> list[float]:
    probe, layer, crops = column.split()
    return [
        r["accuracy"] for r in rows if (r["probe"], r["layer"], r["crops"]) == (probe, layer, crops)
    ]


def _with_range(values: list[float], digits: int = 1) -> str:
    """The mean of a few values and their range; the median of many and their quartiles."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    if len(values) > 10:
        low, middle, high = statistics.quantiles(values, n=4)
    else:
        low, middle, high = min(values), statistics.mean(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    print("\n".join([*cifar_table(), "", *other_table()]))
