"""A reproduced number: one number of an exhibit, theirs and ours, as it stands on disk."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from empssl.errors import EmpsslError
from empssl.experiments.folder import Folder
from empssl.experiments.paper.base import Claim, Exhibit, Experiment, Number
from empssl.experiments.paper.claims import SameCrops, Seen, Snapshot
from empssl.experiments.paper.plan import EvalRequest, PaperPlan
from empssl.experiments.paper.scores import Scores
from empssl.experiments.run_spec import RunSpec
from empssl.experiments.table import Spread
from empssl.runs.run import Run

NumberState = Literal["done", "begun", "not run", "failed"]


@dataclass(frozen=True)
class CurvePoint:
    """One run's network at one epoch.

    Attributes:
        epoch: passes over the data; ours, not the paper's.
        value: accuracy in percent, or the separation of a map.
        layers: accuracies by the same probe at all layers; none of a map.
        pflop: of training so far, by the plan's count.
        seconds: the same, start-up apart.
        end: whether the run's schedule was at its end.
    """

    epoch: float
    value: float
    layers: Mapping[str, float]
    pflop: float
    seconds: float
    end: bool = True


@dataclass(frozen=True)
class ReproducedNumber:
    """A number, and what became of it.

    Attributes:
        number: what is asked.
        state: `begun` lacks some seeds or has none yet; `not run` was never to be.
        why: of what is not run or failed.
        values: ours by seed; a seed that did not reach its goal is left out.
        unreached: seeds that ended below the goal.
        curves: points by seed, one where the number is of one epoch.
        maps: t-SNE by seed.
        seeds: of the curves; those that failed or are left are not there.
        runs: names of all that the number is of.
    """

    number: Number
    state: NumberState
    why: str = ""
    values: tuple[float, ...] = ()
    unreached: int = 0
    curves: tuple[tuple[CurvePoint, ...], ...] = ()
    maps: tuple[dict[str, Any], ...] = ()
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def spread(self) -> Spread | None:
        return Spread.of(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus theirs."""
        spread, theirs = self.spread, self.number.theirs
        return None if spread is None or theirs is None else spread.mean - theirs

    @property
    def last(self) -> CurvePoint | None:
        """Of the first seed: where the number was read."""
        return self.curves[0][-1] if self.curves else None


def reproduced_numbers(
    plan: PaperPlan, exhibit: Exhibit, scores: Scores, folder: Folder
) -> list[ReproducedNumber]:
    """All numbers of an exhibit, in its order. Nothing is dropped."""
    return [_reproduced(plan, exhibit, number, scores, folder) for number in exhibit.numbers]


def _reproduced(
    plan: PaperPlan, exhibit: Exhibit, number: Number, scores: Scores, folder: Folder
) -> ReproducedNumber:
    if (why := plan.why_not(number)) is not None:
        return ReproducedNumber(number, "not run", why)
    requests, specs = plan.requests(number), plan.wanted(exhibit, number)
    curves, maps, reached, seeds, unreached = [], [], [], [], 0
    goal = plan.scale.goals.get(number.on, 0.0)
    done = 0
    for spec in specs:
        points, new_maps = _points(plan, spec, requests, number, scores)
        done += len(points) == len(requests)
        if len(points) < len(requests):
            continue
        maps += new_maps
        if number.what in ("minutes", "epochs"):
            at = next((point for point in points if point.value >= goal), None)
            unreached += at is None
            points = points if at is None else points[: points.index(at) + 1]
            if at is not None:
                reached.append(at.seconds / 60 if number.what == "minutes" else at.epoch)
        else:
            reached.append(points[-1].value)
        curves.append(tuple(points))
        seeds.append(spec.seed)
    failures = {text for spec in specs if (text := folder.failure(spec.name))}
    state: NumberState = "done" if done == len(specs) else "failed" if failures else "begun"
    why = "; ".join(sorted(failures)) if state == "failed" else ""
    return ReproducedNumber(
        number, state, why, tuple(reached), unreached, tuple(curves), tuple(maps), tuple(seeds),
        tuple(spec.name for spec in specs),
    )  # fmt: skip


def _points(
    plan: PaperPlan, spec: RunSpec, requests: Sequence[EvalRequest], number: Number, scores: Scores
) -> tuple[list[CurvePoint], list[dict[str, Any]]]:
    """What there is of a run, and its maps."""
    points, maps = [], []
    try:
        efforts = _efforts(spec.run) if spec.run else {}
        for request in requests:
            found = scores.find(spec, request)
            if found is None:
                continue
            epoch = float(spec.settings["epochs"]) if request.epoch is None else request.epoch
            steps = spec.steps if request.epoch is None else round(epoch * spec.steps_per_epoch)
            seconds = efforts[max(1, steps or 1) - 1]["seconds"]
            value, layers = _values(found, number)
            pflop = plan.pflop(spec, epoch)
            points.append(CurvePoint(epoch, value, layers, pflop, seconds, request.epoch is None))
            maps += [found] if number.what == "map" else []
    except EmpsslError:
        return [], []
    return points, maps


def snapshots(plan: PaperPlan, exhibit: Exhibit, claim: Claim, scores: Scores) -> Seen:
    """What was measured for a claim: of each run the epochs at which all crops were looked at."""
    found: dict[Experiment, dict[int, list[Snapshot]]] = {}
    for experiment in claim.experiments:
        requests = plan.claim_looks(claim, experiment)
        for spec in plan.runs_of(exhibit, experiment):
            curve = [
                each for epoch, ways in requests.items() if (each := _snapshot(
                    plan, spec, epoch, dict(zip(plan.claim_crops, ways, strict=True)), scores
                ))
            ]  # fmt: skip
            if curve:
                found.setdefault(experiment, {})[spec.seed] = curve
    return found


def _snapshot(
    plan: PaperPlan,
    spec: RunSpec,
    epoch: float,
    requests: Mapping[SameCrops, EvalRequest],
    scores: Scores,
) -> Snapshot | None:
    measured: dict[str, dict[str, float]] = {}
    try:
        for crops, request in requests.items():
            if (found := scores.find(spec, request)) is None:
                return None
            measured[crops] = {
                row["layer"]: row["accuracy"] for row in found["results"]
                if row["probe"] == request.probe
            }  # fmt: skip
    except EmpsslError:
        return None
    end = epoch >= float(spec.settings["epochs"])
    return Snapshot(epoch, plan.pflop(spec, epoch), end, measured)


def _efforts(run: Run) -> dict[int, dict[str, Any]]:
    return {entry["step"]: entry for entry in run.metrics()}


def _values(found: dict[str, Any], number: Number) -> tuple[float, dict[str, float]]:
    """The number, and the accuracy at each layer."""
    if number.what == "map":
        return found["separation"], {}
    rows = {row["layer"]: row for row in found["results"] if row["probe"] == number.probe}
    row = rows[number.probed]
    value = row["details"]["best_on_test"] if number.what == "best" else row["accuracy"]
    return value, {layer: each["accuracy"] for layer, each in rows.items()}
