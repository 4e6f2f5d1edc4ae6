"""The document of an exhibit: Markdown for people, JSON for programs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from empssl.experiments.paper.base import Exhibit, Experiment
from empssl.experiments.paper.claim_table import LEGEND, grid, paragraphs, signed
from empssl.experiments.paper.claims import BASES, ClaimResult, Pairwise
from empssl.experiments.paper.discrepancies import BASE, DISCREPANCIES
from empssl.experiments.paper.plan import EvalRequest, PaperPlan
from empssl.experiments.paper.published import GOALS, PROTOCOL
from empssl.experiments.paper.results import ReproducedNumber
from empssl.experiments.paper.scores import PARAMETERS, Baseline
from empssl.experiments.table import percent
from empssl.models import Layer
from empssl.reports.charts import duration, numeral

EMPTY = "–"
WITHIN = (
    "An accuracy at an epoch before the last is that of one run's network as it was then, its "
    "learning rate still high. The paper does the same: its Table 2 has 82.6 % after one of 30 "
    "epochs, its Table 1 85.1 % after one epoch with a schedule of its own. What runs do that were "
    "planned to end there is in the exhibit `schedules`."
)
BELOW = (
    "Each row is one way to score: the same probe, learned from as many images, for random weights "
    "of the network at the same layer and from the same crops, for whitened patches of the whole "
    "image, which have neither, and for the best of what was trained, at its end, that was scored "
    "in this way. Random weights are those of seed 0."
)


@dataclass(frozen=True)
class DocumentContents:
    """All that is known of an exhibit.

    Attributes:
        found: its numbers.
        claims: what became of each of its claims.
        below: what needs no training.
    """

    found: Sequence[ReproducedNumber]
    claims: Sequence[ClaimResult]
    below: Sequence[Baseline]


def markdown(
    name: str, plan: PaperPlan, contents: DocumentContents, *, pictures: Sequence[str]
) -> str:
    """An exhibit, theirs beside ours.

    Args:
        name: of the exhibit.
        plan: that it is part of.
        contents: what is known of it.
        pictures: files beside the document.
    """
    exhibit, scale, found = plan.exhibits[name], plan.scale, contents.found
    parts = [f"# {_heading(name)}. {exhibit.title}", f"The paper: {exhibit.says} {exhibit.unread}"]
    parts += [f"![{exhibit.title}]({file})" for file in pictures if file.endswith(".png")]
    if contents.claims:
        parts.append("## Did it hold here?")
        parts += [text for each in contents.claims for text in paragraphs(each, scale.label)]
        parts += [_against_untrained(contents, plan), LEGEND]
    parts += ["## Theirs and ours", fidelity(found) if name == "fidelity" else table(plan, found)]
    if any(reproduced.number.what == "curve" and reproduced.curves for reproduced in found):
        parts += [
            "Accuracy of each epoch that was looked at, mean over seeds:",
            curves(found, plan),
        ]
    if contents.below:
        parts += ["## What needs no training", baselines(contents, plan), BELOW]
    for state, title in (("not run", "Not run"), ("failed", "Failed"), ("begun", "Not finished")):
        lines = _listed(found, state, plan)
        parts += [f"## {title}", "\n".join(lines)] if lines else []
    parts += ["## How it was measured", f"Theirs. {PROTOCOL}.", f"Ours, scale `{scale.name}`."]
    parts.append("\n".join(f"- {text}" for text in scale.differs))
    parts.append("\n".join(f"- {theirs} is {ours} here." for theirs, ours in _own(plan).items()))
    parts += [exhibit.note] if exhibit.note else []
    parts += [WITHIN] if any(plan.epoch(n) or n.what == "curve" for n in exhibit.numbers) else []
    parts += [PARAMETERS + "."] if exhibit.plot == "maps" else []
    parts.append(f"`empssl reproduce {name} --scale {scale.name}` goes on, or does it again.")
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def table(plan: PaperPlan, found: Sequence[ReproducedNumber]) -> str:
    """A line for each number."""
    head = ["method", "trained on", "scored on", "their epochs", "theirs", "ours", "seeds",
            "difference", "backbone", "head", "our probe", "our epochs", "our n x batch", "PFLOP",
            "time", "note"]  # fmt: skip
    lines = [head]
    for reproduced in found:
        number, last = reproduced.number, reproduced.last
        settings = plan.scale.settings(number.experiment)
        lines.append([
            plan.name(number), number.experiment.data, number.on,
            str(number.epoch or number.experiment.epochs)
            + ("" if number.epoch is None else f" of {number.experiment.epochs}"),
            _written(number.theirs, number.what), ours(reproduced),
            str(len(reproduced.values) or EMPTY),
            EMPTY if _other_goal(reproduced, plan) else _points(reproduced.difference),
            _layer(reproduced, "backbone"), _layer(reproduced, "head"),
            _asked(plan.requests(number)[-1], number.probed) if last else EMPTY,
            _epochs(reproduced, plan), f"{settings['patches']} x {settings['batch']}",
            numeral(last.pflop) if last else EMPTY, duration(last.seconds) if last else EMPTY,
            _note(reproduced, plan),
        ])  # fmt: skip
    return grid(lines)


def _layer(reproduced: ReproducedNumber, layer: Layer) -> str:
    """The mean over seeds at a layer, by the same probe."""
    found = [run[-1].layers[layer] for run in reproduced.curves if layer in run[-1].layers]
    return percent(sum(found) / len(found)) if found else EMPTY


def _asked(request: EvalRequest, layer: str) -> str:
    """How a number is looked at, in words."""
    if request.probe is None:
        return f"none: a map of the projections, {request.crops}"
    size = "" if request.train_size is None else f", from {request.train_size:,} images"
    return f"{request.probe}, {layer}, {request.crops}{size}"


def baselines(contents: DocumentContents, plan: PaperPlan) -> str:
    """A line for each way in which some numbers are looked at, and the best of what was trained."""
    lines = [["scored on", "probe", "random weights", "whitened patches", "best trained here"]]
    for each in contents.below:
        probe = _asked(
            EvalRequest(each.on, None, each.crops, each.probe, each.train_size), each.layer
        )
        scores = [EMPTY if v is None else percent(v) for v in (each.random, each.whitened)]
        best = max(_trained(each, contents, plan), default=None)
        trained = EMPTY if best is None else f"{percent(best[0])}, {best[1]}"
        lines.append([each.on, probe, *scores, trained])
    return grid(lines)


def _against_untrained(contents: DocumentContents, plan: PaperPlan) -> str:
    """How the best that was trained stands to whitened patches, under the same probe."""
    found: dict[str, tuple[float, str, float]] = {}
    for each in contents.below:
        best = max(_trained(each, contents, plan), default=None)
        if best is not None and each.whitened is not None:
            found[each.on] = max(found.get(each.on, (*best, each.whitened)), (*best, each.whitened))
    return " ".join(
        f"Whitened patches, which need no training, have {percent(whitened)} on {on} by the same "
        f"probe; the best of all that was trained here, over methods, layers and crops, has "
        f"{percent(best)} ({what})."
        for on, (best, what, whitened) in found.items()
    )


def _trained(
    each: Baseline, contents: DocumentContents, plan: PaperPlan
) -> Iterator[tuple[float, str]]:
    """Means over seeds of the last that was looked at in the same way, and of what."""
    for reproduced in contents.found:
        number, request = reproduced.number, plan.requests(reproduced.number)[-1]
        way = (number.on, number.probe, request.crops, request.train_size)
        if number.what in ("accuracy", "curve") and reproduced.curves and way == (
            each.on, each.probe, each.crops, each.train_size
        ):  # fmt: skip
            values = [run[-1].layers[each.layer] for run in reproduced.curves
                      if each.layer in run[-1].layers]  # fmt: skip
            if values:
                yield sum(values) / len(values), plan.name(number)
    roles: dict[str, str] = {crops: role for role, crops in plan.claim_crops.items()}
    for result in contents.claims:
        of = (result.claim.data, plan.train_size(result.claim))
        linear = each.probe == "linear" and each.crops in roles
        if linear and of == (each.on, each.train_size):
            for experiment, runs in result.seen.items():
                ends = [curve[-1].scores.get(roles[each.crops], {}) for curve in runs.values()]
                values = [scores[each.layer] for scores in ends if each.layer in scores]
                if values:
                    yield sum(values) / len(values), plan.scale.label(experiment)


def ours(reproduced: ReproducedNumber) -> str:
    """The mean and the range over seeds; for what has no number, why."""
    if reproduced.spread is None:
        unreached = "not reached" if reproduced.unreached else EMPTY
        return {"done": unreached, "begun": "not finished"}.get(reproduced.state, reproduced.state)
    write = {"accuracy": percent, "curve": percent, "best": percent}.get(reproduced.number.what)
    return reproduced.spread.text(write or numeral)


def curves(found: Sequence[ReproducedNumber], plan: PaperPlan) -> str:
    """Accuracies by epoch, mean over seeds."""
    shown = [
        reproduced
        for reproduced in found
        if reproduced.number.what == "curve" and reproduced.curves
    ]
    epochs = sorted({point.epoch for f in shown for run in f.curves for point in run})
    lines = [["method", *(f"epoch {epoch:g}" for epoch in epochs)]]
    for reproduced in shown:
        line = [plan.name(reproduced.number)]
        for epoch in epochs:
            values = [p.value for run in reproduced.curves for p in run if p.epoch == epoch]
            line.append(percent(sum(values) / len(values)) if values else EMPTY)
        lines.append(line)
    return grid(lines)


def fidelity(found: Sequence[ReproducedNumber]) -> str:
    """What each discrepancy is worth: points that the change adds to the base, seed by seed."""
    by_number = {reproduced.number: reproduced for reproduced in found}
    base = next(f for f in found if f.number.experiment == BASE and f.number.label[:4] == "none")
    lines = [["", "paper's text", "authors' code", "here", "changed to", "worth, points"]]
    for discrepancy in DISCREPANCIES:
        said = [discrepancy.what, discrepancy.paper, discrepancy.code, discrepancy.here]
        for number in discrepancy.numbers:
            lines.append([*said, number.label, _worth(by_number.get(number), base)])
        if not discrepancy.numbers:
            lines.append([*said, EMPTY, f"not measured: {discrepancy.unmeasured}"])
    start = f"The base, head layer: {ours(base)} %, {len(base.values)} seeds." if base.values else (
        "The base has not been run."
    )  # fmt: skip
    return f"{start}\n\n{grid(lines)}"


def _worth(reproduced: ReproducedNumber | None, base: ReproducedNumber) -> str:
    """The mean of differences paired by seed, and their range."""
    if reproduced is None:
        return "not yet measured"
    bases = dict(zip(base.seeds, base.values, strict=True))
    scores = zip(reproduced.seeds, reproduced.values, strict=True)
    pairs = [score - bases[seed] for seed, score in scores if seed in bases]
    if not pairs:
        return "not yet measured"
    text = signed(sum(pairs) / len(pairs))
    several = len(pairs) > 1
    return text + (f" ({signed(min(pairs))} to {signed(max(pairs))})" if several else ", one seed")


def record(name: str, plan: PaperPlan, contents: DocumentContents) -> str:
    """The same as JSON, with every value of every seed."""
    exhibit = plan.exhibits[name]
    content = {
        "exhibit": name, "title": exhibit.title, "says": exhibit.says, "unread": exhibit.unread,
        "scale": plan.scale.name, "differs": plan.scale.differs, "data": _own(plan),
        "their_protocol": PROTOCOL,
        "images": {on: plan.sizes[plan.data.get(on, on)] for on in _data_sets(plan, exhibit)},
        "numbers": [_entry(reproduced, plan) for reproduced in contents.found],
        "untrained": [
            {"scored_on": each.on, "probe": each.probe, "layer": each.layer, "crops": each.crops,
             "train_size": each.train_size, "random_weights": each.random,
             "whitened_patches": each.whitened} for each in contents.below
        ],
        "claims": [_claim(each, plan) for each in contents.claims],
    }  # fmt: skip
    return json.dumps(content, indent=1) + "\n"


def _entry(reproduced: ReproducedNumber, plan: PaperPlan) -> dict[str, Any]:
    number, spread = reproduced.number, reproduced.spread
    requests = plan.requests(number)
    return {
        "method": plan.name(number),
        "experiment": _plain(number.experiment),
        "trained_on": number.experiment.data,
        "scored_on": number.on,
        "what": number.what,
        "theirs": {
            "value": number.theirs, "epoch": number.epoch or number.experiment.epochs,
            "source": number.source or "Tong et al., 2023",
        },
        "ours": {
            "state": reproduced.state, "why": reproduced.why, "values": reproduced.values,
            "seeds": reproduced.seeds,
            "mean": spread.mean if spread else None, "deviation": reproduced.deviation,
            "unreached": reproduced.unreached, "probe": number.probe, "layer": number.probed,
            "crops": requests[-1].crops, "train_size": requests[-1].train_size,
            "runs": reproduced.runs,
            "curves": [[asdict(point) for point in run] for run in reproduced.curves],
        },
        "difference": reproduced.difference,
    }  # fmt: skip


def _own(plan: PaperPlan) -> dict[str, str]:
    """The data that were named, without where they are: a document is for others, too."""
    return {theirs: Path(ours).name for theirs, ours in plan.data.items()}


def _plain(experiment: Experiment) -> dict[str, Any]:
    return {key: value for key, value in asdict(experiment).items() if value}


def _data_sets(plan: PaperPlan, exhibit: Exhibit) -> list[str]:
    """Those that are there, trained on or scored on, by the paper's names."""
    names = dict.fromkeys(
        name for number in exhibit.numbers for name in (number.experiment.data, number.on)
    )
    return [name for name in names if plan.data.get(name, name) in plan.sizes]


