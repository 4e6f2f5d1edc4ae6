"""A verdict: whether what the paper claims held here, at equal epochs and at equal compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from empssl.comparison.spread import Spread, percent
from empssl.reproduction.exhibit import Claim
from empssl.reproduction.experiment import Experiment
from empssl.reproduction.finding import Finding, Point

# Compute that differs by less is called equal: a last batch that is left out, a head's size.
EQUAL = 1.05

Curves = Sequence[Sequence[Point]]
Ground = Callable[[Point], float]


@dataclass(frozen=True)
class Duel:
    """One experiment against another.

    Attributes:
        ahead, behind: their names; of which the first is said to do better.
        at: where both were looked at, in words.
        scores: of both, over seeds.
        margin: points between the means.
        apart: the ranges over seeds do not touch; None with fewer than two seeds.
        held: as claimed.
    """

    ahead: str
    behind: str
    at: str
    scores: tuple[Spread, Spread]
    margin: float
    apart: bool | None
    held: bool


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        epochs: at equal epochs.
        compute: at equal compute.
        lacking: the pairs of which one was not run, or never at equal compute.
    """

    claim: Claim
    epochs: tuple[Duel, ...]
    compute: tuple[Duel, ...]
    lacking: tuple[str, ...]

    def sentences(self) -> list[str]:
        """One for each ground, and one for each duel."""
        found = [f"**{self.claim.words}.**"]
        for ground, duels in {"equal epochs": self.epochs, "equal compute": self.compute}.items():
            won = sum(duel.held for duel in duels)
            result = "not tested" if not duels else (
                "held" if won == len(duels) else "did not hold" if not won else "held in part"
            )  # fmt: skip
            found.append(f"At {ground}: {result} ({won} of {len(duels)}).")
            found += [f"- {_words(duel)}" for duel in duels]
        if self.lacking:
            found.append(f"Not tested: {'; '.join(self.lacking)}.")
        return found


def judge(claim: Claim, findings: Sequence[Finding]) -> Verdict:
    """Every pair of the claim, on both grounds, by the points that there are."""
    curves = _curves(claim, findings)
    epochs: list[Duel] = []
    compute: list[Duel] = []
    lacking: list[str] = []
    for ahead in claim.ahead:
        for behind in claim.behind:
            pair = f"{ahead.name} and {behind.name}"
            if ahead not in curves or behind not in curves:
                lacking.append(pair)
                continue
            grounds: dict[str, tuple[Ground, list[Duel]]] = {
                "epochs": (lambda p: p.epoch, epochs), "compute": (lambda p: p.pflop, compute),
            }  # fmt: skip
            for name, (ground, duels) in grounds.items():
                found = _duel(claim, ahead, behind, curves, ground, name)
                if found is None:
                    lacking.append(f"{pair} at equal {name}")
                else:
                    duels.append(found)
    return Verdict(claim, tuple(epochs), tuple(compute), tuple(lacking))


def _curves(claim: Claim, findings: Sequence[Finding]) -> dict[Experiment, Curves]:
    """All that was seen of an experiment on the claim's data, by seed, in the order of epochs."""
    found: dict[Experiment, list[dict[float, Point]]] = {}
    for finding in findings:
        number = finding.number
        if number.on == claim.data and number.what in ("accuracy", "curve"):
            runs = found.setdefault(number.experiment, [])
            for at, points in enumerate(finding.curves):
                if at == len(runs):
                    runs.append({})
                runs[at] |= {point.epoch: point for point in points}
    return {
        experiment: [[run[epoch] for epoch in sorted(run)] for run in runs]
        for experiment, runs in found.items() if runs
    }  # fmt: skip


def _duel(
    claim: Claim, ahead: Experiment, behind: Experiment, curves: dict[Experiment, Curves],
    ground: Ground, name: str,
) -> Duel | None:  # fmt: skip
    """Where the cheaper of the two ends, and the other as it was there.

    None if the other was not looked at there: neither at that epoch, nor on both sides of that
    compute, between which its accuracy is taken along a straight line.
    """
    ends = [min(ground(run[-1]) for run in curves[experiment]) for experiment in (ahead, behind)]
    at = min(ends)
    if name == "epochs":  # the longest that both were looked at
        common = {p.epoch for p in curves[ahead][0]} & {p.epoch for p in curves[behind][0]}
        if not common:
            return None
        at = max(common)
    values = [_at(curves[experiment], at, ground) for experiment in (ahead, behind)]
    one, other = (Spread.of(found) for found in values)
    if one is None or other is None:
        return None
    margin = one.mean - other.mean
    several = one.count > 1 and other.count > 1
    apart = (one.low > other.high or other.low > one.high) if several else None
    held = margin > 0 if claim.alike is None else abs(margin) <= claim.alike
    place = f"epoch {at:g}" if name == "epochs" else f"{at:.3g} PFLOP"
    return Duel(ahead.name, behind.name, place, (one, other), margin, apart, held)


def _at(curves: Curves, at: float, ground: Ground) -> list[float]:
    """The accuracy of each seed there; empty where it is not known."""
    found = []
    for run in curves:
        places, values = [ground(p) for p in run], [p.value for p in run]
        if places[-1] <= at * EQUAL and at <= places[-1] * EQUAL:
            found.append(values[-1])
        elif places[0] <= at <= places[-1]:
            found.append(float(np.interp(at, places, values)))
    return found


def _words(duel: Duel) -> str:
    one, other = duel.scores
    sure = {True: "", False: ", and the ranges over seeds overlap", None: ", one seed"}[duel.apart]
    margin = f"{duel.margin:+.1f}".replace("-", "−")
    return (
        f"{duel.ahead} {one.text(percent)}, {duel.behind} {other.text(percent)} at {duel.at}: "
        f"{margin} points, {'as' if duel.held else 'not as'} claimed{sure}"
    )
