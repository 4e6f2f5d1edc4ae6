"""Whether a claim of the paper holds here: two methods compared like with like, seed by seed."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from empssl.experiments.paper.base import EQUALS, Claim, EqualIn, Experiment
from empssl.experiments.table import Spread
from empssl.models import Layer

# Compute that differs by less is called equal: a last batch that is left out, a head's size.
EQUAL = 1.05
SEEDS = 3  # fewer decide nothing
CONFIDENCE = 0.95

SameCrops = Literal["bag", "whole"]
ClaimOutcome = Literal["ahead", "tie", "behind", "alike", "not alike", "undecided"]
Pair = tuple[Experiment, Experiment]


@dataclass(frozen=True)
class Snapshot:
    """One run's network at one epoch, scored by one probe.

    Attributes:
        epoch: passes over the data; ours, not the paper's.
        pflop: of training so far.
        end: whether the run's schedule was at its end.
        scores: percent by crops, `bag` (of patches that are the same for all) or `whole` (image),
            and by layer.
    """

    epoch: float
    pflop: float
    end: bool
    scores: Mapping[str, Mapping[str, float]]


Seen = Mapping[Experiment, Mapping[int, Sequence[Snapshot]]]  # by seed, in the order of epochs


@dataclass(frozen=True)
class Basis:
    """What two methods are given the same of, and how both are looked at.

    Attributes:
        equal: epochs or compute.
        layer: of both; None for the one that each one's authors probe, EMP-SSL's head and a
            rival's backbone.
        crops: of both; None for those of each one's authors, EMP-SSL's bag of patches and a
            rival's whole image.
    """

    equal: EqualIn
    layer: Layer | None
    crops: SameCrops | None

    @property
    def same(self) -> bool:
        """Whether layer and crops are the same for both."""
        return self.layer is not None and self.crops is not None

    @property
    def way(self) -> str:
        """How both are looked at, in words."""
        crops = {"bag": "same bag", "whole": "whole image", None: "each one's own crops"}
        if self.layer is None and self.crops is None:
            return "each one's own layer and crops"
        return f"{self.layer or 'each own layer'}, {crops[self.crops]}"

    def place(self, snapshot: Snapshot) -> float:
        return snapshot.epoch if self.equal == "epochs" else snapshot.pflop

    def value(self, experiment: Experiment, snapshot: Snapshot) -> float | None:
        """The accuracy on this basis; None where it was not measured."""
        crops = self.crops or ("bag" if experiment.ours else "whole")
        return snapshot.scores.get(crops, {}).get(self.layer or experiment.own_layer)


LOOKED_AT: tuple[Layer, ...] = ("head", "backbone")
CROPS: tuple[SameCrops, ...] = ("bag", "whole")
# Of both the same first, and last what their authors do.
BASES = tuple(
    Basis(equal, layer, crops)
    for layers, every in (
        (LOOKED_AT, CROPS), (LOOKED_AT, (None,)), ((None,), (None,)),
    )
    for equal in EQUALS for crops in every for layer in layers
)  # fmt: skip


@dataclass(frozen=True)
class Pairwise:
    """One experiment against another on one basis, seed by seed.

    Attributes:
        pair: of which the first is said to do better.
        basis: what they are given the same of.
        at: epoch, or PFLOP, where both were looked at.
        early: of the two, those whose schedule was not at its end there.
        seeds: that both have.
        scores: of both, over these seeds.
        differences: the first less the second, by seed.
        interval: of the mean difference, two-sided, 95 % by Student's t; None below three seeds.
        outcome: what follows.
    """

    pair: Pair
    basis: Basis
    at: float
    early: tuple[Experiment, ...]
    seeds: tuple[int, ...]
    scores: tuple[Spread, Spread]
    differences: tuple[float, ...]
    interval: tuple[float, float] | None
    outcome: ClaimOutcome

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def won(self) -> int:
        """Seeds in which the first is ahead."""
        return sum(difference > 0 for difference in self.differences)


@dataclass(frozen=True)
class ClaimResult:
    """What became of a claim.

    Attributes:
        seen: what it was tested by.
        results: every pair on every basis on which both were measured.
    """

    claim: Claim
    seen: Seen
    results: tuple[Pairwise, ...]

    def on(self, *bases: Basis) -> list[Pairwise]:
        return [result for result in self.results if result.basis in bases]

    def find(self, pair: Pair, basis: Basis) -> Pairwise | None:
        return next((each for each in self.on(basis) if each.pair == pair), None)

    def counts(self, *bases: Basis) -> dict[str, int]:
        """How often each outcome came out over these bases, and how many were not measured."""
        found = Counter[str](result.outcome for result in self.on(*bases))
        missing = len(self.claim.pairs) * len(bases) - found.total()
        return dict(found) | ({"not measured": missing} if missing else {})

    def status(self, *bases: Basis) -> str:
        """In words: held only if every pair on each of these bases turned out as claimed."""
        counts = self.counts(*bases)
        wanted = "ahead" if self.claim.alike is None else "alike"
        total = sum(counts.values())
        if counts.get("not measured") == total:
            return "not measured"
        if counts.get(wanted) == total:
            return "held"
        if counts.keys() & {"not measured", "undecided"}:
            return "not decided"
        return "held in part" if counts.get(wanted) else "did not hold"


def check_claim(claim: Claim, seen: Seen) -> ClaimResult:
    """Every pair of the claim on every basis, by what was measured."""
    results = []
    for pair in claim.pairs:
        for basis in BASES:
            if basis.equal in claim.equal and (found := _compare(claim, pair, basis, seen)):
                results.append(found)
    return ClaimResult(claim, seen, tuple(results))


def _compare(claim: Claim, pair: Pair, basis: Basis, seen: Seen) -> Pairwise | None:
    """Both at the last epoch that both were looked at, or where the cheaper of the two ends.

    None if there is no such place in any seed: no common epoch, or no points of the dearer one on
    both sides of that compute, between which its accuracy is taken along a straight line.
    """
    every = [_curves(experiment, basis, seen) for experiment in pair]
    shared = sorted(every[0].keys() & every[1].keys())
    if not shared:
        return None
    if basis.equal == "epochs":
        common = {
            at for seed in shared
            for at in {p.epoch for p, _ in every[0][seed]} & {p.epoch for p, _ in every[1][seed]}
        }  # fmt: skip
        if not common:
            return None
        at = max(common)
    else:
        ends = [
            point.pflop for curves in every for seed in shared
            if (point := curves[seed][-1][0]).end
        ]  # fmt: skip
        if len(ends) < 2 * len(shared):
            return None
        at = min(ends)
    read = {seed: [_read(curves[seed], at, basis) for curves in every] for seed in shared}
    both = {seed: (a, b) for seed, (a, b) in read.items() if a is not None and b is not None}
    if not both:
        return None
    one, other = (Spread.of([values[side] for values in both.values()]) for side in (0, 1))
    assert one is not None
    assert other is not None
    differences = tuple(a - b for a, b in both.values())
    interval = t_interval(differences)
    early = tuple(
        experiment for experiment, curves in zip(pair, every, strict=True)
        if any(_early(curves[seed], at, basis) for seed in both)
    )  # fmt: skip
    return Pairwise(
        pair, basis, at, early, tuple(both), (one, other), differences, interval,
        _outcome(interval, claim.alike),
    )  # fmt: skip


def _curves(
    experiment: Experiment, basis: Basis, seen: Seen
) -> dict[int, list[tuple[Snapshot, float]]]:
    """By seed, the snapshots that were measured on this basis, with their accuracy."""
    found = {}
    for seed, snapshots in seen.get(experiment, {}).items():
        values = ((snapshot, basis.value(experiment, snapshot)) for snapshot in snapshots)
        if curve := [(snapshot, value) for snapshot, value in values if value is not None]:
            found[seed] = curve
    return found


def _read(curve: Sequence[tuple[Snapshot, float]], at: float, basis: Basis) -> float | None:
    """The accuracy of one run there; None where it is not known."""
    places = [basis.place(snapshot) for snapshot, _ in curve]
    values = [value for _, value in curve]
    if basis.equal == "epochs":
        return values[places.index(at)] if at in places else None
    if places[-1] <= at * EQUAL and at <= places[-1] * EQUAL:
        return values[-1]
    if places[0] <= at <= places[-1]:
        return float(np.interp(at, places, values))
    return None


def _early(curve: Sequence[tuple[Snapshot, float]], at: float, basis: Basis) -> bool:
    """Whether the run's schedule was not at its end there."""
    if basis.equal == "epochs":
        return any(snapshot.epoch == at and not snapshot.end for snapshot, _ in curve)
    return basis.place(curve[-1][0]) > at * EQUAL


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of paired differences, mean -+ t s / sqrt(n), by Student's t.

    None for fewer than three: of two seeds it is 25 times as wide as their standard error.

    >>> [round(end, 3) for end in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    # Imported here: it takes a tenth of a second, and a run does not need it.
    from scipy.special import stdtrit

    count = len(differences)
    if count < SEEDS:
        return None
    mean = statistics.fmean(differences)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * (
        statistics.stdev(differences) / math.sqrt(count)
    )
    return mean - half, mean + half


def _outcome(interval: tuple[float, float] | None, alike: float | None) -> ClaimOutcome:
    """What an interval says of a claim; a difference is one where the interval leaves out 0."""
    if interval is None:
        return "undecided"
    low, high = interval
    if alike is not None:
        if -alike <= low and high <= alike:
            return "alike"
        return "not alike" if low > alike or high < -alike else "undecided"
    return "ahead" if low > 0 else "behind" if high < 0 else "tie"