def _claim(result: ClaimResult, plan: PaperPlan) -> dict[str, Any]:
    """A claim and all pairs of it, with what was measured and what follows."""

    def pairwise(each: Pairwise) -> dict[str, Any]:
        return {
            "pair": [plan.scale.label(experiment) for experiment in each.pair],
            "experiments": [_plain(experiment) for experiment in each.pair],
            "equal": each.basis.equal, "layer": each.basis.layer, "crops": each.basis.crops,
            "at": each.at, "mid_schedule": [plan.scale.label(e) for e in each.early],
            "seeds": each.seeds, "scores": [asdict(spread) for spread in each.scores],
            "differences": each.differences, "mean": each.mean, "interval": each.interval,
            "won": each.won, "outcome": each.outcome,
        }  # fmt: skip

    claim = result.claim
    return {
        "words": claim.words, "data": claim.data, "alike": claim.alike, "equal": claim.equal,
        "pairs": len(claim.pairs),
        "status": [
            {"equal": equal, "same_layer_and_crops": same, "status": result.status(*bases),
             "counts": result.counts(*bases)}
            for same in (True, False)[: 1 + (not claim.of_one_method)] for equal in claim.equal
            if (bases := [
                b for b in BASES
                if b.equal == equal and (b.same if same else not (b.layer or b.crops))
            ])
        ],
        "measured": [
            {"experiment": _plain(experiment), "seed": seed,
             "snapshots": [asdict(snapshot) for snapshot in curve]}
            for experiment, runs in result.seen.items() for seed, curve in runs.items()
        ],
        "results": [pairwise(each) for each in result.results],
    }  # fmt: skip


