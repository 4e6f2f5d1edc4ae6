"""What `train` says at its end: healthy or not, how much was seen, and what to type next."""

import shlex
from pathlib import Path

from empssl.metrics.verdict import Verdict, percent
from empssl.training.budget import format_duration

_ADVICE = {
    "healthy": "images are told apart{measured}",
    "collapsed": "the projections {collapse}. Do not use its embeddings: lower the learning rate, "
    "or strengthen what keeps images apart",
    "barely trained": "too little to judge it by{measured}. Train for longer: --epochs 1 or more, "
    "or a --budget of {longer} or more",
    "not measured": "no collapse metrics were recorded",
}


def closing_lines(verdict: Verdict, run: str | Path) -> list[str]:
    """Three lines at the end of training.

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
    advice = _ADVICE[verdict.state].format(
        collapse=verdict.collapse,
        measured=f" ({values})" if values else "",
        # Never shorter than what it had: few images make few steps of a pass.
        longer=format_duration(2 * max(verdict.seconds, verdict.seconds_per_pass)),
    )
    times = f", {verdict.passes:.1f} times each" if verdict.passes > 1 else ""
    return [
        f"{verdict.state}: {advice}",
        f"{verdict.seen:,} of {verdict.images:,} images seen ({percent(verdict.share)} %){times}, "
        f"in {format_duration(verdict.seconds)}; a full pass takes "
        f"{format_duration(verdict.seconds_per_pass)}",
        f"next: empssl report {shlex.quote(str(run))}",
    ]
