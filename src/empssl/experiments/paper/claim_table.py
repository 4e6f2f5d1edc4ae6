"""What became of the paper's claims, as sentences and tables in Markdown."""

from collections.abc import Callable, Iterator, Sequence

from empssl.experiments.paper.base import EqualIn, Experiment
from empssl.experiments.paper.claims import (
    BASES,
    CONFIDENCE,
    SEEDS,
    Basis,
    ClaimResult,
    Pair,
    Pairwise,
)
from empssl.reports.charts import numeral

NOT_MEASURED = "not measured"
LEGEND = (
    "A cell has the mean over seeds of the paired difference in points, first less second; its "
    f"{CONFIDENCE:.0%} interval by Student's t; in how many seeds the first is ahead; and what "
    "follows: ahead or behind where the interval leaves out 0, otherwise a tie. Fewer than "
    f"{SEEDS} seeds decide nothing. Each interval stands alone: none is widened for their number. "
    "Same bag: patches of the same pixels for both. Equal compute is where the cheaper of the two "
    "ends; the other is read there between two epochs along a straight line, its schedule not at "
    "its end, where the table says mid-schedule."
)
ALIKE = (
    "They count as alike where the interval lies within {points:g} points of 0, as not alike where "
    "all of it lies outside; otherwise it is not decided."
)
Name = Callable[[Experiment], str]


def signed(value: float) -> str:
    """Points with their sign, and one digit.

    >>> [signed(x) for x in (1.25, -0.31, -0.01)]
    ['+1.2', '−0.3', '−0.0']
    """
    return f"{value:+.1f}".replace("-", "−")


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    rule = ["---"] * len(lines[0])
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (lines[0], rule, *lines[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def paragraphs(result: ClaimResult, name: Name) -> Iterator[str]:
    """The claim, what became of it, and a row for each pair at equal epochs and equal compute.

    Args:
        result: of the claim.
        name: what an experiment is called.
    """
    claim = result.claim
    yield f"**{claim.words}.**"
    yield "\n".join(f"- {sentence}" for sentence in _sentences(result))
    ways = _ways(result)
    lines = [["pair", "at", *(_way(way) for way in ways)]]
    for equal in claim.equal:
        for pair in claim.pairs:
            found = [result.find(pair, Basis(equal, way.layer, way.crops)) for way in ways]
            if any(found):
                lines.append([_pair(pair, name), _where(equal, found), *map(cell, found)])
    yield grid(lines) if len(lines) > 1 else ""
    yield " ".join(_missing(result, equal, name) for equal in claim.equal)
    if claim.alike is not None:
        yield ALIKE.format(points=claim.alike)


def status(result: ClaimResult, *bases: Basis) -> str:
    """Whether it held on these bases, and how many pairs turned out in which way."""
    counts = result.counts(*bases)
    total = sum(counts.values())
    if counts.get(NOT_MEASURED) == total:
        return NOT_MEASURED
    words = {"undecided": "not decided", "tie": "tied"}
    listed = ", ".join(f"{count} {words.get(what, what)}" for what, count in counts.items())
    return f"{result.status(*bases)} (of {total}: {listed})"


def cell(found: Pairwise | None) -> str:
    """One pair on one basis."""
    if found is None:
        return NOT_MEASURED
    count = len(found.seeds)
    if found.interval is None:
        direction = "ahead" if found.mean > 0 else "behind" if found.mean < 0 else "level"
        seeds = "one seed" if count == 1 else f"{count} seeds"
        return f"{signed(found.mean)}: {direction} in {seeds}, not decided"
    low, high = found.interval
    outcome = "not decided" if found.outcome == "undecided" else found.outcome
    return (
        f"{signed(found.mean)} [{signed(low)}, {signed(high)}], {found.won} of {count} seeds: "
        f"{outcome}"
    )


def _sentences(result: ClaimResult) -> Iterator[str]:
    bases = {equal: [b for b in BASES if b.equal == equal] for equal in result.claim.equal}
    for equal, every in bases.items():
        same = [basis for basis in every if basis.same]
        yield f"At equal {equal}, same layer and same crops of both: {status(result, *same)}."
    if result.claim.of_one_method:
        return
    for equal in bases:
        own = Basis(equal, None, None)
        yield (
            f"At equal {equal}, each as its authors probe it (EMP-SSL's head over a bag, a rival's "
            f"backbone over the whole image): {status(result, own)}."
        )


def _missing(result: ClaimResult, equal: EqualIn, name: Name) -> str:
    """Pairs that were not measured in any way."""
    bases = [basis for basis in BASES if basis.equal == equal]
    measured = {each.pair for each in result.on(*bases)}
    pairs = [pair for pair in result.claim.pairs if pair not in measured]
    if not pairs:
        return ""
    listed = "; ".join(_pair(pair, name) for pair in pairs) if measured else "any pair"
    return f"Not measured at equal {equal}: {listed}."


def _ways(result: ClaimResult) -> list[Basis]:
    """The columns: what was measured at the same layer and crops, then what else says more."""
    measured = {(each.basis.layer, each.basis.crops) for each in result.results}
    every = [
        basis for basis in BASES
        if basis.equal == result.claim.equal[0] and (basis.layer, basis.crops) in measured
    ]  # fmt: skip
    same = [basis for basis in every if basis.same]
    if result.claim.of_one_method:
        return same
    mixed = [basis for basis in every if basis.layer and not basis.crops]
    own = [basis for basis in every if not basis.layer and not basis.crops]
    return same + ([] if same else mixed) + own


def _way(basis: Basis) -> str:
    return basis.way + ("" if basis.layer or basis.crops else " (as their authors do)")


def _pair(pair: Pair, name: Name) -> str:
    return f"{name(pair[0])} − {name(pair[1])}"


def _where(equal: EqualIn, found: Sequence[Pairwise | None]) -> str:
    """Epoch or compute, and who was in mid-schedule; of the bases there are, usually one place."""
    texts = []
    for each in found:
        if each is not None:
            at = f"epoch {each.at:g}" if equal == "epochs" else f"{numeral(each.at)} PFLOP"
            early = [who for who, experiment in zip(("first", "second"), each.pair, strict=True)
                     if experiment in each.early]  # fmt: skip
            texts.append(at + (f", the {' and '.join(early)} in mid-schedule" if early else ""))
    return " or ".join(dict.fromkeys(texts))
