"""The protocol of a comparison: which scores count, and what all runs must have alike."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from empssl.errors import UsageError
from empssl.evaluation.evaluate import Probe, evaluate
from empssl.evaluation.results import is_whitened
from empssl.models import LAYERS, VIEW_LAYERS, Layer
from empssl.runs.run import Run

SEED: int = inspect.signature(evaluate).parameters["seed"].default  # of every evaluation here


@dataclass(frozen=True)
class EvalProtocol:
    """What is asked of every run.

    Attributes:
        data: what is scored on.
        probes: as in `evaluate`.
        crops: as in `evaluate`.
        train_size: as in `evaluate`.
    """

    data: str
    probes: tuple[Probe, ...]
    crops: str
    train_size: int | None = None

    def layers(self, run: Run) -> tuple[Layer, ...]:
        """Where a run's network is probed: everywhere."""
        return LAYERS if run.config.get("whitened") else VIEW_LAYERS

    def find(self, run: Run) -> dict[str, Any] | None:
        """The run's evaluation, if every score that is asked for is there, of its last weights.

        Of several, one with baselines, and of those one with the most layers.
        """
        complete = []
        asked = {(probe, layer) for probe in self.probes for layer in self.layers(run)}
        for evaluation in run.evaluations():
            rows = self.rows(evaluation["results"])
            found = {(r["probe"], r["layer"]) for r in rows if r["model"] == run.identity}
            known = evaluation["protocol"]
            if (
                evaluation["dataset"] == self.data and asked <= found
                and (known["seed"], known["epoch"]) == (SEED, "last")
                and known.get("train_size") == self.train_size 
                and known.get("test_data") is None
            ):  # fmt: skip
                complete.append(evaluation)
        return max(
            complete,
            key=lambda found: (bool(found["baselines"]), len(self.rows(found["results"]))),
            default=None,
        )

    def rows(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results by the probes that are asked for, at any layer.

        Whitened patches are of the whole image, whatever crops are asked for.
        """
        return [
            row for row in results
            if row["probe"] in self.probes
            and (row["crops"] == self.crops or is_whitened(row["model"]))
        ]  # fmt: skip


def check_alike(facts: dict[str, dict[str, Any]], what: str) -> None:
    """See that what holds for one run holds for all.

    Args:
        facts: by run, what has to be alike.
        what: what was done there, for the message.

    Raises:
        UsageError: it differs; a table of both would compare what cannot be compared.
    """
    names = list(facts)
    for name in names[1:]:
        for key, value in facts[names[0]].items():
            other = facts[name].get(key)
            if other != value:
                raise UsageError(
                    f"{names[0]} and {name} were {what} differently: {key} is {value} and {other}; "
                    "one table cannot hold both"
                )
