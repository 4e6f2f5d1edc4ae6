"""A cell of a comparison: one run, to be made or made already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl.errors import UsageError
from empssl.run import Run


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: unlike that of any other cell.
        label: what it shares with the other values of n and the other seeds.
        n: patches of each image in a step.
        seed: of the run.
        path: its directory.
        settings: as the run records them.
        steps: how many it takes; None where the clock decides.
        steps_per_epoch: of its data.
        gflop_per_patch: of a step, by its patches.
        place: where the data are and where to compute.
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
    place: dict[str, Any]
    made: bool = False

    @classmethod
    def of(cls, run: Run, name: str, place: dict[str, Any]) -> "Cell":
        """The cell of a finished run.

        Raises:
            UsageError: it is not finished.
        """
        config, plan = run.config, run.plan
        if run.identity is None:
            raise UsageError(
                f"{run.path} is not finished; continue it with `empssl train {config['data']} "
                f"--out {run.path} --resume`, or leave it out"
            )
        return cls(
            name, config["objective"]["name"], config["patches"], config["seed"], run.path, config,
            plan["steps"], plan["steps_per_epoch"], plan["gflop_per_patch"],
            place, made=True,
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
