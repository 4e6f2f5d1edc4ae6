"""A grid: every objective with every n and every seed, on the same ground."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empssl.comparison.cell import Cell
from empssl.comparison.equal import Equal
from empssl.comparison.settings import decisive, differing
from empssl.data import ImageSet, in_memory, open_images
from empssl.engine import Fabric, launch
from empssl.errors import UsageError, nearest
from empssl.recipes import resolve
from empssl.spec import merge
from empssl.storage import check_no_links
from empssl.training import Training

# What a label may have of its own besides the options of its objective.
OWN_SPECS = ("views", "projector", "optimizer", "schedule")
OWN = ("batch", *OWN_SPECS)

Own = Mapping[str, dict[str, Any]]


def grid(
    labels: Sequence[str],
    patches: Sequence[int],
    seeds: Sequence[int],
    *,
    equal: Equal,
    recipe: str | None,
    given: dict[str, Any],
    own: Own,
    chosen: dict[str, Any],
    place: dict[str, Any],
    runs: Path,
) -> list[Cell]:
    """The cells, seed by seed, so that a grid that is cut short has few seeds of all.

    Args:
        labels: objectives, or names that `own` explains.
        patches: values of n.
        seeds: of each.
        equal: what every cell gets the same of.
        recipe: as in `train`.
        given: settings of all cells, by name; None where the recipe decides.
        own: of a label; `name` says which objective it is, if it is not called so.
        chosen: the data, and what `train` records besides the settings of a recipe.
        place: where the data are and where to compute.
        runs: in which folder the runs are made.

    Raises:
        UsageError: settings that cannot be carried out, or runs that were made with others.
        DataError: no usable images.
    """
    _check(labels, patches, seeds, own)
    fabric = launch(device=place["device"], devices=1, precision=chosen["precision"])
    opened: dict[int | None, ImageSet] = {}
    cells: list[Cell] = []
    for label in labels:
        for n in patches:
            settings = _settings(label, n, recipe, given, own)
            side = settings["image_side"]
            if side not in opened:
                where = {key: place[key] for key in ("data_dir", "download")}
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
                cell = Cell(name, label, n, seed, check_no_links(runs, name), whole, *length, place)
                _check_made(cell, opened[side].fingerprint)
                cells.append(cell)
    return sorted(cells, key=lambda cell: list(seeds).index(cell.seed))


def _check(labels: Sequence[str], patches: Sequence[int], seeds: Sequence[int], own: Own) -> None:
    """Refuse what would give a cell twice, or none."""
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
    """The recipe, under what all cells share, under what the label has of its own."""
    options = dict(own.get(label) or {})
    changes: dict[str, Any] = {key: options.pop(key) for key in OWN if key in options}
    changes["objective"] = {"name": label} | options
    shared = resolve(recipe, given | {"objective": changes["objective"]})
    for key in OWN_SPECS:
        changes[key] = merge(shared[key], changes.get(key))
    return resolve(recipe, given | changes | {"patches": n})


def _length(
    settings: dict[str, Any], fabric: Fabric, images: ImageSet, equal: Equal
) -> tuple[int | None, int, float]:
    """Steps, steps per epoch and GFLOP per patch of a cell, from its network and the images."""
    training = Training.build(settings | {"seed": 0}, fabric, images, time.monotonic())
    training.sampler.close()
    gflop = training.flops_per_view / 1e9
    per_step = settings["patches"] * settings["batch"]
    steps = equal.steps(patches_per_step=per_step, gflop_per_patch=gflop)
    return steps, training.sampler.steps_per_epoch, gflop


def _check_made(cell: Cell, fingerprint: str) -> None:
    """Refuse a run of this name that is another run."""
    if cell.run is None:
        return
    asked, made = decisive(cell.settings), decisive(cell.run.config)
    names = [name for name in differing([asked, made]) if name in asked]
    if names:
        what = ", ".join(f"{name} {made.get(name)}, not {asked[name]}" for name in names[:4])
        raise UsageError(
            f"{cell.path} was made with other settings ({what}); choose another --out, or remove it"
        )
    if cell.run.plan.get("fingerprint", fingerprint) != fingerprint:
        raise UsageError(
            f"{cell.path} was trained on other images than {cell.settings['data']} has now; choose "
            "another --out, or remove it"
        )
