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
from empssl.data import Decoding, Split, open_images
from empssl.data.value_range import DEFAULT_DECODING
from empssl.evaluation import PROBES, Probe, evaluate
from empssl.evaluation.features import labeled_images, whitened_features
from empssl.models import VIEW_LAYERS
from empssl.models.whitened_patches import WhitenedPatches
from empssl.records import Accuracies, Seen
from empssl.reproduction.map import placed
from empssl.reproduction.plan import Look
from empssl.reproduction.untrained import Baseline, Untrained
from empssl.run import Run
from empssl.schema import read_json
from empssl.storage import check_no_links, replace, writing

NO_LAYER = "none"


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
                found = evaluate(
                    run.path, look.on, probes=probes, crops=[look.crops], epoch=look.epoch,
                    train_size=look.train_size, baselines=False, **cell.place,
                )  # fmt: skip
                content = asdict(found) | {"probes": probes}
            content |= {"model": _identity(run, look.epoch)}
            folder = check_no_links(self.path, cell.name)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            replace(folder / f"{key}.json", json.dumps(content) + "\n")

    def begin(self, it: Untrained) -> None:
        """Score what needs no training. Whitened patches are the same for all networks."""
        say(f"looking at what needs no training: {it.look.key}, {it.look.probe}")
        run, look, place = it.cell.run, it.look, it.cell.place
        assert run is not None
        assert look.probe is not None
        found = evaluate(
            run.path, look.on, probes=[look.probe], crops=[look.crops], epoch=look.epoch,
            train_size=look.train_size, baselines=False, **place,
        )  # fmt: skip
        self._keep(it.name, {row.layer: row.accuracy for row in found.results})
        if self._kept(it.whitened) is None:
            decoding = Decoding.recorded(run.plan.get("decoding", {}))
            self._keep(it.whitened, {NO_LAYER: _whitened(it, run.plan["image_side"], decoding)})

    def begun(self, it: Untrained) -> list[Baseline]:
        """What was scored, a row for each layer; without scores before that."""
        look, run = it.look, it.cell.run
        assert look.probe is not None
        random = self._kept(it.name) if run is not None else None
        whitened = (self._kept(it.whitened) or {}).get(NO_LAYER)
        return [
            Baseline(
                it.on, look.probe, layer, look.crops, look.train_size, (random or {}).get(layer),
                whitened,
            )
            for layer in (random or VIEW_LAYERS)
        ]  # fmt: skip

    def has_begun(self, it: Untrained) -> bool:
        """Whether all of it was scored."""
        return all(None not in (row.random, row.whitened) for row in self.begun(it))

    def _keep(self, name: str, accuracies: dict[str, float]) -> None:
        folder = check_no_links(self.path, "untrained")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        replace(folder / f"{name}.json", json.dumps({"accuracies": accuracies}) + "\n")

    def _kept(self, name: str) -> dict[str, float] | None:
        """Accuracies by layer; None where there are none by this probe."""
        file = check_no_links(self.path, "untrained") / f"{name}.json"
        found = read_json(file, Accuracies) if file.exists() else {}
        accuracies: dict[str, float] | None = found.get("accuracies")
        return accuracies


def _whitened(it: Untrained, side: int, decoding: Decoding = DEFAULT_DECODING) -> float:
    """The accuracy of whitened patches of the images, by the probe of the numbers above."""
    look, probe = it.look, it.look.probe
    assert probe is not None
    given = {
        "side": side,
        "decoding": decoding,
        **{key: it.cell.place[key] for key in ("data_dir", "download")},
    }
    sizes: dict[Split, int | None] = {"train": look.train_size, "test": None}
    train, test = (
        labeled_images(open_images(look.on, split=split, **given), size, seed=SEED)[0]
        for split, size in sizes.items()
    )
    patches = WhitenedPatches().fit(train.pixels, seed=SEED)
    x, test_x = (whitened_features(patches, images) for images in (train, test))
    assert train.labels is not None
    assert test.labels is not None
    options = {} if probe == "knn" else {"seed": SEED}
    score = PROBES[probe](x, train.labels, test_x, test.labels, **options)
    return score.accuracy


def _identity(run: Run, epoch: float | None) -> str | None:
    return run.identity if epoch is None else checkpoint.identity(run.epoch(epoch))
