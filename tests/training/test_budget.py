import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from empssl.optim import cosine
from empssl.training.budget import Budget

SECONDS, EACH = 100.0, 0.05  # of a budget, and of a step at first


@dataclass
class Run:
    """A run on a clock of its own.

    Attributes:
        budget: of the run.
        positions: of its steps on the schedule.
        ended: when.
    """

    budget: Budget
    positions: list[float] = field(default_factory=list)
    ended: float = 0.0


def run(each: Callable[[float], float], *, measured: float = EACH, spent: float = 5.0) -> Run:
    """Take steps that last as long as `each` says of the time at which they begin."""
    steps = max(1, math.floor((SECONDS - spent) / measured))
    found = Run(Budget(SECONDS, [(0, steps)], spent=spent, each=measured), ended=spent)
    while len(found.positions) < found.budget.steps:
        found.positions.append(found.budget.position(len(found.positions)))
        found.ended += each(found.ended)
        found.budget.replan(len(found.positions), found.ended)
    return found


def noisy() -> Callable[[float], float]:
    draw = random.Random(0)
    return lambda now: EACH * draw.lognormvariate(0.0, 1.0)


def waiting() -> Callable[[float], float]:
    """Every third step waits fifty times as long as it computes, as threads that are crowded do."""
    draw = random.Random(0)
    return lambda now: EACH * (50 if draw.random() < 1 / 3 else 1)


def pause(at: float, seconds: float) -> Callable[[float], float]:
    """Steps as ever, but that one takes so much longer."""
    left = [seconds]
    return lambda now: EACH + (left.pop() if left and now >= at else 0.0)


SPEEDS: dict[str, Callable[[float], float]] = {
    "half the speed": lambda now: EACH if now < 50 else 2 * EACH,
    "twice the speed": lambda now: EACH if now < 50 else EACH / 2,
    "a fiftieth of the speed": lambda now: EACH if now < 50 else 50 * EACH,
    "a fiftieth for a while": lambda now: 50 * EACH if 20 < now < 60 else EACH,
    "fifty times the speed": lambda now: EACH if now < 50 else EACH / 50,
    "it was measured fifty times too slow": lambda now: EACH / 50,
    "it was measured fifty times too fast": lambda now: 50 * EACH,
    "slower and slower": lambda now: EACH * (1 + now / 20),
    "a pause early": pause(20, 30),
    "a pause late": pause(60, 30),
    "noise": noisy(),
    "steps that wait": waiting(),
}


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_budget_is_kept_to_within_a_tenth_whatever_the_speed_does(speed: str) -> None:
    found = run(SPEEDS[speed])
    assert found.ended == pytest.approx(SECONDS, rel=0.1)
    assert found.budget.steps == len(found.positions)


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_learning_rate_falls_all_the_way_and_never_rises(speed: str) -> None:
    found = run(SPEEDS[speed])
    first, steps = found.budget.planned[0][1], found.budget.steps
    assert found.positions == sorted(set(found.positions))
    assert found.positions[0] == 0
    # The last step is where the last one of a run of so many steps is.
    assert found.positions[-1] == pytest.approx(first * (1 - 1 / steps))
    rate = cosine(steps=first)
    assert rate(found.positions[-1]) == pytest.approx(cosine(steps=steps)(steps - 1), abs=1e-9)


@pytest.mark.parametrize("speed", ["half the speed", "twice the speed", "noise", "steps that wait"])
def test_the_schedule_follows_the_time(speed: str) -> None:
    """At each quarter of the budget about a quarter of the schedule is done."""
    found, times = SPEEDS[speed], []
    budget = Budget(SECONDS, [(0, int(SECONDS / EACH))], each=EACH)
    step, now = 0, 0.0
    while step < budget.steps:
        times.append((now / SECONDS, budget.position(step) / budget.planned[0][1]))
        step, now = step + 1, now + found(now)
        budget.replan(step, now)
    after = [(time, share) for time, share in times if time > 0.6]
    assert max(abs(time - share) for time, share in after) < 0.1


def test_a_steady_speed_changes_nothing() -> None:
    found = run(lambda now: EACH)
    assert found.budget.planned == [(0, 1900)]
    assert found.positions == list(range(1900))  # to the last bit, as of a run without a budget


def test_the_time_that_is_past_ends_it_with_one_step_at_the_end_of_the_schedule() -> None:
    found = run(pause(50, 200))
    assert found.budget.steps == len(found.positions)
    assert found.positions[-1] - found.positions[-2] > 0.3 * found.budget.planned[0][1]
    assert found.ended == pytest.approx(250 + EACH, abs=2 * EACH)


def test_where_a_step_takes_a_tenth_of_the_time_it_is_kept_as_well() -> None:
    assert run(lambda now: 10.0, measured=9.0).ended == pytest.approx(SECONDS, rel=0.1)


def test_plans_that_were_written_down_give_the_same_positions() -> None:
    found = run(SPEEDS["a fiftieth for a while"])
    assert len(found.budget.planned) > 3
    again = Budget(SECONDS, [list(plan) for plan in found.budget.planned])
    assert [again.position(step) for step in range(again.steps)] == found.positions


def test_a_clock_that_stands_still_plans_nothing() -> None:
    budget = Budget(SECONDS, [(0, 10)])
    assert not any(budget.replan(step, 0.0) for step in range(1, 10))
