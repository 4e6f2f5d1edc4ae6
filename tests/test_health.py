import math
import random

import pytest

from empssl.health import CollapseWatch


def warnings(series: list[float]) -> list[tuple[int, str]]:
    watch = CollapseWatch(0.3)
    told = [(step, watch.update(step, fill)) for step, fill in enumerate(series)]
    return [(step, text) for step, text in told if text is not None]


def healthy(seed: int) -> list[float]:
    """Rises to 0.73 within twenty steps, as measured, with noise."""
    noise = random.Random(seed)
    return [0.9 * (1 - math.exp(-step / 12)) + noise.gauss(0, 0.03) for step in range(400)]


@pytest.mark.parametrize("fill", [0.0, 0.12, 0.18, 0.19])
def test_projections_stuck_together_are_told_within_fifty_steps(fill: float) -> None:
    ((step, text),) = warnings([fill] * 400)
    assert step < 50
    assert f"step {step}: the projections are collapsing: they fill {fill:.0%}" in text
    assert "invariance_weight" in text


def test_a_collapse_in_the_middle_is_told_within_fifty_steps_of_it() -> None:
    ((step, _),) = warnings([0.8] * 200 + [0.05] * 200)
    assert 200 < step < 250


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_left_alone(seed: int) -> None:
    assert warnings(healthy(seed)) == []


def test_a_slow_start_is_left_alone() -> None:
    assert warnings([0.1] * 30 + [0.6] * 200) == []


def test_short_dips_are_left_alone() -> None:
    assert warnings(([0.2] * 19 + [0.5]) * 20) == []


def test_it_tells_only_once() -> None:
    assert len(warnings(([0.1] * 40 + [0.8] * 10) * 5)) == 1