def _listed(found: Sequence[ReproducedNumber], state: str, plan: PaperPlan) -> list[str]:
    """The numbers in a state by what keeps them there, each reason once."""
    reasons: dict[str, list[str]] = {}
    for reproduced in found:
        if reproduced.state == state:
            number = reproduced.number
            transfer = "" if number.on == number.experiment.data else f" to {number.on}"
            name = f"{plan.name(number)} on {number.experiment.data}{transfer}"
            names = reasons.setdefault(reproduced.why or "some of its runs are left", [])
            names += [] if name in names else [name]
    return [f"- {'; '.join(names)}: {why}" for why, names in reasons.items()]


def _other_goal(reproduced: ReproducedNumber, plan: PaperPlan) -> bool:
    """Whether an effort is to another accuracy than theirs, so that a difference says nothing."""
    number = reproduced.number
    return number.what in ("minutes", "epochs") and plan.scale.goals[number.on] != GOALS[number.on]


def _note(reproduced: ReproducedNumber, plan: PaperPlan) -> str:
    notes = [reproduced.number.source] if reproduced.number.source else []
    if reproduced.number.what in ("minutes", "epochs"):
        notes.append(
            f"{reproduced.number.what}; theirs to {GOALS[reproduced.number.on]:g} %, ours to "
            f"{plan.scale.goals[reproduced.number.on]:g} %, at the first epoch of those looked at"
        )
    notes += ["separation of classes"] if reproduced.number.what == "map" else []
    if reproduced.unreached:
        notes.append(f"{reproduced.unreached} below the goal at the end")
    return "; ".join(notes)


def _epochs(reproduced: ReproducedNumber, plan: PaperPlan) -> str:
    """Ours: where it was looked at, and how long the schedule is."""
    whole = plan.scale.length(reproduced.number.experiment)
    at = reproduced.last.epoch if reproduced.last else plan.epoch(reproduced.number) or whole
    return f"{at:g}" if at == whole else f"{at:g} of {whole:g}"


def _written(value: float | None, what: str) -> str:
    if value is None:
        return EMPTY
    return numeral(value) if what in ("minutes", "epochs") else percent(value)


def _points(value: float | None) -> str:
    return EMPTY if value is None else signed(value)


def _heading(name: str) -> str:
    """`table2` as the paper says it."""
    kind, digit = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    return f"{kind.capitalize()} {digit}".strip()
