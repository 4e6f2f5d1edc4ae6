"""A grid: every objective with every number of patches and every seed, at an equal budget."""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from empssl.config import merge
from empssl.data import ImageSet, in_memory, open_images
from empssl.device import Fabric
from empssl.distributed.launch import launch
from empssl.errors import UsageError, nearest
from empssl.experiments.run_spec import RunSpec
from empssl.reports.charts import tick
from empssl.runs.files import check_no_links
from empssl.training.recipes import resolve
from empssl.training.setup import build_trainer

BudgetUnit = Literal["patches", "pflop", "seconds"]
UNITS: dict[BudgetUnit, str] = {"patches": "patches", "pflop": "PFLOP", "seconds": "seconds"}
# What a label may have of its own besides the options of its objective.
OWN_SPECS = ("views", "projector", "optimizer", "schedule")
OWN = ("batch", *OWN_SPECS)
Own = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class EqualBudget:
    """An amount that no run gets more of than another.

    The batch is held fixed: with fewer patches of each image, the same number of patches is more
    images. Patches and PFLOP are equal to within half a step.
    """

    what: BudgetUnit
    amount: float

    @classmethod
    def parse(cls, text: str) -> "EqualBudget":
        """The amount that `patches=216000`, `pflop=0.02` or `seconds=60` says.

        Raises:
            UsageError: it says something else.

        >>> EqualBudget.parse("pflop=0.02")
        EqualBudget(what='pflop', amount=0.02)
        """
        name, _, number = text.partition("=")
        if name not in get_args(BudgetUnit):
            raise UsageError(f"equal is '{text}', expected NAME=NUMBER: {nearest(name, UNITS)}")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            raise UsageError(f"equal is '{text}', expected a positive number after {name}=")
        return cls(name, amount)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.what}={self.amount:.15g}"

    @property
    def words(self) -> str:
        """The amount with its unit.

        >>> EqualBudget("pflop", 0.02).words
        '0.02 PFLOP'
        """
        return f"{tick(self.amount)} {UNITS[self.what]}"

    def steps(self, *, patches_per_step: int, gflop_per_patch: float) -> int | None:
        """How many steps that is; None where the clock decides.

        Raises:
            UsageError: not even one.

        >>> EqualBudget("patches", 216000.0).steps(patches_per_step=320, gflop_per_patch=0.1)
        675
        """
        if self.what == "seconds":
            return None
        patches = self.amount if self.what == "patches" else 1e6 * self.amount / gflop_per_patch
        steps = round(patches / patches_per_step)
        if steps < 1:
            raise UsageError(
                f"{self} is {patches:,.0f} patches, less than one step of {patches_per_step:,}; "
                "give more, or choose a smaller --batch"
            )
        return steps

    def length(self, steps: int | None, steps_per_epoch: int) -> dict[str, Any]:
        """The settings of `train` that make a run so long."""
        if steps is None:
            return {"budget": f"{self.amount:.15g}s"}
        return {"epochs": steps / steps_per_epoch, "budget": None}


# What a run records besides: its seed, what it kept, and where and how it was computed.
_ASIDE = {
    "seed", "keep_epochs", "data_dir", "download", "device", "threads", "devices", "num_nodes",
    "compile", "shard", "max_pixels",
}  # fmt: skip

# Options that came later, and what every run did before. Where they say the same they are left out,
# so that older runs keep their names and are still of one kind with new ones.
_LATER = {
    "range": [],
    "objective.scale": 1.0, "optimizer.nesterov": True, "optimizer.decay_vectors": False,
}  # fmt: skip

Flat = dict[str, Any]


def decisive(config: dict[str, Any]) -> Flat:
    """The settings that runs of one kind share, by their full names.

    >>> decisive({"batch": 40, "objective": {"name": "emp", "distortion": 0.2}, "seed": 3})
    {'batch': 40, 'objective.name': 'emp', 'objective.distortion': 0.2}
    >>> decisive({"optimizer": {"name": "lars", "nesterov": True}})
    {'optimizer.name': 'lars'}
    """
    flat: Flat = {}
    for key, value in json.loads(json.dumps(config)).items():  # tuples as YAML gives them back
        if key in _ASIDE:
            continue
        parts = value.items() if isinstance(value, dict) else None
        flat |= {key: value} if parts is None else {f"{key}.{name}": v for name, v in parts}
    return {name: v for name, v in flat.items() if name not in _LATER or v != _LATER[name]}


def differing(settings: Sequence[Flat]) -> list[str]:
    """The names of the settings in which these are not all alike.

    >>> differing([{"batch": 40, "patches": 2}, {"batch": 40, "patches": 8}])
    ['patches']
    """
    names = dict.fromkeys(name for flat in settings for name in flat)
    return [name for name in names if any(s.get(name) != settings[0].get(name) for s in settings)]


