"""Tables and sentences of the pages that hold measured numbers, from the JSON in docs/results.

    python benchmarks/table.py

The pages are docs/results.md, docs/reliability.md, docs/results/paper/README.md and README.md.
`tests/test_results.py` fails when they say anything else.
"""

import json
import math
import re
import statistics
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from empssl.runs.records import RENAMED

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
SPOKEN = {"30s": "30 seconds", "1m": "1 minute", "2m30s": "2.5 minutes", "5m": "5 minutes"}
SLOW = {
    "race-slow": "the slow pipeline, same views",
    "race-slow-paper": "the slow pipeline, 20 views of 32 px",
}
COLUMNS = ("linear head grid3", "linear joint grid3", "knn head grid3", "knn joint grid3")


def load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def cifar_table() -> list[str]:
    """CIFAR-10 test accuracy by what was trained and for how long."""
    record = load("cifar10-laptop-10m")
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
    for point in load("race-empssl")["points"]:
        joint = f"{point['joint']:.1f}" if "joint" in point else "not scored"
        lines.append(
            f"| `laptop`, {SPOKEN[point['budget']]} | 1 | {point['head']:.1f} | {joint} | | |"
        )
    for name, label in SLOW.items():
        slow = load(name)
        [point] = slow["points"]
        lines.append(
            f"| {label}, {SPOKEN[point['budget']]} | {slow['n']} | {slow['value']:.1f} | | | |"
        )
    return lines


def race_table() -> list[str]:
    """How long it takes here to reach what the slow pipeline reached, by the head of both."""
    lines = [
        "| to reach what it reached, linear probe of the head of both | accuracy | time here |",
        "| --- | --- | --- |",
    ]
    ours = load("race-empssl")["points"] + budget_points("cifar10-laptop-10m")
    for name, label in SLOW.items():
        [point] = load(name)["points"]
        time = _speed_up(point["wall_seconds"], *first_time(ours, "head", point["head"]))
        lines.append(f"| {label}, {SPOKEN[point['budget']]} | {point['head']:.1f} | {time} |")
    return lines


def first_time(
    points: list[dict[str, Any]], layer: str, accuracy: float
) -> tuple[float | None, float]:
    """The longest run that stayed below an accuracy and the shortest that reached it, in seconds.

    None for the first, if the shortest run there is reached it. What lies between was not measured.
    """
    before: float | None = None
    for seconds, reached in mean_curve(points, layer):
        if reached >= accuracy:
            return before, seconds
        before = seconds
    raise ValueError(f"no run reached {accuracy}")


