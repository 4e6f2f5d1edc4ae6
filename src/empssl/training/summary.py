"""What `train` says at its end: healthy or not, how much was seen, and what to type next."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empssl.commands import command
from empssl.metrics.verdict import LEAST_SHARE, Verdict, percent
from empssl.training.budget import format_duration

_NONE: Mapping[str, Any] = {}
_ADVICE = {
    "healthy": "images are told apart{measured}",
    "collapsed": "the projections {collapse}. Do not use its embeddings: lower the learning rate, "
    "or strengthen what keeps images apart",
    "barely trained": "too little to judge it by{measured}. Train for longer, such as --epochs "
    "{epochs}, which takes about {time}",
    "not measured": "no collapse metrics were recorded",
}


def closing_lines(
    verdict: Verdict, run: str | Path, objects: Mapping[str, Any] = _NONE
) -> list[str]:
    """Three lines at the end of training.

    Args:
        verdict: on the run.
        run: its path.
        objects: what it was given as such; see `commands.objects_of`.

    >>> from empssl.metrics.verdict import verdict
    >>> plan = {"steps_per_epoch": 15, "usable_samples": 600}
    >>> last = {"step": 29, "embedding_std": 0.89, "participation_ratio": 18.9, "seconds": 50.0}
    >>> for line in closing_lines(verdict(last, plan, batch=40), "runs/my photos"):
    ...     print(line)
    healthy: images are told apart (embedding std 0.89, participation ratio 18.9)
    600 of 600 images seen (100 %), 2.0 times each, in 50s; a full pass takes 25s
    next: empssl report 'runs/my photos'
    """
    values = ", ".join(f"{name} {value:.3g}" for name, value in verdict.measured.items())
    # A pass where it was not even half; where few images made few steps, twice as many passes.
    epochs = 1 if verdict.passes < LEAST_SHARE else math.ceil(2 * verdict.passes)
    advice = _ADVICE[verdict.state].format(
        collapse=verdict.collapse,
        measured=f" ({values})" if values else "",
        epochs=epochs,
        time=format_duration(epochs * verdict.seconds_per_pass),
    )
    times = f", {verdict.passes:.1f} times each" if verdict.passes > 1 else ""
    needed = {name: objects.get(name) for name in ("data", "backbone")}
    return [
        f"{verdict.state}: {advice}",
        f"{verdict.seen:,} of {verdict.images:,} images seen ({percent(verdict.share)} %){times}, "
        f"in {format_duration(verdict.seconds)}; a full pass takes "
        f"{format_duration(verdict.seconds_per_pass)}",
        f"next: {command('report', {'run': run}, needed)}",
    ]
