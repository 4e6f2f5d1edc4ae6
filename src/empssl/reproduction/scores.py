"""What was seen of a run's networks, on disk: scores/RUN/LOOK.json, a file a set of features."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from empssl import checkpoint
from empssl.comparison.cell import Cell
from empssl.comparison.execution import make, say
from empssl.evaluation import Probe, evaluate
from empssl.reproduction.map import placed
from empssl.reproduction.plan import Look
from empssl.run import Run
from empssl.storage import replace, writing


class Scores:
    """The scores of all runs of a reproduction.

    Args:
        path: of the reproduction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "scores"

    def find(self, cell: Cell, look: Look) -> dict[str, Any] | None:
        """What was seen, if it is of the network that is there now."""
        run = cell.run
        file = self.path / cell.name / f"{look.key}.json"
        if run is None or run.identity is None or not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_bytes())
        if found["model"] != _identity(run, look.epoch):
            return None
        return found if look.probe is None or look.probe in found["probes"] else None

    def missing(self, cell: Cell, looks: Sequence[Look]) -> list[Look]:
        return [look for look in looks if self.find(cell, look) is None]

    def complete(self, cell: Cell, looks: Sequence[Look]) -> None:
        """Train what is not trained, and look at it where that was not done."""
        make(cell)
        run = cell.run
        assert run is not None
        left = self.missing(cell, looks)
        for key in dict.fromkeys(look.key for look in left):
            alike = [look for look in looks if look.key == key]  # found ones too: written anew
            look = alike[0]
            say(f"looking at {cell.name}: {key}")
            if look.probe is None:
                content = placed(run, look.on, look.epoch, look.crops, cell.place)
            else:
                probes: list[Probe] = [look.probe for look in alike if look.probe]
                options = cell.place | {"epoch": look.epoch, "baselines": False}
                found = evaluate(run.path, look.on, probes=probes, crops=[look.crops], **options)
                content = asdict(found) | {"probes": probes}
            content |= {"model": _identity(run, look.epoch)}
            folder = self.path / cell.name
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            replace(folder / f"{key}.json", json.dumps(content) + "\n")


def _identity(run: Run, epoch: float | None) -> str | None:
    return run.identity if epoch is None else checkpoint.identity(run.epoch(epoch))
