"""The first question of a report: did training work, in a sentence or two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from empssl.metrics.verdict import Verdict, percent
from empssl.reports.charts import duration, numeral
from empssl.reports.sections.scores import ScoreRow, ScoreTable


@dataclass(frozen=True)
class Answer:
    """A verdict as a page says it.

    Attributes:
        lead: in a few words.
        text: why, in sentences.
        good: nothing in it is a reason to train again.
    """

    lead: str
    text: str
    good: bool


def did_it_work(verdict: Verdict, tables: Sequence[ScoreTable], *, with_map: bool) -> Answer:
    """Healthy, collapsed or barely trained; and the gain over untrained baselines, where scored.

    Args:
        verdict: of the run's training.
        tables: its scores, those on its own data first.
        with_map: whether the page shows a map and neighbors.
    """
    scored = _scored(tables)
    if verdict.state == "collapsed":
        lead = "Collapsed"
        text = (
            "The network gives nearly the same answer for every image: its projections "
            f"{verdict.collapse}."
        )
        if with_map:
            text += " The map and the neighbors below mean little."
    elif verdict.state == "barely trained":
        lead = "Barely trained"
        text = (
            f"Training saw {_seen(verdict)} in {numeral(verdict.steps)} "
            f"{'step' if verdict.steps == 1 else 'steps'}; a full pass takes about "
            f"{duration(verdict.seconds_per_pass)}. What is shown here says more of the random "
            "start than of learning."
        )
    elif verdict.state == "not measured":
        lead = "Trained"
        text = (
            f"Training saw {_seen(verdict)}; no collapse metrics were recorded, so that only "
            "scores and neighbors tell whether it worked."
        )
    else:
        lead = "It worked" if scored and scored.sign > 0 else "Healthy"
        text = f"The network tells images apart, and training saw {_seen(verdict)}."
    good = verdict.state in ("healthy", "not measured")
    if scored is None:
        if verdict.state == "healthy":
            lead += ", not scored"
            look = "the neighbors below, or in " if with_map else ""
            text = f"{text[:-1]}; whether that is of use shows in {look}scores on labeled images."
        return Answer(lead, text, good)
    if scored.sign <= 0:
        lead += ", but no better than the untrained baselines"
    return Answer(lead, f"{text} {scored.text}", good and scored.sign > 0)


@dataclass(frozen=True)
class _Scored:
    """A gain over the untrained baselines: 1 above, -1 below, 0 within what chance does."""

    sign: int
    text: str


def _scored(tables: Sequence[ScoreTable]) -> _Scored | None:
    """The first headline that has an untrained baseline beside it."""
    for table in tables:
        own, base = table.headline, table.baseline
        if own is None or base is None:
            continue
        gain = own.accuracy - base.accuracy
        sign = 0 if abs(gain) <= _chance(own, base, table.test_size) else (1 if gain > 0 else -1)
        than = {
            1: f"{gain:.1f} points more than the best of the untrained baselines",
            0: "about as many as the best of the untrained baselines",
            -1: f"{-gain:.1f} points less than the best of the untrained baselines",
        }[sign]
        return _Scored(
            sign,
            f"A {own.probe} probe puts {own.accuracy:.1f} % of the test images of {table.dataset} "
            f"in their class, {than}, {base.encoder} ({base.accuracy:.1f} %).",
        )
    return None


def _chance(own: ScoreRow, base: ScoreRow, count: int | None) -> float:
    """Points by which two accuracies on so many images differ by chance: two standard errors."""
    variances = [row.accuracy * (100 - row.accuracy) for row in (own, base)]
    return 2 * math.sqrt(sum(variances) / count) if count else 0.0


def _seen(verdict: Verdict) -> str:
    """How many of the images, and how often."""
    if verdict.seen == verdict.images:
        times = f", {verdict.passes:.1f} times each" if verdict.passes > 1 else ""
        return f"all {numeral(verdict.images)} images{times}"
    return (
        f"{numeral(verdict.seen)} of {numeral(verdict.images)} images ({percent(verdict.share)} %)"
    )
