from typing import Any

import pytest

from empssl.metrics.projections import FIRST_STEP
from empssl.metrics.verdict import verdict

PLAN = {"steps_per_epoch": 100, "usable_samples": 1010}
HEALTHY = {"embedding_std": 0.9, "participation_ratio": 12.0, "coding_rate_ratio": 0.8}


def last(steps: int, **measured: float) -> dict[str, Any]:
    return {"step": steps - 1, "seconds": 50.0} | measured


@pytest.mark.parametrize(
    ("steps", "measured", "state"),
    [
        (100, HEALTHY, "healthy"),
        (100, HEALTHY | {"embedding_std": 0.05}, "collapsed"),
        (100, HEALTHY | {"participation_ratio": 1.1}, "collapsed"),
        (30, HEALTHY | {"embedding_std": 0.05}, "collapsed"),  # however little it saw
        (49, HEALTHY, "barely trained"),
        (50, HEALTHY, "healthy"),
        (100, {"coding_rate_ratio": 0.8}, "not measured"),  # as runs of version 0.1.0 are
    ],
)
def test_state_follows_from_collapse_metrics_and_images_seen(
    steps: int, measured: dict[str, float], state: str
) -> None:
    assert verdict(last(steps, **measured), PLAN, batch=10).state == state


def test_the_first_steps_are_not_called_collapsed() -> None:
    few = {"steps_per_epoch": 1, "usable_samples": 10}  # so that every step is a pass
    low = HEALTHY | {"embedding_std": 0.05}
    assert verdict(last(FIRST_STEP - 1, **low), few, batch=10).state == "barely trained"
    assert verdict(last(FIRST_STEP, **low), few, batch=10).state == "collapsed"


@pytest.mark.parametrize(("steps", "seen"), [(1, 10), (100, 1000), (101, 1010), (900, 1010)])
def test_images_seen_are_counted_once(steps: int, seen: int) -> None:
    assert verdict(last(steps, **HEALTHY), PLAN, batch=10).seen == seen


def test_a_full_pass_takes_as_long_as_its_steps_did() -> None:
    found = verdict(last(25, **HEALTHY), PLAN, batch=10)
    assert (found.passes, found.seconds_per_pass) == (0.25, 200.0)


def test_collapse_metrics_have_the_names_of_the_field() -> None:
    found = verdict(last(100, **HEALTHY), PLAN, batch=10).measured
    assert found == {"embedding std": 0.9, "participation ratio": 12.0, "coding rate ratio": 0.8}
