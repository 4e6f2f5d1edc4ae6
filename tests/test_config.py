from typing import Any

import pytest

from empssl.config import Table, build, complete, merge
from empssl.errors import UsageError
from empssl.models import BACKBONES, PROJECTORS
from empssl.objectives import OBJECTIVES
from empssl.optim import OPTIMIZERS, SCHEDULES
from empssl.training.recipes import GIVEN
from empssl.views import POLICIES

TABLES = {
    "backbones": BACKBONES, "projectors": PROJECTORS, "objectives": OBJECTIVES,
    "optimizers": OPTIMIZERS, "schedules": SCHEDULES, "policies": POLICIES,
}  # fmt: skip


class Power:
    def __init__(self, network: str, *, base: float, exponent: float = 2.0, **rest: Any) -> None:
        if base < 0:
            raise ValueError(f"base is {base}, expected 0 or more")
        self.network, self.value = network, base**exponent


TABLE: Table = {"power": Power, "powder": dict}


def test_defaults_are_written_out_in_the_order_of_the_signature() -> None:
    full = complete(TABLE, {"base": 3.0, "name": "power"}, given=("network",))
    assert list(full.items()) == [("name", "power"), ("base", 3.0), ("exponent", 2.0)]


def test_a_complete_spec_is_complete() -> None:
    full = complete(TABLE, {"name": "power", "base": 3.0}, given=("network",))
    assert complete(TABLE, full, given=("network",)) == full


def test_completing_leaves_the_spec_as_it_was() -> None:
    spec = {"name": "power", "base": 3.0}
    build(TABLE, spec, network="net")
    assert spec == {"name": "power", "base": 3.0}


def test_building_calls_with_the_options_and_what_is_given() -> None:
    built = build(TABLE, {"name": "power", "base": 3.0, "exponent": 3.0}, network="net")
    assert (built.network, built.value) == ("net", 27.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "powr", "base": 1.0}, "no 'powr' here: did you mean 'power'"),
        ({"name": "root"}, "no 'root' here: Choose from: powder, power"),
        ({"base": 1.0}, "no 'None' here"),
        ({"name": ["power"]}, "Choose from: powder, power"),
        ({"name": "power", "base": 1.0, "exponnet": 2.0}, "no option 'exponnet': did you mean "
         "'exponent'"),
        ({"name": "power", "base": 1.0, "network": "mine"}, "no option 'network'"),
        ({"name": "power", "base": 1.0, "rest": 2.0}, "no option 'rest'"),
        ({"name": "power"}, "'power' needs a value for base"),
        ({"name": "power", "base": -1.0}, "'power' cannot be made: base is -1.0, expected 0"),
        ({"name": "power", "base": "3"}, "base of 'power' is '3', expected a finite number"),
    ],
)  # fmt: skip
def test_a_spec_that_makes_nothing_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(TABLE, spec, network="net")


def test_a_wrong_literal_is_refused() -> None:
    with pytest.raises(UsageError, match="colors of 'patches' is 'quick', expected 'faithful' or"):
        build(POLICIES, {"name": "patches", "colors": "quick"})


def test_an_optimizers_own_parameter_is_no_option() -> None:
    with pytest.raises(UsageError, match="'lars' has no option 'network'"):
        complete(OPTIMIZERS, {"name": "lars", "network": 1}, given=("network",))


@pytest.mark.parametrize(
    ("changes", "merged"),
    [
        (None, {"name": "power", "base": 3.0}),
        ({"exponent": 4.0}, {"name": "power", "base": 3.0, "exponent": 4.0}),
        ({"name": "power", "base": 5.0}, {"name": "power", "base": 5.0}),
        ("power", {"name": "power", "base": 3.0}),
        ("powder", {"name": "powder"}),
        ({"name": "powder", "x": 1}, {"name": "powder", "x": 1}),
    ],
)
def test_changes_are_laid_over_a_base_of_the_same_name(
    changes: Any, merged: dict[str, Any]
) -> None:
    base = {"name": "power", "base": 3.0}
    assert merge(base, changes) == merged
    assert base == {"name": "power", "base": 3.0}


@pytest.mark.parametrize("table", TABLES)
def test_every_option_of_every_entry_has_a_default_or_must_be_given(table: str) -> None:
    given = GIVEN.get(table.removesuffix("s"), ())
    for name in TABLES[table]:
        needed = {"model": "x"} if name == "timm" else {}
        full = complete(TABLES[table], {"name": name, **needed}, given=given)
        assert full["name"] == name
        assert not set(full) & set(given)
