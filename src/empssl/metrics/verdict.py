"""Did training work: from the collapse metrics of its last step and the share of images seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from empssl.metrics.projections import FIRST_STEP, LOW, collapse

LEAST_SHARE = 0.5  # of a pass over the images: methods that learn in one pass need most of it
NAMES = {
    "embedding_std": "embedding std",
    "participation_ratio": "participation ratio",
    "coding_rate_ratio": "coding rate ratio",
}

State = Literal["healthy", "collapsed", "barely trained", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """Whether a run's training worked, and how much of the images it saw.

    Attributes:
        state: barely trained where less than half of a pass, or fewer than 20 steps, were taken,
            as the collapse metrics of so few say nothing; not measured in runs that recorded none.
        collapse: how projections have collapsed, in words; empty where they have not.
        measured: the collapse metrics of the last step, by name.
        steps: that were taken.
        seen: images that training saw at least once.
        images: that it could have seen.
        passes: over the images.
        seconds: of training, without start-up.
    """

    state: State
    collapse: str
    measured: Mapping[str, float]
    steps: int
    seen: int
    images: int
    passes: float
    seconds: float

    @property
    def share(self) -> float:
        """Of the images, from 0 to 1."""
        return self.seen / max(self.images, 1)

    @property
    def seconds_per_pass(self) -> float:
        """What a full pass over the images takes at the run's speed."""
        return self.seconds / self.passes


def verdict(last: Mapping[str, Any], plan: Mapping[str, Any], batch: int) -> Verdict:
    """What the last line of a run's metrics, its plan and its images in a step say of it.

    >>> plan = {"steps_per_epoch": 600, "usable_samples": 60_000}
    >>> last = {"step": 16, "embedding_std": 0.9, "seconds": 70.0}
    >>> found = verdict(last, plan, batch=100)
    >>> found.state, found.seen, round(found.seconds_per_pass)
    ('barely trained', 1700, 2471)
    """
    steps, per_epoch, images = last["step"] + 1, plan["steps_per_epoch"], plan["usable_samples"]
    # A pass leaves out the images that fill no batch: other ones in each pass.
    seen = images if steps > per_epoch else min(images, steps * batch)
    passes = steps / per_epoch
    looks = (collapse(last) or "") if steps >= FIRST_STEP else ""
    state: State = "healthy"
    if looks:
        state = "collapsed"
    elif steps < FIRST_STEP or passes < LEAST_SHARE:
        state = "barely trained"
    elif not any(name in last for name in LOW):
        state = "not measured"
    measured = {words: last[name] for name, words in NAMES.items() if name in last}
    return Verdict(state, looks, measured, steps, seen, images, passes, last.get("seconds", 0.0))


def percent(share: float) -> str:
    """A share in percent: never 0 of what is some, nor 100 of what is not all.

    >>> [percent(share) for share in (1.0, 0.9999, 0.283, 0.0028, 0.00001)]
    ['100', '99.9', '28', '0.28', '0.001']
    """
    value = 100 * share
    if 99.5 <= value < 100:
        return f"{min(value, 99.9):.1f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
