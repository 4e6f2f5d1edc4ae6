"""What was seen of a run's networks, on disk: scores/RUN/LOOK.json, a file a set of features.

scores/untrained/*.json hold what was seen without any training.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from empssl import checkpoint
from empssl.comparison.cell import Cell
from empssl.comparison.execution import make
from empssl.comparison.protocol import SEED
from empssl.console import say
from empssl.data import open_images
from empssl.evaluation import Probe, evaluate
from empssl.evaluation.features import labeled_images, whitened_features
from empssl.evaluation.ridge import ridge_probe
from empssl.models.whitened_patches import WhitenedPatches
from empssl.records import Accuracy, Seen
from empssl.reproduction.map import placed
from empssl.reproduction.plan import Look
from empssl.reproduction.untrained import Untrained
from empssl.run import Run
from empssl.schema import read_json
from empssl.storage import check_no_links, replace, writing


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
        file = check_no_links(self.path, cell.name) / f"{look.key}.json"
        if run is None or run.identity is None or not file.exists():
            return None
        found: dict[str, Any] = read_json(file, Seen)
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
            folder = check_no_links(self.path, cell.name)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            replace(folder / f"{key}.json", json.dumps(content) + "\n")

    def begin(self, it: Untrained) -> None:
        """Score what needs no training. Whitened patches are the same for all networks."""
        say(f"looking at what needs no training: {it.look.key}")
        run, look, place = it.cell.run, it.look, it.cell.place
        assert run is not None
        assert look.probe is not None
        found = evaluate(
            run.path, look.on, probes=[look.probe], layers=[it.layer], crops=[look.crops],
            epoch=look.epoch, baselines=False, **place,
        )  # fmt: skip
        self._keep(it.name, found.results[0].accuracy)
        side = run.plan["image_side"]
        if self._kept(name := _whitened(look, side)) is None:
            where = {key: place[key] for key in ("data_dir", "download")}
            train, test = (
                labeled_images(open_images(look.on, split=split, side=side, **where))[0]
                for split in ("train", "test")
            )
            patches = WhitenedPatches().fit(train.pixels, seed=SEED)
            x, test_x = (whitened_features(patches, images) for images in (train, test))
            assert train.labels is not None
            assert test.labels is not None
            self._keep(name, ridge_probe(x, train.labels, test_x, test.labels).accuracy)

    def begun(self, it: Untrained) -> tuple[float, float] | None:
        """Accuracy with the weights of the beginning, and of whitened patches; None before that."""
        run = it.cell.run
        if run is None or (random := self._kept(it.name)) is None:
            return None
        whitened = self._kept(_whitened(it.look, run.plan["image_side"]))
        return None if whitened is None else (random, whitened)

    def _keep(self, name: str, accuracy: float) -> None:
        folder = check_no_links(self.path, "untrained")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        replace(folder / f"{name}.json", json.dumps({"accuracy": accuracy}) + "\n")

    def _kept(self, name: str) -> float | None:
        file = check_no_links(self.path, "untrained") / f"{name}.json"
        return float(read_json(file, Accuracy)["accuracy"]) if file.exists() else None


def _whitened(look: Look, side: int) -> str:
    return f"whitened-{look.data}-{side}"


def _identity(run: Run, epoch: float | None) -> str | None:
    return run.identity if epoch is None else checkpoint.identity(run.epoch(epoch))
