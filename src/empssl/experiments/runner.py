"""Carrying out a run: train what is not trained, score what is not scored."""

import gc
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from empssl.errors import CheckpointError, EmpsslError, RunInUseError, StoppedError
from empssl.evaluation.evaluate import evaluate
from empssl.experiments.folder import Folder
from empssl.experiments.protocol import EvalProtocol
from empssl.experiments.run_spec import RunSpec
from empssl.progress import log, say
from empssl.training.train import train


def run_job(
    spec: RunSpec, specs: Sequence[RunSpec], protocol: EvalProtocol, folder: Folder
) -> bool:
    """Do what is left of a run: `alone`, with one run of each network for the baselines.

    Args:
        spec: which.
        specs: all of them.
        protocol: how to score.
        folder: of the comparison.

    Returns:
        False if another process is at work on it.

    Raises:
        StoppedError: the user or the system asked to stop.
    """

    def work() -> None:
        make(spec)
        _score(spec, specs, protocol)

    return with_lock(spec.name, folder, work)


def with_lock(name: str, folder: Folder, work: Callable[[], None]) -> bool:
    """Work on a run that no other process works on.

    An error is written down, and is no reason to stop the others.

    Returns:
        False if another process is at work on it.

    Raises:
        StoppedError: the user or the system asked to stop.
    """
    try:
        with folder.claim(name):
            if not folder.failed_since(name):
                folder.clear_failure(name)
                _attempt(name, folder, work)
    except RunInUseError:
        return False
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _attempt(name: str, folder: Folder, work: Callable[[], None]) -> None:
    try:
        work()
    except (StoppedError, RunInUseError):
        raise
    except Exception as error:  # a bug in one objective should not cost the night's other runs
        if not isinstance(error, EmpsslError):
            log(traceback.format_exc())
        folder.fail(name, f"{type(error).__name__}: {error}")
        say(f"{name} failed: {error}")


def make(spec: RunSpec) -> None:
    """Train from the last checkpoint there is; without one, from the start."""
    if spec.made or (spec.run is not None and spec.run.identity is not None):
        return
    resume = False
    if spec.run is not None:
        try:
            spec.run.load_checkpoint(files=())
            resume = True
        except CheckpointError as error:
            say(f"{error}; it starts again")
    say(f"{'continuing' if resume else 'training'} {spec.name}")
    train(
        out=spec.path, resume=resume, overwrite=spec.run is not None and not resume,
        **spec.settings, **spec.runtime,
    )  # fmt: skip


def _score(spec: RunSpec, specs: Sequence[RunSpec], protocol: EvalProtocol) -> None:
    """Evaluate, unless that is done; with baselines, unless an equal network has them."""
    run = spec.run
    assert run is not None
    found = protocol.find(run)
    baselines = not has_baselines(spec, specs, protocol)
    if found is None or baselines:
        say(f"scoring {spec.name}{' and its baselines' if baselines else ''}")
        made = evaluate(
            run.path, protocol.data, probes=protocol.probes, crops=[protocol.crops],
            train_size=protocol.train_size, baselines=baselines, **spec.runtime,
        )  # fmt: skip
        if made.unkept:  # the table is made of what the run's directory has
            raise CheckpointError(made.unkept)


def is_done(spec: RunSpec, specs: Sequence[RunSpec], protocol: EvalProtocol) -> bool:
    """Whether nothing is left to do for a run."""
    return _found(spec, protocol) is not None and has_baselines(spec, specs, protocol)


def has_baselines(spec: RunSpec, specs: Sequence[RunSpec], protocol: EvalProtocol) -> bool:
    """Whether the baselines of a run's network have been scored, in whichever run."""
    alike = [_found(other, protocol) for other in specs if other.network == spec.network]
    return any(found is not None and found["baselines"] for found in alike)


def _found(spec: RunSpec, protocol: EvalProtocol) -> dict[str, Any] | None:
    """A run's evaluation, if there is one; a damaged run has none."""
    try:
        return protocol.find(spec.run) if spec.run and spec.run.identity else None
    except EmpsslError:
        return None
