"""How to get a result: named sets of values for the settings of `train`."""

from typing import Any

from empssl.config import Spec, Table, complete, merge
from empssl.errors import UsageError, nearest
from empssl.training.recipes import demo, fast, laptop, official, paper, rivals, shapes

RECIPES = {
    "demo": demo.recipe,
    "fast": fast.recipe,
    "laptop": laptop.recipe,
    "official": official.recipe,
    "official_imagenet100": official.imagenet100,
    "paper": paper.recipe,
    "paper_imagenet100": paper.imagenet100,
    "shapes": shapes.recipe,
    "barlow_twins": rivals.barlow_twins,
    "byol": rivals.byol,
    "frossl": rivals.frossl,
    "ressl": rivals.ressl,
    "simclr": rivals.simclr,
    "simsiam": rivals.simsiam,
    "ssl_ey": rivals.ssl_ey,
    "supcon": rivals.supcon,
    "swav": rivals.swav,
    "vicreg": rivals.vicreg,
    "wmse": rivals.wmse,
}
NAMES = tuple(RECIPES)
DEFAULT = "laptop"
# What an objective takes where it differs from the recipe, by recipe and objective.
FORMS: dict[str, dict[str, dict[str, Any]]] = {"laptop": laptop.FORMS}
# Parameters that the program supplies, by setting; not options.
GIVEN = {
    "projector": ("feature",), "objective": ("dim",), "optimizer": ("network",),
    "schedule": ("steps",),
}  # fmt: skip

__all__ = ["DEFAULT", "NAMES", "completed", "load", "resolve", "spec_tables"]


def load(name: str, objective: str | None = None) -> dict[str, Any]:
    """A recipe's values by setting.

    Args:
        name: of the recipe.
        objective: whose form of the recipe is meant; its own by default.

    Raises:
        UsageError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(f"no recipe '{name}': {nearest(name, RECIPES)}")
    settings = RECIPES[name]()
    if objective is not None:
        settings["objective"] = merge(settings["objective"], objective)
        for key, changes in FORMS.get(name, {}).get(objective, {}).items():
            settings[key] = merge(settings[key], changes) if key in spec_tables() else changes
    return settings


def resolve(recipe: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Every setting that decides a run's numbers: the recipe's, with those given laid over.

    Args:
        recipe: a name; None for the default.
        given: settings by name; None where the recipe decides.

    Raises:
        UsageError: an unknown recipe, name or option.
    """
    name = recipe or DEFAULT
    objective = merge(load(name)["objective"], given.get("objective"))["name"]
    settings = load(name, objective)
    for key, table in spec_tables().items():
        spec = merge(settings[key], given.get(key))
        settings[key] = complete(table, spec, given=GIVEN.get(key, ()))
    for key, value in given.items():
        if value is not None and key not in (*spec_tables(), "whitened"):
            settings[key] = value
    settings["whitened"] = _whitened(settings["whitened"], given.get("whitened"))
    if given.get("epochs") is not None and given.get("budget") is None:
        settings["budget"] = None
    return {"recipe": name} | settings


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings with the options that came after they were written down.

    Those get the defaults of their tables, which keep what every run did before, and not the values
    that the recipe has now.

    Raises:
        KeyError: a setting is missing altogether.
        UsageError: an option is not known any more.
    """
    specs = {
        key: complete(table, settings[key], given=GIVEN.get(key, ()))
        for key, table in spec_tables().items()
    }
    return settings | specs | {"whitened": _whitened(settings["whitened"], None)}


def _whitened(base: Spec | int, changes: Spec | str | int | None) -> Spec | int:
    """The spec of the whitened patches; a number stays one, of features of `plain` ones.

    Raises:
        UsageError: an unknown name or option.
    """
    from empssl.models import WHITENED_PATCHES

    spec: Spec | int
    if isinstance(changes, str | dict):
        spec = merge(base if isinstance(base, dict) else {"name": "mirrored"}, changes)
    else:
        spec = base if changes is None else changes
    return complete(WHITENED_PATCHES, spec) if isinstance(spec, dict) else spec


def spec_tables() -> dict[str, Table]:
    """The table of each setting that is a spec."""
    from empssl.models import BACKBONES, PROJECTORS
    from empssl.objectives import OBJECTIVES
    from empssl.optim import OPTIMIZERS, SCHEDULES
    from empssl.views import POLICIES

    return {
        "views": POLICIES,
        "backbone": BACKBONES,
        "projector": PROJECTORS,
        "objective": OBJECTIVES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
    }
