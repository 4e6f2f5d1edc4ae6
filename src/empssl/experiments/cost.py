"""What a grid would do: the cells, and what each costs."""

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
    """One cell.

    Attributes:
        name: of the cell.
        state: where it stands.
        batch: images in a step.
        steps, patches, pflop, epochs: in all; None where the clock decides.
        seconds: of training in all, by the speed of cells that have been trained; None without.
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
    """All cells, in the order in which they would be carried out."""

    cells: Sequence[Estimate]

    @classmethod
    def of(cls, outcomes: Sequence[RunStatus], equal: EqualBudget | None) -> "Forecast":
        return cls([_estimate(outcome, list(outcomes), equal) for outcome in outcomes])

    def to_json(self) -> str:
        return json.dumps([asdict(cell) for cell in self.cells], indent=1)

    def table(self) -> str:
        """A line for each cell, for a person."""
        width = max(len(cell.name) for cell in self.cells)
        numbers = ("steps", "epochs", "patches", "PFLOP", "seconds")
        lines = [f"{'cell':{width}}  {'to do':15} {'batch':>5}"
                 + "".join(f" {name:>10}" for name in numbers)]  # fmt: skip
        for cell in self.cells:
            values = (cell.steps, cell.epochs, cell.patches, cell.pflop, cell.seconds)
            written = "".join(f" {numeral(value):>10}" for value in values)
            lines.append(f"{cell.name:{width}}  {TODO[cell.state]:15} {cell.batch:5}{written}")
        left = [cell for cell in self.cells if cell.state in ("new", "begun", "failed")]
        known = [cell.seconds for cell in left if cell.seconds is not None]
        lines.append(f"{len(left)} of {len(self.cells)} cells to train")
        if left and len(known) == len(left):
            lines[-1] += f": at most {duration(sum(known))}, scoring apart"
        return "\n".join(lines)


def _estimate(outcome: RunStatus, outcomes: list[RunStatus], equal: EqualBudget | None) -> Estimate:
    cell = outcome.cell
    seconds, rate = None, speed(outcomes, cell)
    if outcome.state in ("trained", "finished"):
        seconds = outcome.last["seconds"]
    elif equal is not None and equal.what == "seconds":
        seconds = equal.amount
    elif rate is not None and cell.patches is not None:
        seconds = cell.patches / rate
    return Estimate(
        cell.name, outcome.state, int(cell.settings["batch"]), cell.steps,
        None if cell.steps is None else cell.steps / cell.steps_per_epoch, cell.patches,
        None if cell.patches is None else cell.patches * cell.gflop_per_patch / 1e6, seconds,
    )  # fmt: skip