def grid(
    labels: Sequence[str],
    patches: Sequence[int],
    seeds: Sequence[int],
    *,
    equal: EqualBudget,
    recipe: str | None,
    given: dict[str, Any],
    own: Own,
    chosen: dict[str, Any],
    runtime: dict[str, Any],
    runs: Path,
) -> list[RunSpec]:
    """The runs, seed by seed, so that a grid that is cut short has few seeds of all.

    Args:
        labels: objectives, or names that `own` explains.
        patches: values of n.
        seeds: of each.
        equal: what every run gets the same of.
        recipe: as in `train`.
        given: settings of all runs, by name; None where the recipe decides.
        own: of a label; `name` says which objective it is, if it is not called so.
        chosen: the data, and what `train` records besides the settings of a recipe.
        runtime: where the data are and where to compute.
        runs: in which folder the runs are made.

    Raises:
        UsageError: settings that cannot be carried out, or runs that were made with others.
        DataError: no usable images.
    """
    _check(labels, patches, seeds, own)
    fabric = launch(device=runtime["device"], devices=1, precision=chosen["precision"])
    opened: dict[int | None, ImageSet] = {}
    specs: list[RunSpec] = []
    for label in labels:
        for n in patches:
            settings = _settings(label, n, recipe, given, own)
            side = settings["image_side"]
            if side not in opened:
                where = {key: runtime[key] for key in ("data_dir", "download")}
                opened[side] = in_memory(
                    open_images(chosen["data"], split=chosen["split"], side=side, **where)
                )
            try:
                length = _length(settings | chosen, fabric, opened[side], equal)
            except UsageError as error:
                raise UsageError(f"{label} with n = {n}: {error}") from error
            for seed in seeds:
                name = f"{label}-n{n}-seed{seed}"
                whole = settings | chosen | {"seed": seed} | equal.length(*length[:2])
                spec = RunSpec(
                    name, label, n, seed, check_no_links(runs, name), whole, *length, runtime
                )
                _check_made(spec, opened[side].fingerprint)
                specs.append(spec)
    return sorted(specs, key=lambda spec: list(seeds).index(spec.seed))


def _check(labels: Sequence[str], patches: Sequence[int], seeds: Sequence[int], own: Own) -> None:
    """Refuse what would give a run twice, or none."""
    for name, values in {"objectives": labels, "patches": patches, "seeds": seeds}.items():
        if not values:
            raise UsageError(f"no {name} are given; name at least one with --{name}")
        if len(set(values)) < len(values):
            raise UsageError(f"{name} are {', '.join(map(str, values))}; give each of them once")
    for label in labels:
        if not re.fullmatch(r"[\w+][\w+.-]*", label):
            raise UsageError(
                f"'{label}' is to name run directories; use letters, digits and any of _ + . -"
            )
    for label in own:
        if label not in labels:
            raise UsageError(f"'{label}' is set but not compared: {nearest(label, labels)}")
    if min(patches) < 2:
        raise UsageError(f"patches are {', '.join(map(str, patches))}; each must be 2 or more")


def _settings(
    label: str, n: int, recipe: str | None, given: dict[str, Any], own: Own
) -> dict[str, Any]:
    """The recipe, under what all runs share, under what the label has of its own."""
    options = dict(own.get(label) or {})
    changes: dict[str, Any] = {key: options.pop(key) for key in OWN if key in options}
    changes["objective"] = {"name": label} | options
    shared = resolve(recipe, given | {"objective": changes["objective"]})
    for key in OWN_SPECS:
        changes[key] = merge(shared[key], changes.get(key))
    return resolve(recipe, given | changes | {"patches": n})


def _length(
    settings: dict[str, Any], fabric: Fabric, images: ImageSet, equal: EqualBudget
) -> tuple[int | None, int, float]:
    """Steps, steps per epoch and GFLOP per patch of a run, from its network and the images."""
    training = build_trainer(settings | {"seed": 0}, fabric, images, time.monotonic())
    training.sampler.close()
    gflop = training.flops_per_view / 1e9
    per_step = settings["patches"] * settings["batch"]
    steps = equal.steps(patches_per_step=per_step, gflop_per_patch=gflop)
    return steps, training.sampler.steps_per_epoch, gflop


def _check_made(spec: RunSpec, fingerprint: str) -> None:
    """Refuse a run of this name that is another run."""
    if spec.run is None:
        return
    asked, made = decisive(spec.settings), decisive(spec.run.config)
    names = [name for name in differing([asked, made]) if name in asked]
    if names:
        what = ", ".join(f"{name} {made.get(name)}, not {asked[name]}" for name in names[:4])
        raise UsageError(
            f"{spec.path} was made with other settings ({what}); choose another --out, or remove it"
        )
    if spec.run.plan.get("fingerprint", fingerprint) != fingerprint:
        raise UsageError(
            f"{spec.path} was trained on other images than {spec.settings['data']} has now; choose "
            "another --out, or remove it"
        )
