"""The settings of a run: what was given, over a recipe or over what the run began with."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from empssl import plugins
from empssl.config import ObjectSpec, Spec, build, is_object, object_missing
from empssl.data import Decoding
from empssl.data.objects import GivenImages
from empssl.data.run_images import check_same_kind
from empssl.device import outlines
from empssl.distributed.processes import restarted, torchrun_launch
from empssl.errors import CheckpointError, UsageError
from empssl.models import build_network
from empssl.objectives import build_objective
from empssl.optim import SCHEDULES, build_optimizers
from empssl.progress import status
from empssl.runs.run import Run
from empssl.training.budget import parse_duration
from empssl.training.recipes import completed, resolve, spec_tables
from empssl.types import MOST_BATCH, MOST_PATCHES, MOST_SIDE
from empssl.views import POLICIES

MOST_EPOCHS = 1e9  # so that steps can be counted
# What a program may give itself, and what it must be then.
OBJECTS = {
    "backbone": "an nn.Module from (image, 3, side, side) to embeddings",
    "objective": "an Objective, or an nn.Module from projections (view, batch, dim) to a loss",
    "optimizer": "a callable from parameters to a torch.optim.Optimizer",
}
SAME_GRADIENTS = {"auto", "whole", "exact"}  # ways of memory between which a run may change


def resolve_settings(
    out: Path,
    data: str | GivenImages,
    recipe: str | None,
    *,
    explicit: dict[str, Any],
    chosen: dict[str, Any],
    defaults: dict[str, Any],
    resume: bool,
    overwrite: bool,
) -> tuple[dict[str, Any], Decoding]:
    """All settings of a run, and how its pixels are read; checked before anything else is done.

    Args:
        out: the run directory.
        data: as in `train`; of an object, what it is called is recorded.
        recipe: which decides what is None in `explicit`.
        explicit: what a recipe has too.
        chosen: what it has not.
        defaults: of that; what equals its default cannot be told from what was not given.
        resume: whether the run at `out` is continued.
        overwrite: whether it may be replaced.

    Raises:
        UsageError: settings that cannot be carried out, or that a resumed run does not have.
    """
    explicit = with_objects(explicit)
    if resume and overwrite:
        raise UsageError("a run is either resumed or overwritten; leave out one of the two")
    if resume:
        explicit |= {key: value for key, value in chosen.items() if value != defaults[key]}
        settings = resumed_settings(Run(out), data, recipe, explicit)
        decoding = Decoding.recorded(Run(out).plan.get("decoding", settings))
    else:
        settings = {"data": str(data)} | resolve(recipe, explicit) | chosen
        decoding = Decoding.recorded(settings)
        Run.check_free(out, overwrite=overwrite)
    check_settings(settings)
    with status("checking the settings"):
        build_on_meta(settings)
    return settings, decoding


def with_objects(explicit: dict[str, Any]) -> dict[str, Any]:
    """The settings in which each object of a program is a spec.

    Raises:
        UsageError: one is not what its setting takes.
    """
    found = dict(explicit)
    for setting, expected in OBJECTS.items():
        made = explicit.get(setting)
        if made is None or isinstance(made, str | dict):
            continue
        fits = callable(made) if setting == "optimizer" else isinstance(made, nn.Module)
        if not fits:
            hint = ""
            if isinstance(made, type) and issubclass(made, nn.Module):
                hint = f"; make one, as by {made.__qualname__}()"
            elif isinstance(made, torch.optim.Optimizer):
                kind = type(made).__qualname__
                hint = f"; give the class, or a functools.partial({kind}, lr=...) of it"
            text = " ".join(repr(made).split())[:100]
            raise UsageError(
                f"{setting} is {text}, expected a name, a mapping with a name, or {expected}{hint}"
            )
        found[setting] = ObjectSpec(made)
    return found


def plugins_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """Modules of a user's own that settings need: given as `--plugin`, or where names come from."""
    tables = spec_tables()
    names = {key: str(settings[key].get("name")) for key in tables}
    used = [tables[key][name] for key, name in names.items() if name in tables[key]]
    return tuple(dict.fromkeys([*plugins.loaded, *plugins.origins(used)]))


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse numbers with which nothing could be learned."""
    if settings["patches"] < 2:
        raise UsageError(
            f"patches is {settings['patches']}, expected 2 or more: with one patch an image there "
            "is nothing for it to agree with"
        )
    if settings["patches"] > MOST_PATCHES:
        raise UsageError(f"patches is {settings['patches']}, expected at most {MOST_PATCHES:,}")
    if settings["batch"] < 2:
        raise UsageError(
            f"batch is {settings['batch']}, expected 2 or more: one image has no other to be "
            "told from"
        )
    if settings["batch"] > MOST_BATCH:
        raise UsageError(f"batch is {settings['batch']}, expected at most {MOST_BATCH:,}")
    if settings["budget"] is None and not 0 < settings["epochs"] <= MOST_EPOCHS:
        raise UsageError(
            f"epochs is {settings['epochs']}, expected a positive number of at most "
            f"{MOST_EPOCHS:,.0f}"
        )
    if settings["budget"] is not None:
        parse_duration(settings["budget"])
    if not -(2**63) <= settings["seed"] < 2**63:
        raise UsageError(f"seed is {settings['seed']}, expected a number of 64 bits")
    side = settings["image_side"]
    if side is not None and not 1 <= side <= MOST_SIDE:
        what = "1 pixel or more" if side < 1 else f"at most {MOST_SIDE:,} pixels"
        raise UsageError(f"image_side is {side}, expected {what}")
    if not all(0 < epoch < math.inf for epoch in settings.get("keep_epochs", ())):
        kept = ", ".join(map(str, settings["keep_epochs"]))
        raise UsageError(f"keep_epochs are {kept}; each must be a positive number")


def build_on_meta(settings: dict[str, Any]) -> None:
    """Make all that settings describe, without memory.

    What is wrong with them should not wait for the images, which may take an hour to read.

    Raises:
        UsageError: a name or an option with which nothing can be made.
    """
    build(SCHEDULES, settings["schedule"], steps=1)
    build(POLICIES, settings["views"])
    with outlines():
        network = build_network(settings["backbone"], settings["projector"], settings["whitened"])
        objective = build_objective(settings["objective"], dim=network.projector.dim)
    build_optimizers(nn.ModuleList([network, objective]), settings["optimizer"])


def restarted_by_torchrun(out: Path) -> bool:
    """Whether torchrun has started this command again, after it had begun the run at `out`."""
    launch = torchrun_launch()
    if launch is None or not (restarted() and Run.exists(out)):
        return False
    same: bool = launch == Run(out).environment.get("launch", "")
    return same


def resumed_settings(
    run: Run, data: str | GivenImages, recipe: str | None, explicit: dict[str, Any]
) -> dict[str, Any]:
    """The settings that the run began with.

    Raises:
        UsageError: some are given anew, with other values; or another data set.
        CheckpointError: some were not written down.
    """
    config = run.config
    try:
        check_same_kind(run, data)
        for setting in OBJECTS:
            if is_object(config[setting]):
                config[setting] = given_again(run, setting, config[setting], explicit.get(setting))
        made = completed(config)
        asked = resolve(recipe or config["recipe"], {**_as_given(made), **_without_none(explicit)})
        asked |= {"data": config["data"]}  # where images are is no setting, which they are is
        changed = [
            key for key, value in asked.items() if _plain(made.get(key)) != _plain(value)
        ]  # fmt: skip
        if "memory" in changed and {config["memory"], asked["memory"]} <= SAME_GRADIENTS:
            changed.remove("memory")
            config["memory"] = asked["memory"]
    except KeyError as error:
        raise CheckpointError(f"the configuration of {run.path} does not say {error}") from error
    if changed:
        raise UsageError(
            f"a resumed run keeps its settings, but {', '.join(changed)} would change; leave "
            "these options out, or start a new run with another --out"
        )
    return config


def given_again(run: Run, setting: str, recorded: Spec, given: Any) -> Spec:
    """The spec of an object that a run began with, with the object that was given anew.

    Raises:
        UsageError: it was not, or is another.
    """
    if given == recorded and isinstance(given, ObjectSpec):
        return given
    error = object_missing(str(run.path), setting, recorded)
    if not isinstance(given, ObjectSpec):
        raise error
    raise UsageError(f"{error}; the one given is recorded as {dict(given)}, and not as the run's")


def _as_given(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in resolve(config["recipe"], {}) if key != "recipe"}


def _without_none(explicit: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in explicit.items() if value is not None}


def _plain(value: Any) -> Any:
    """As YAML gives it back."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return list(value) if isinstance(value, tuple) else value
