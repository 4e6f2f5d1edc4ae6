"""What a grid would do: the runs, and what each costs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from empssl.experiments.grid import EqualBudget
from empssl.experiments.run_spec import RunState, RunStatus, speed
from empssl.reports.charts import duration, numeral

TODO: dict[RunState, str] = {
    "new": "train, score", "begun": "continue, score", "trained": "score", "failed": "try again",
    "finished": "done",
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """One run.

    Attributes:
        name: of the run.
        state: where it stands.
        batch: images in a step.
        steps, patches, pflop, epochs: in all; None where the clock decides.
        seconds: of training in all, by the speed of runs that have been trained; None without.
    """

    name: str
    state: RunState
    batch: int
    steps: int | None
    epochs: float | None
    patches: int | None
    pflop: float | None
    seconds: float | None


@dataclass(frozen=True)
class Forecast:
    """All runs, in the order in which they would be carried out."""

    specs: Sequence[Estimate]

    @classmethod
    def of(cls, statuses: Sequence[RunStatus], equal: EqualBudget | None) -> "Forecast":
        return cls([_estimate(status, list(statuses), equal) for status in statuses])

    def to_json(self) -> str:
        return json.dumps([asdict(spec) for spec in self.specs], indent=1)

    def table(self) -> str:
        """A line for each run, for a person."""
        width = max(len(spec.name) for spec in self.specs)
        numbers = ("steps", "epochs", "patches", "PFLOP", "seconds")
        lines = [f"{'cell':{width}}  {'to do':15} {'batch':>5}"
                 + "".join(f" {name:>10}" for name in numbers)]  # fmt: skip
        for spec in self.specs:
            values = (spec.steps, spec.epochs, spec.patches, spec.pflop, spec.seconds)
            written = "".join(f" {numeral(value):>10}" for value in values)
            lines.append(f"{spec.name:{width}}  {TODO[spec.state]:15} {spec.batch:5}{written}")
        left = [spec for spec in self.specs if spec.state in ("new", "begun", "failed")]
        known = [spec.seconds for spec in left if spec.seconds is not None]
        lines.append(f"{len(left)} of {len(self.specs)} runs to train")
        if left and len(known) == len(left):
            lines[-1] += f": at most {duration(sum(known))}, scoring apart"
        return "\n".join(lines)


def _estimate(status: RunStatus, statuses: list[RunStatus], equal: EqualBudget | None) -> Estimate:
    spec = status.spec
    seconds, rate = None, speed(statuses, spec)
    if status.state in ("trained", "finished"):
        seconds = status.last["seconds"]
    elif equal is not None and equal.what == "seconds":
        seconds = equal.amount
    elif rate is not None and spec.patches is not None:
        seconds = spec.patches / rate
    return Estimate(
        spec.name, status.state, int(spec.settings["batch"]), spec.steps,
        None if spec.steps is None else spec.steps / spec.steps_per_epoch, spec.patches,
        None if spec.patches is None else spec.patches * spec.gflop_per_patch / 1e6, seconds,
    )  # fmt: skip