def mean_curve(points: list[dict[str, Any]], layer: str) -> list[tuple[float, float]]:
    """Mean seconds and accuracy of each budget, the shortest first."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        if layer in point:
            groups[point["budget"]].append(point)
    return sorted(
        (statistics.mean(p["wall_seconds"] for p in g), statistics.mean(p[layer] for p in g))
        for g in groups.values()
    )


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


def _speed_up(slow: float, before: float | None, reached: float) -> str:
    if before is None:
        return f"under {reached:.0f} s, over {math.floor(slow / reached)} times faster"
    least, most = slow / reached, slow / before
    return f"{before:.0f} to {reached:.0f} s, {least:.1f} to {most:.1f} times faster"


def rivals_table() -> list[str]:
    """Every objective at equal patches, the best first, and what many patches are worth."""
    record, cost = load("rivals-cifar10"), load("objectives")["share"]
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in record["rows"]:
        found[row["label"]][row["n"]] = row["scores"]["ridge head"]
    views = sorted({n for scores in found.values() for n in scores})
    most = str(max(views))
    gains = [f"{n} less {views[0]}" for n in views[1:]]
    head = [f"{n} patches" for n in views] + gains + [f"its cost, {most} patches"]
    lines = [f"| objective | {' | '.join(head)} |", "| --- " * (len(head) + 1) + "|"]
    for label in sorted(found, key=lambda key: -max(s["mean"] for s in found[key].values())):
        cells = [_spread(found[label][n]) for n in views]
        for n in views[1:]:
            differences = paired(label, n, views[0])
            ahead = sum(difference > 0 for difference in differences)
            cells.append(
                f"{signed(statistics.mean(differences))}, {ahead} of {len(differences)} seeds"
            )
        lines.append(f"| `{label}` | {' | '.join(cells)} | {cost[most][label]:.1%} |")
    for row in record["baselines"]:
        name = row["label"].split(",")[0]  # whose projector it has makes no difference to the head
        cell = _spread(row["scores"]["ridge head"])
        lines.append(f"| {name} | {' | '.join([cell] * len(views))} |{' |' * (len(gains) + 1)}")
    return list(dict.fromkeys(lines))


def paired(label: str, n: int, other: int) -> list[float]:
    """Points by which n patches of an image beat another number, seed by seed."""
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    for cell in load("rivals-cifar10")["cells"]:
        objective, patches, seed = re.fullmatch(r"(.+)-n(\d+)-seed(\d+)", cell["name"]).groups()
        if objective == label:
            scores[int(patches)][seed] = cell["scores"]["ridge head"]
    return [scores[n][seed] - scores[other][seed] for seed in sorted(scores[n])]


def rivals_sentence() -> str:
    """What the table says of many patches, in every seed and not in the mean alone."""
    labels = sorted({row["label"] for row in load("rivals-cifar10")["rows"]})
    counts = {}
    for n in (8, 20):
        differences = {label: paired(label, n, 2) for label in labels}
        means = sum(statistics.mean(values) > 0 for values in differences.values())
        every = sum(min(values) > 0 for values in differences.values())
        counts[n] = (means, every)
    return (
        f"At equal patches eight of each image beat two in the mean of three seeds in "
        f"{counts[8][0]} of {len(labels)} objectives, and in every seed in {counts[8][1]}; twenty "
        f"beat two in {counts[20][0]} and in {counts[20][1]}."
    )


def gains_sentence() -> str:
    """Where many patches gain most, and how far seeds lie apart."""
    record = load("rivals-cifar10")
    scores = {(row["label"], row["n"]): row["scores"]["ridge head"] for row in record["rows"]}
    labels = sorted({label for label, _ in scores})
    gains = {label: statistics.mean(paired(label, 8, 2)) for label in labels}
    named = [
        f"{gain:.1f} points in "
        + " and ".join(f"`{x}`" for x in labels if _tenth(gains[x]) == gain)
        for gain in sorted({_tenth(gain) for gain in gains.values()}, reverse=True)[:3]
    ]
    widths = {key: score["high"] - score["low"] for key, score in scores.items()}
    widest = max(widths, key=lambda key: widths[key])
    low, *_, high = sorted(width for key, width in widths.items() if key != widest)
    later = [x for x in labels if scores[x, 20]["mean"] > scores[x, 8]["mean"]]
    ahead = scores["simclr", 8]["mean"] - scores["emp", 8]["mean"]
    return (
        f"The gain of eight over two is largest with {named[0]}, {named[1]} and {named[2]}; ranges "
        f"over seeds are {low:.1f} to {high:.1f} points wide, {widths[widest]:.1f} for "
        f"`{widest[0]}` with {widest[1]}. Twenty beat eight in none but "
        f"{' and '.join(f'`{x}`' for x in later)}. With eight patches `simclr` is {ahead:.1f} "
        "points ahead of `emp`"
    )


def _tenth(value: float) -> float:
    return round(value, 1)


def joint_sentence() -> str:
    """What a network adds to whitened patches in ten minutes, in the layer that has both."""
    record = load("cifar10-laptop-10m")
    gains = []
    for probe in ("linear", "knn"):
        own = statistics.mean(_values(record["results"], f"{probe} joint grid3"))
        [white] = _values(record["baselines"], f"{probe} none whole")
        gains.append(own - white)
    *first, last = sorted(run["seconds"] for run in record["training"])
    return (
        f"in ten minutes a small network adds {gains[0]:.1f} points to what whitened patches know, "
        f"and {gains[1]:.1f} in k-NN. The budgets of ten minutes ended after "
        f"{', '.join(f'{seconds:.0f}' for seconds in first)} and {last:.0f} seconds"
    )


def level_sentence() -> str:
    """The best that was trained for the comparison by one protocol, beside whitened patches."""
    record = json.loads((RESULTS / "paper" / "same-protocol.json").read_text())
    done = [number["ours"] for number in record["numbers"] if number["ours"]["state"] == "done"]
    best = max(done, key=lambda ours: ours["mean"])
    [white] = {
        row["whitened_patches"] for row in record["untrained"] if row["probe"] == best["probe"]
    }
    return (
        "And the best of it is level with whitened patches, which need no network: "
        f"{_with_range(best['values'])} beside {white:.1f}."
    )


def quality_table() -> list[str]:
    """How measures without labels rank runs beside a probe with labels, best first."""
    backbone, head = (load("quality")["correlations"][layer] for layer in ("backbone", "head"))
    lines = [
        "| measure | head | 95 % | backbone | 95 % |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in sorted(head, key=lambda name: -head[name]["spearman"]):
        cells = []
        for layer in (head, backbone):
            low, high = layer[name]["interval"]
            cells += [_two_digits(layer[name]["spearman"])]
            cells += [f"{_two_digits(low)} to {_two_digits(high)}"]
        lines.append(f"| {RENAMED.get(name, name)} | {' | '.join(cells)} |")
    return lines


def quality_sentence() -> str:
    """What chance alone reaches, by permuting whole objectives."""
    bounds = [
        each["chance"] for layer in load("quality")["correlations"].values()
        for each in layer.values()
    ]  # fmt: skip
    return (
        f"Were objectives exchangeable, 95 % of correlations would stay below {min(bounds):.2f} to "
        f"{max(bounds):.2f} either way, by the measure (whole objectives permuted, as runs of one "
        "are alike)."
    )


def _same(claim: dict[str, Any]) -> list[dict[str, Any]]:
    """What compares the same layer and the same crops of both."""
    return [result for result in claim["results"] if result["layer"] and result["crops"]]


def _ahead(results: list[dict[str, Any]]) -> str:
    return f"{sum(result['outcome'] == 'ahead' for result in results)} of {len(results)}"


def paper_sentence() -> str:
    """How EMP-SSL stands to two-view methods by the same layer, crops and probe."""
    record = json.loads((RESULTS / "paper" / "same-protocol.json").read_text())
    epochs, compute = (_same(claim) for claim in record["claims"])
    tied = [" and ".join(result["pair"]) for result in epochs if result["outcome"] == "tie"]
    pairs = "; ".join(dict.fromkeys(tied))
    low, high = (f(result["mean"] for result in compute) for f in (min, max))
    return (
        "On CIFAR-10, by the same layer, the same crops and the same probe of both, three seeds: "
        f"at equal epochs EMP-SSL was ahead of five rivals with two views in {_ahead(epochs)} "
        f"comparisons and tied in {len(tied)} ({pairs}); at equal compute, "
        f"with 16 patches, ahead in {_ahead(compute)}, by {low:.1f} to {high:.1f} points."
    )


def sentences() -> list[str]:
    """The sentences of docs/results.md that hold numbers of docs/results."""
    return [
        paper_sentence(), level_sentence(), joint_sentence(), rivals_sentence(), gains_sentence(),
        quality_sentence(),
    ]  # fmt: skip


def readme_sentences() -> list[str]:
    """The sentences of README.md that hold numbers: accuracy, the demo's time, speed."""
    record, demo, step = load("cifar10-laptop-10m"), load("demo"), load("step-laptop")
    [slow] = load("race-slow")["points"]
    ours = load("race-empssl")["points"] + budget_points("cifar10-laptop-10m")
    time = _speed_up(slow["wall_seconds"], *first_time(ours, "head", slow["head"]))
    head, joint = (
        _with_range(_values(record["results"], f"linear {layer} grid3"))
        for layer in ("head", "joint")
    )
    random_head, random_joint = (
        _with_range(_values(_untrained(record), f"linear {layer} grid3"))
        for layer in ("head", "joint")
    )
    white = _with_range(_values(record["baselines"], "linear none whole"))
    seconds = _with_range(demo["seconds_train_evaluate_report"])
    return [
        "On CIFAR-10, ten minutes of the default recipe on two CPU cores give, by a linear probe "
        f"and over {record['n']} seeds, {head} % at the head of the network, where random weights "
        f"give {random_head}, and {joint} with backbone and whitened patches beside it, where "
        f"random weights give {random_joint} and whitened patches alone {white}.",
        f"training, scores and report of the demo take {seconds} s.",
        f"What the slow pipeline reaches in {SPOKEN[slow['budget']]} by the head of the same "
        f"network takes {time.replace(', ', ' here, ')}; forward and backward of the network "
        f"alone are {step['bare_over_whole']:.2f} of a step.",
    ]


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _two_digits(value: float) -> str:
    """Halves away from zero, as a reader rounds: 0.825 is 0.83."""
    rounded = Decimal(str(value)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return str(rounded).replace("-", "−")


def attack_table() -> list[str]:
    """What was tried against files, machine and processes, and how often it was survived."""
    record = load("attack")
    lines = ["| tried | survived |", "| --- | --- |"]
    for kind in record["kinds"].values():
        lines.append(f"| {kind['what'].rstrip('.')} | {kind['survived']} of {kind['tried']} |")
    return lines


def claims_table() -> list[str]:
    """What became of the paper's claims, the same layer and the same crops of both first."""
    lines = [
        "| | | same layer and crops, equal epochs | same layer and crops, equal compute "
        "| each as its authors probe it, equal epochs | the same, equal compute |",
        "| --- " * 6 + "|",
    ]
    for file in sorted((RESULTS / "paper").glob("*.json")):
        for claim in json.loads(file.read_text())["claims"]:
            cells = [
                _claim(claim, equal, same) for same in (True, False)
                for equal in ("epochs", "compute")
            ]  # fmt: skip
            name = file.stem
            lines.append(f"| [{name}]({name}.md) | {claim['words']} | {' | '.join(cells)} |")
    return lines


def _claim(claim: dict[str, Any], equal: str, same: bool) -> str:
    """Whether it held, how often each outcome came out, and the least and the greatest mean."""
    for found in claim["status"]:
        if (found["equal"], found["same_layer_and_crops"]) == (equal, same):
            break
    else:
        return ""
    means = [
        result["mean"] for result in claim["results"] if result["equal"] == equal
        and (None not in (result["layer"], result["crops"]) if same
             else (result["layer"], result["crops"]) == (None, None))
    ]  # fmt: skip
    if not means:
        return "not measured"
    words = {"undecided": "not decided", "tie": "tied"}
    counts = ", ".join(f"{n} {words.get(what, what)}" for what, n in found["counts"].items())
    low, high = (f"{value:+.1f}".replace("-", "−") for value in (min(means), max(means)))
    return f"{found['status']}: {counts}; {low}" + ("" if low == high else f" to {high}")


def _spread(score: dict[str, float]) -> str:
    return _with_range([score["mean"]]) + (
        f" ({score['low']:.1f} to {score['high']:.1f})" if score["high"] > score["low"] else ""
    )


def other_table() -> list[str]:
    """Everything else, one line for each claim."""
    demo, flat, step = load("demo"), load("imagenette-folder"), load("step-laptop")
    large, scoring = load("step-resnet18"), load("evaluation-cifar10")
    share = step["share"]
    return [
        "| measured | value | n |",
        "| --- | --- | --- |",
        *(
            f"| demo: {name} on 500 held-out images of synthetic shapes, percent "
            f"| {beside_untrained(demo, probe)} | {demo['n']} |"
            for probe, name in (("knn", "k-NN"), ("linear", "linear probe"))
        ),
        f"| demo: train, evaluate and report, seconds | "
        f"{_with_range(demo['seconds_train_evaluate_report'])} | {demo['n']} |",
        *(
            f"| {flat['images']:,} photographs in a flat folder, {flat['budget']}: {name} on a "
            f"held-out fifth, percent | {beside_untrained(flat, probe)} | {flat['n']} |"
            for probe, name in (("knn", "k-NN"), ("linear", "linear probe"))
        ),
        f"| `laptop` step, patches/s | {_with_range(step['values'], 0)} | {step['n']} steps |",
        f"| share of the step: views, objective, optimizer | {share['views']:.1%}, "
        f"{share['objective']:.1%}, {share['optimizer']:.1%} | |",
        f"| forward and backward alone / whole step | {step['bare_over_whole']:.2f} | |",
        f"| the same, ResNet-18 at 32 px, 20 x 100 patches | {large['bare_over_whole']:.3f} | |",
        f"| features of 60,000 images and linear probe, seconds | {scoring['value']:.0f} | |",
    ]


def beside_untrained(record: dict[str, Any], probe: str) -> str:
    """The head's score and, by the same probe, those of what needs no training."""
    own = _values(record["results"], f"{probe} head grid3")
    random = _values(_untrained(record), f"{probe} head grid3")
    white = _values(record["baselines"], f"{probe} none whole")
    return (
        f"{_with_range(own)}, random weights {_with_range(random)}, whitened patches "
        f"{_with_range(white)}"
    )


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
    made = (
        cifar_table(), race_table(), rivals_table(), quality_table(), other_table(), attack_table(),
        claims_table(),
    )  # fmt: skip
    print("\n\n".join("\n".join(lines) for lines in (*made, sentences(), readme_sentences())))
