"""A verdict: whether what the paper claims held here, at equal epochs and at equal compute."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from empssl.comparison.spread import Spread, percent
from empssl.models import Layer
from empssl.reproduction.exhibit import Claim
from empssl.reproduction.experiment import Experiment
from empssl.reproduction.finding import Finding, Point

# Compute that differs by less is called equal: a last batch that is left out, a head's size.
EQUAL = 1.05

Curves = Sequence[Sequence[Point]]


@dataclass(frozen=True)
class Ground:
    """What two methods are given the same of, and which of their layers is looked at.

    Attributes:
        unit: epoch or PFLOP.
        layer: of both, where it was scored; None for the one that each one's authors probe,
            EMP-SSL's head and a rival's backbone.
    """

    unit: Literal["epoch", "PFLOP"]
    layer: Layer | None = None

    def place(self, point: Point) -> float:
        return point.epoch if self.unit == "epoch" else point.pflop

    def value(self, point: Point) -> float:
        return point.value if self.layer is None else point.layers.get(self.layer, point.value)


GROUNDS = {
    "equal epochs": Ground("epoch"),
    "equal compute": Ground("PFLOP"),
    "equal compute, by the backbone of both": Ground("PFLOP", "backbone"),
    "equal compute, by the head of both": Ground("PFLOP", "head"),
}


@dataclass(frozen=True)
class Duel:
    """One experiment against another.

    Attributes:
        ahead, behind: their names; of which the first is said to do better.
        at: where both were looked at, in words.
        early: names of those whose schedule was not at its end there.
        scores: of both, over seeds.
        margin: points between the means.
        apart: the ranges over seeds do not touch; None with fewer than two seeds.
        held: as claimed.
    """

    ahead: str
    behind: str
    at: str
    early: tuple[str, ...]
    scores: tuple[Spread, Spread]
    margin: float
    apart: bool | None
    held: bool


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        duels: of every pair that could be compared, by the ground they stand on.
        lacking: the other pairs.
    """

    claim: Claim
    duels: dict[str, tuple[Duel, ...]]
    lacking: tuple[str, ...]

    def paragraphs(self) -> list[str]:
        """In Markdown: the claim, what became of it on each ground, and every duel."""
        found = [f"**{self.claim.words}.**"]
        for ground, duels in self.duels.items():
            won = sum(duel.held for duel in duels)
            result = "not tested" if not duels else (
                "held" if won == len(duels) else "did not hold" if not won else "held in part"
            )  # fmt: skip
            found.append(f"At {ground}: {result} ({won} of {len(duels)}).")
            found.append("\n".join(f"- {_words(duel)}" for duel in duels))
        if self.lacking:
            found.append(f"Not tested: {'; '.join(self.lacking)}.")
        return found


def judge(claim: Claim, findings: Sequence[Finding]) -> Verdict:
    """Every pair of the claim, on every ground, by the points that there are."""
    curves = _curves(claim, findings)
    duels: dict[str, list[Duel]] = {name: [] for name in GROUNDS}
    lacking: list[str] = []
    for ahead in claim.ahead:
        for behind in claim.behind:
            pair = f"{ahead.name} and {behind.name}"
            if ahead not in curves or behind not in curves:
                lacking.append(pair)
                continue
            for name, ground in GROUNDS.items():
                found = _duel(claim, ahead, behind, curves, ground)
                if found is not None:
                    duels[name].append(found)
                elif ground.layer is None:  # what lacks at one layer lacks at all
                    lacking.append(f"{pair} at {name}")
    return Verdict(claim, {name: tuple(found) for name, found in duels.items()}, tuple(lacking))


def _curves(claim: Claim, findings: Sequence[Finding]) -> dict[Experiment, Curves]:
    """All that was seen of an experiment on the claim's data, by seed, in the order of epochs."""
    found: dict[Experiment, dict[int, dict[float, Point]]] = {}
    for finding in findings:
        number = finding.number
        if number.on == claim.data and number.what in ("accuracy", "curve"):
            runs = found.setdefault(number.experiment, {})
            for seed, points in zip(finding.seeds, finding.curves, strict=True):
                runs.setdefault(seed, {}).update({point.epoch: point for point in points})
    return {
        experiment: [[run[epoch] for epoch in sorted(run)] for _, run in sorted(runs.items())]
        for experiment, runs in found.items() if runs
    }  # fmt: skip


def _duel(
    claim: Claim,
    ahead: Experiment,
    behind: Experiment,
    curves: dict[Experiment, Curves],
    ground: Ground,
) -> Duel | None:
    """Both at the last epoch that both were looked at, or where the cheaper of the two ends.

    None if there is no such place: no common epoch, or no points of the dearer one on both sides
    of that compute, between which its accuracy is taken along a straight line.
    """
    pair = curves[ahead], curves[behind]
    if ground.unit == "epoch":
        common = {p.epoch for p in pair[0][0]} & {p.epoch for p in pair[1][0]}
        if not common:
            return None
        at = max(common)
    else:
        at = min(ground.place(run[-1]) for runs in pair for run in runs)
    one, other = (Spread.of(_at(runs, at, ground)) for runs in pair)
    if one is None or other is None:
        return None
    early = tuple(
        experiment.name for experiment, runs in zip((ahead, behind), pair, strict=True)
        if any(not run[-1].end or ground.place(run[-1]) > at * EQUAL for run in runs)
    )  # fmt: skip
    margin = one.mean - other.mean
    several = one.count > 1 and other.count > 1
    apart = (one.low > other.high or other.low > one.high) if several else None
    held = margin > 0 if claim.alike is None else abs(margin) <= claim.alike
    where = f"{at:.3g} PFLOP" if ground.unit == "PFLOP" else f"epoch {at:g}"
    return Duel(ahead.name, behind.name, where, early, (one, other), margin, apart, held)


def _at(curves: Curves, at: float, ground: Ground) -> list[float]:
    """The accuracy of each seed there; empty where it is not known."""
    found = []
    for run in curves:
        places, values = [ground.place(p) for p in run], [ground.value(p) for p in run]
        if places[-1] <= at * EQUAL and at <= places[-1] * EQUAL:
            found.append(values[-1])
        elif places[0] <= at <= places[-1]:
            found.append(float(np.interp(at, places, values)))
    return found


def _words(duel: Duel) -> str:
    one, other = duel.scores
    sure = {True: "", False: ", and the ranges over seeds overlap", None: ", one seed"}[duel.apart]
    margin = f"{duel.margin:+.1f}".replace("-", "−")
    early = f"; {' and '.join(duel.early)} in mid-schedule" if duel.early else ""
    return (
        f"{duel.ahead} {one.text(percent)}, {duel.behind} {other.text(percent)} at {duel.at}: "
        f"{margin} points, {'as' if duel.held else 'not as'} claimed{sure}{early}"
    )
