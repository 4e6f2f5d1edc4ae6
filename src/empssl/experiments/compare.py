"""Runs in one table: those that there are, or a grid of objectives, n and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empssl.config import Spec
from empssl.device import Precision
from empssl.errors import (
    OR_PLUGIN,
    FailedRunsError,
    RunInUseError,
    StoppedError,
    UsageError,
    nearest,
)
from empssl.evaluation.evaluate import PROBES, Probe
from empssl.experiments.cost import Forecast
from empssl.experiments.folder import Folder
from empssl.experiments.grid import EqualBudget, grid
from empssl.experiments.previous_table import PreviousTable
from empssl.experiments.protocol import EvalProtocol, check_alike
from empssl.experiments.report import page
from empssl.experiments.results import Comparison
from empssl.experiments.run_spec import RunSpec, RunStatus
from empssl.experiments.runner import is_done, run_job
from empssl.progress import say
from empssl.runs.run import Run
from empssl.types import Split

__all__ = ["Comparison", "Forecast", "compare"]


def compare(
    runs: Sequence[str | Path] = (),
    *,
    data: str,
    out: str | Path,
    objectives: Sequence[str] = (),
    patches: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    equal: str | None = None,
    recipe: str | None = None,
    batch: int | None = None,
    image_side: int | None = None,
    views: Spec | str | None = None,
    backbone: Spec | str | None = None,
    projector: Spec | str | None = None,
    whitened: int | Spec | str | None = None,
    optimizer: Spec | str | None = None,
    schedule: Spec | str | None = None,
    set: Mapping[str, dict[str, Any]] | None = None,  # noqa: A002 (what it does)
    split: Split = "train",
    probes: Sequence[Probe] = ("linear", "knn"),
    crops: str = "grid3",
    train_size: int | None = None,
    dry_run: bool = False,
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
) -> Comparison | Forecast:
    """Put runs in one table: those that are given, or a grid that is trained and scored first.

    A grid goes on where it was stopped: runs that are finished are left alone, one that is
    half-trained continues, one that failed is tried again, and its failure does not stop the
    others. Several processes may work on one grid. The files are written again after every run,
    but never with less in them: a table that shows more runs or probes than are asked for, or
    scores of another protocol, is kept.

    Args:
        runs: run directories, instead of a grid. Those without a score of this protocol are
            scored; runs of different data are refused.
        data: what to train and to score on, as in `train`; it must have labels.
        out: a directory for compare.json, compare.md and compare.html, and the runs of a grid.
        objectives: of a grid; as in `train`, or names that --set explains.
        patches: of a grid; patches of each image in a step, n in the paper.
        seeds: of a grid.
        equal: what every run of a grid gets the same of: patches=216000, pflop=0.02 or
            seconds=60. The batch is held fixed, so that fewer patches mean more images.
        recipe: demo, fast, laptop (the default), paper or official. It decides what is not given.
        batch: images in a step.
        image_side: as in `train`.
        views: as in `train`, for all runs.
        backbone: as in `train`, for all runs.
        projector: as in `train`, for all runs.
        whitened: as in `train`, for all runs.
        optimizer: as in `train`, for all runs.
        schedule: as in `train`, for all runs.
        set: what an objective has of its own, as YAML by objective: its options, and where given
            batch, views, projector, optimizer and schedule. A name that is no objective says with
            `name` which it is: '{weak: {name: emp, invariance_weight: 20, optimizer: {lr: 0.1}}}'.
        split: as in `train`.
        probes: as in `evaluate`.
        crops: as in `evaluate`.
        train_size: as in `evaluate`; a few thousand rank runs much as all of them do.
        dry_run: only say what would be done, and what it costs.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.
        precision: as in `train`.

    Returns:
        The table, or with `dry_run` the runs and their costs.

    Raises:
        UsageError: settings that cannot be carried out, runs that cannot stand in one table, or a
            table at `out` that shows what the new one would lack.
        CellsFailedError: runs failed; the others are in the table.
        RunInUseError: another process is at work on runs that the table lacks.
        StoppedError: Ctrl-C or SIGTERM came; the same command goes on.
    """
    for probe in probes:
        if probe not in PROBES:
            raise UsageError(f"no probe '{probe}': {nearest(probe, PROBES)}; {OR_PLUGIN}")
    runs = [runs] if isinstance(runs, str | Path) else runs
    if bool(runs) == bool(objectives) or (runs and (patches or equal or set)):
        raise UsageError(
            "give either runs to compare, or --objectives, --patches and --equal of a grid"
        )
    protocol, folder = EvalProtocol(data, tuple(probes), crops, train_size), Folder(out)
    runtime = {"data_dir": data_dir, "download": download, "device": device}
    amount = None
    if runs:
        specs = _made(runs, runtime)
    else:
        if equal is None:
            raise UsageError(
                "a grid needs --equal: what every run gets the same of, such as patches=216000, "
                "pflop=0.02 or seconds=60"
            )
        amount = EqualBudget.parse(equal)
        given = {
            "batch": batch, "image_side": image_side, "views": views, "backbone": backbone,
            "projector": projector, "whitened": whitened, "optimizer": optimizer,
            "schedule": schedule,
        }  # fmt: skip
        chosen = {"data": data, "split": split, "precision": precision, "memory": "auto"}
        specs = grid(
            objectives, patches, seeds, equal=amount, recipe=recipe, given=given, own=set or {},
            chosen=chosen, runtime=runtime, runs=folder.runs,
        )  # fmt: skip
    if dry_run:
        return Forecast.of([RunStatus.of(spec, protocol, folder) for spec in specs], amount)
    return _carried_out(specs, protocol, amount, folder)


def _made(runs: Sequence[str | Path], runtime: dict[str, Any]) -> list[RunSpec]:
    """The runs of runs that there are.

    Raises:
        UsageError: one is given twice, is not finished, or has other data than the first.
    """
    found = [Run(path) for path in runs]
    places = [run.path.resolve() for run in found]
    names = [place.name for place in places]
    for run, at in zip(found, places, strict=True):
        if places.count(at) > 1:
            raise UsageError(f"{run.path} is given twice")
    specs = [
        RunSpec.of(run, name if names.count(name) == 1 else str(run.path), runtime)
        for run, name in zip(found, names, strict=True)
    ]
    check_alike(
        {
            spec.name: {
                "data": Path(spec.settings["data"]).name,
                "split": spec.settings["split"],
                "fingerprint": run.plan["fingerprint"],
                "image_side": run.plan["image_side"],
            }
            for spec, run in zip(specs, found, strict=True)
        },
        "trained",
    )
    return specs


def _carried_out(
    specs: Sequence[RunSpec], protocol: EvalProtocol, equal: EqualBudget | None, folder: Folder
) -> Comparison:
    """Do all that is left, writing down after every run what there is.

    Raises:
        UsageError, CellsFailedError, RunInUseError, StoppedError: as `compare`.
    """
    before = PreviousTable.of(folder)
    before.check(specs, protocol)

    def written() -> Comparison:
        statuses = [RunStatus.of(spec, protocol, folder) for spec in specs]
        result = Comparison.of(statuses, protocol, equal, folder)
        if not before.lost(statuses):
            folder.write(record=result.to_json(), table=result.table(), page=page(result))
        return result

    left = [spec for spec in specs if not is_done(spec, specs, protocol)]
    try:
        while left:
            busy = []
            for number, spec in enumerate(left):
                say(f"run {number + 1} of {len(left)}, {spec.name}")
                if run_job(spec, specs, protocol, folder):
                    written()
                else:
                    busy.append(spec)
            if len(busy) == len(left):
                break
            left = busy
    except (StoppedError, KeyboardInterrupt) as error:
        code = error.exit_code if isinstance(error, StoppedError) else 130
        raise StoppedError(f"stopped at {spec.name}; the same command goes on", code) from error
    result = written()
    lost = before.lost(result.statuses)
    if result.failed:
        names = ", ".join(status.spec.name for status in result.failed)
        where = f"{folder.page_path} says why, and has the others"
        if lost:
            where = f"{folder.page_path} shows scores of {', '.join(lost)} from before, and is kept"
            where = "; ".join([*result.failures, where])
        raise FailedRunsError(f"{len(result.failed)} of {len(specs)} runs failed: {names}; {where}")
    if result.missing:
        names = ", ".join(status.spec.name for status in result.missing)
        raise RunInUseError(
            f"another process is at work on {names}; it completes {folder.page_path}"
        )
    return result
