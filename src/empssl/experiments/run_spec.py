"""One run of a comparison, planned or made, and what has become of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from empssl.commands import command, objects_of
from empssl.errors import EmpsslError, UsageError
from empssl.experiments.folder import Folder
from empssl.experiments.protocol import EvalProtocol
from empssl.runs.run import Run


@dataclass(frozen=True)
class RunSpec:
    """One run of a comparison.

    Attributes:
        name: unlike that of any other run.
        label: what it shares with the other values of n and the other seeds.
        n: patches of each image in a step.
        seed: of the run.
        path: its directory.
        settings: as the run records them.
        steps: how many it takes; None where the clock decides.
        steps_per_epoch: of its data.
        gflop_per_patch: of a step, by its patches.
        runtime: where the data are and where to compute.
        made: it was trained elsewhere, and is only scored here.
    """

    name: str
    label: str
    n: int
    seed: int
    path: Path
    settings: dict[str, Any]
    steps: int | None
    steps_per_epoch: int
    gflop_per_patch: float
    runtime: dict[str, Any]
    made: bool = False

    @classmethod
    def of(cls, run: Run, name: str, runtime: dict[str, Any]) -> "RunSpec":
        """The run of a finished run.

        Raises:
            UsageError: it is not finished.
        """
        config, plan = run.config, run.plan
        if run.identity is None:
            again = command(
                "train", {"data": config["data"]},
                {"out": run.path, "resume": True} | objects_of(config),
            )  # fmt: skip
            raise UsageError(
                f"{run.path} is not finished; continue it with `{again}`, or leave it out"
            )
        return cls(
            name, config["objective"]["name"], config["patches"], config["seed"], run.path, config,
            plan["steps"], plan["steps_per_epoch"], plan["gflop_per_patch"],
            runtime, made=True,
        )  # fmt: skip

    @property
    def run(self) -> Run | None:
        """What there is of it on disk."""
        return Run(self.path) if (self.path / "config.yaml").is_file() else None

    @property
    def patches_per_step(self) -> int:
        return self.n * int(self.settings["batch"])

    @property
    def patches(self) -> int | None:
        """All the patches that it sees; None where the clock decides."""
        return None if self.steps is None else self.steps * self.patches_per_step

    @property
    def network(self) -> str:
        """What decides its baselines: those of equal networks are equal."""
        keys = ("backbone", "projector", "whitened", "views", "image_side")
        return str([self.settings.get(key) for key in keys])


RunState = Literal["new", "begun", "trained", "finished", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """A run, and what there is of it.

    Attributes:
        spec: which.
        state: `begun` is half-trained, `trained` has no score yet, `finished` has all of them.
        error: why it failed; empty if it did not.
        last: the metrics of its last step; of a run that is not finished, the last so far.
        scores: its results under the protocol.
        baselines: what its evaluation holds of them.
        must_match: what has to be alike in all that are compared.
        environment: as the run recorded it.
        with_labels: whether labels trained it.
    """

    spec: RunSpec
    state: RunState
    error: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    baselines: list[dict[str, Any]] = field(default_factory=list)
    must_match: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    with_labels: bool = False

    @classmethod
    def of(cls, spec: RunSpec, protocol: EvalProtocol, folder: Folder) -> "RunStatus":
        """Read it; nothing is changed."""
        failure = folder.failure(spec.name)
        try:
            run = spec.run
            if run is None:
                return cls(spec, "failed", failure) if failure else cls(spec, "new")
            return cls._of_run(spec, run, protocol, failure)
        except EmpsslError as error:
            return cls(spec, "failed", str(error))

    @classmethod
    def _of_run(
        cls, spec: RunSpec, run: Run, protocol: EvalProtocol, failure: str | None
    ) -> "RunStatus":
        metrics = run.metrics()
        found = protocol.find(run) if run.identity else None
        state: RunState = "finished" if found else "trained" if run.identity else "begun"
        if failure and not found:
            state = "failed"
        return cls(
            spec, state, (failure or "") if state == "failed" else "",
            metrics[-1] if metrics else {},
            protocol.rows(found["results"]) if found else [],
            protocol.rows(found["baselines"]) if found else [],
            {k: v for k, v in found["protocol"].items() if k != "trained_on"} if found else {},
            run.environment,
            run.needs_labels,
        )  # fmt: skip


def speed(statuses: list[RunStatus], spec: RunSpec) -> float | None:
    """Patches per second to expect of a run, from those of its kind that have been trained.

    Its own kind first, then those of the same n, then any.
    """
    known = [o for o in statuses if o.last.get("seconds")]
    for alike in (
        [o for o in known if (o.spec.label, o.spec.n) == (spec.label, spec.n)],
        [o for o in known if o.spec.n == spec.n],
        known,
    ):
        if alike:
            return float(alike[0].last["patches"] / alike[0].last["seconds"])
    return None
