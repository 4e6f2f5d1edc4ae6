"""A comparison: all runs as they stand, with all that their numbers depend on."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from empssl._version import __version__
from empssl.experiments.folder import Folder
from empssl.experiments.grid import EqualBudget, decisive
from empssl.experiments.protocol import SEED, EvalProtocol, check_alike
from empssl.experiments.run_spec import RunStatus
from empssl.experiments.table import ComparisonTable
from empssl.progress import preformatted, visible
from empssl.reports.charts import numeral

# What seconds depend on besides the method.
_PACE = {"device": "devices", "threads": "numbers of threads", "precision": "precisions"}


@dataclass(frozen=True, repr=False)
class Comparison:
    """What a comparison found so far.

    Attributes:
        folder: where it is.
        protocol: how everything was scored.
        equal: what the runs got the same of; None for runs that were made elsewhere.
        statuses: a run each.
        rows: the same, over seeds.
    """

    folder: Folder
    protocol: EvalProtocol
    equal: EqualBudget | None
    statuses: Sequence[RunStatus]
    rows: ComparisonTable

    @classmethod
    def of(
        cls,
        statuses: Sequence[RunStatus],
        protocol: EvalProtocol,
        equal: EqualBudget | None,
        folder: Folder,
    ) -> "Comparison":
        """All outcomes in one table.

        Raises:
            UsageError: they were not scored alike.
        """
        check_alike({o.spec.name: o.must_match for o in statuses if o.must_match}, "scored")
        return cls(folder, protocol, equal, statuses, ComparisonTable.of(statuses))

    @property
    def failed(self) -> list[RunStatus]:
        return [status for status in self.statuses if status.state == "failed"]

    @property
    def missing(self) -> list[RunStatus]:
        """Those that are neither finished nor failed."""
        return [o for o in self.statuses if o.state not in ("finished", "failed")]

    @property
    def failures(self) -> list[str]:
        """Which runs failed, and why, in a line each."""
        return [visible(f"{o.spec.name} failed: {o.error}") for o in self.failed]

    @property
    def notices(self) -> list[str]:
        """What a reader of the table has to know, in sentences."""
        found = []
        if self.failed:
            found.append(
                f"{len(self.failed)} of {len(self.statuses)} runs failed; below the table is why."
            )
        if self.missing:
            names = ", ".join(status.spec.name for status in self.missing)
            found.append(f"Not finished yet: {names}.")
        if labels := _distinct(o.spec.label for o in self.statuses if o.with_labels):
            found.append(f"Trained with labels: {', '.join(labels)}.")
        if saw := [
            status.spec.name for status in self.statuses if status.must_match.get("saw_test")
        ]:
            found.append(f"Trained on test images too: {', '.join(saw)}.")
        for key, what in _PACE.items():
            values = _distinct(status.environment.get(key) for status in self.statuses)
            if len(values) > 1:
                found.append(
                    f"Trained with different {what} ({'; '.join(values)}): compare seconds with "
                    "care."
                )
        return found

    @property
    def about(self) -> list[str]:
        """What the numbers mean, in sentences."""
        done = [status for status in self.statuses if status.scores]
        sizes = done[0].scores[0] if done else None
        scored = f"Percent of the test images of {self.protocol.data} put in their class"
        if sizes:
            scored = (
                f"Percent of {numeral(sizes['test_size'])} test images of {self.protocol.data} put "
                f"in their class, learned from {numeral(sizes['train_size'])} train images"
            )
        found = [
            f"{scored}; frozen encoder, last epoch, {self.protocol.crops} crops. Means and ranges "
            "over seeds."
        ]
        if self.equal is not None:
            how = "start-up included" if self.equal.what == "seconds" else "to within a step"
            found.append(
                f"Every run was given {self.equal.words}, {how}. The batch is held fixed, so that "
                "fewer patches of an image mean more images."
            )
        found.append(
            "Seconds are those of the training steps, start-up apart. Whitened patches have no "
            "layers: one number stands in every column of the probe that it is by."
        )
        return found

    @property
    def versions(self) -> dict[str, list[str]]:
        """Hardware and versions of the trained runs."""
        keys = ("device", "threads", "precision", "empssl", "torch", "python", "system")
        return {
            key: values for key in keys
            if (values := _distinct(status.environment.get(key) for status in self.statuses))
        }  # fmt: skip

    def to_json(self) -> str:
        """Every number of every run, with all that it depends on."""
        record = {
            "data": self.protocol.data,
            "equal": None if self.equal is None else asdict(self.equal),
            "protocol": {"probes": self.protocol.probes, "crops": self.protocol.crops,
                         "train_size": self.protocol.train_size, "seed": SEED,
                         "epoch": "last", "frozen": True},
            "empssl": __version__,
            "commit": _commit(),
            "versions": self.versions,
            "notices": self.notices,
            "columns": self.rows.columns,
            "rows": [asdict(row) for row in self.rows.rows],
            "baselines": [asdict(row) for row in self.rows.baselines],
            "cells": [_record(status) for status in self.statuses],
        }  # fmt: skip
        return json.dumps(record, indent=1)

    def __repr__(self) -> str:
        done = len(self.statuses) - len(self.failed) - len(self.missing)
        return f"<Comparison on {self.protocol.data}: {done} of {len(self.statuses)} runs>"

    def _repr_html_(self) -> str:
        return preformatted(self.rows.text())

    def table(self) -> str:
        """As Markdown."""
        parts = [self.rows.text(), *self.failures, *self.about, *self.notices]
        hardware = "; ".join(f"{key} {', '.join(v)}" for key, v in self.versions.items())
        return "\n\n".join([*parts, hardware] if hardware else parts)


def _record(status: RunStatus) -> dict[str, Any]:
    spec = status.spec
    return {
        "name": spec.name, "label": spec.label, "n": spec.n, "seed": spec.seed,
        "state": status.state, "error": status.error or None,
        "patches": status.last.get("patches"), "pflop": status.last.get("pflop"),
        "seconds": status.last.get("seconds"), "epochs": status.last.get("epoch"),
        "steps": status.last["step"] + 1 if status.last else 0,
        "last_step": status.last,
        "scores": status.scores, "baselines": status.baselines, "scored": status.must_match,
        "settings": decisive(spec.settings), "environment": status.environment,
    }  # fmt: skip


def _distinct(values: Any) -> list[str]:
    return [str(value) for value in dict.fromkeys(values) if value is not None]


def _commit() -> str | None:
    """The commit of this program, if it runs from a checkout of its own."""
    home = Path(__file__).resolve().parents[3]
    if not (home / "pyproject.toml").exists():
        return None
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return None
    return done.stdout.strip() or None
