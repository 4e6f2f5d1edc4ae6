"""What has become of a cell, as its run directory tells."""

from dataclasses import dataclass, field
from typing import Any, Literal

from empssl.comparison.cell import Cell
from empssl.comparison.folder import Folder
from empssl.comparison.protocol import Protocol
from empssl.errors import EmpsslError
from empssl.run import Run

State = Literal["new", "begun", "trained", "finished", "failed"]


@dataclass(frozen=True)
class Outcome:
    """A cell, and what there is of it.

    Attributes:
        cell: which.
        state: `begun` is half-trained, `trained` has no score yet, `finished` has all of them.
        error: why it failed; empty if it did not.
        last: the metrics of its last step; of a run that is not finished, the last so far.
        scores: its results under the protocol.
        baselines: what its evaluation holds of them.
        ground: what has to be alike in all that are compared.
        environment: as the run recorded it.
        with_labels: whether labels trained it.
    """

    cell: Cell
    state: State
    error: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    baselines: list[dict[str, Any]] = field(default_factory=list)
    ground: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    with_labels: bool = False

    @classmethod
    def of(cls, cell: Cell, protocol: Protocol, folder: Folder) -> "Outcome":
        """Read it; nothing is changed."""
        failure = folder.failure(cell.name)
        try:
            run = cell.run
            if run is None:
                return cls(cell, "failed", failure) if failure else cls(cell, "new")
            return cls._of_run(cell, run, protocol, failure)
        except EmpsslError as error:
            return cls(cell, "failed", str(error))

    @classmethod
    def _of_run(cls, cell: Cell, run: Run, protocol: Protocol, failure: str | None) -> "Outcome":
        metrics = run.metrics()
        found = protocol.find(run) if run.identity else None
        state: State = "finished" if found else "trained" if run.identity else "begun"
        if failure and not found:
            state = "failed"
        return cls(
            cell, state, (failure or "") if state == "failed" else "",
            metrics[-1] if metrics else {},
            protocol.rows(found["results"]) if found else [],
            protocol.rows(found["baselines"]) if found else [],
            {k: v for k, v in found["protocol"].items() if k != "trained_on"} if found else {},
            run.environment,
            run.needs_labels,
        )  # fmt: skip


def speed(outcomes: list[Outcome], cell: Cell) -> float | None:
    """Patches per second to expect of a cell, from those of its kind that have been trained.

    Its own kind first, then those of the same n, then any.
    """
    known = [o for o in outcomes if o.last.get("seconds")]
    for alike in (
        [o for o in known if (o.cell.label, o.cell.n) == (cell.label, cell.n)],
        [o for o in known if o.cell.n == cell.n],
        known,
    ):
        if alike:
            return float(alike[0].last["patches"] / alike[0].last["seconds"])
    return None
