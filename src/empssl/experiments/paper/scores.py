"""Scores of the reproduced runs and of untrained baselines, kept in scores/*.json."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.data import Decoding, open_images
from empssl.data.value_range import DEFAULT_DECODING
from empssl.errors import DataError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.evaluate import PROBES, Probe, evaluate
from empssl.evaluation.features import labeled_images, whitened_features
from empssl.evaluation.pooling import Crops, patches_at_once
from empssl.experiments.paper.base import Exhibit
from empssl.experiments.paper.plan import EvalRequest, PaperPlan
from empssl.experiments.protocol import SEED
from empssl.experiments.run_spec import RunSpec
from empssl.experiments.runner import make
from empssl.models import VIEW_LAYERS
from empssl.models.whitened_patches import WhitenedPatches
from empssl.progress import say
from empssl.runs import checkpoint
from empssl.runs.files import check_no_links, replace, short_hash, writing
from empssl.runs.records import Accuracies, SeenRecord
from empssl.runs.run import Run
from empssl.runs.schema import read_json
from empssl.types import Images, Split

IMAGES = 2000  # of a map
PERPLEXITY = 30.0
TSNE_SEED = 0
PARAMETERS = (
    f"t-SNE of the projections of {IMAGES:,} training images, evenly spread, each of length 1: "
    f"perplexity {PERPLEXITY:g}, early exaggeration 12, automatic learning rate, 1,000 iterations, "
    f"started from the principal components, seed {TSNE_SEED}; every plane is centered and scaled "
    "to a standard deviation of 1, and all have the same axes"
)
NO_LAYER = "none"


@dataclass(frozen=True)
class Untrained:
    """A network with the weights that it began with, and whitened patches without a network.

    Attributes:
        on: the data set that is scored on, by the paper's name.
        spec: a run of that network.
        request: at epoch 0, by the probe of the rows that it stands below.
    """

    on: str
    spec: RunSpec
    request: EvalRequest

    @property
    def name(self) -> str:
        """Alike for all that give the same scores at the same layers."""
        settings = self.spec.settings
        network: list[Any] = [settings[part] for part in ("seed", "image_side", "backbone")]
        network.append(settings["projector"].get("hidden"))  # of which the head's width is one
        crops, views = Crops.parse(self.request.crops), settings["views"]
        if crops.kind == "whole" or crops.share is not None:  # whatever training's views were
            views = [views["flip"] > 0, views["mean"], views["std"]]
        return f"untrained-{self.request.key}-{self.request.probe}-{short_hash([network, views])}"

    @property
    def whitened(self) -> str:
        """Alike for all that have the same whitened patches under the same probe."""
        size = "" if self.request.train_size is None else f"-{self.request.train_size}"
        side = self.spec.settings["image_side"]
        return f"whitened-{self.request.data}-{side or 'own'}-{self.request.probe}{size}"


@dataclass(frozen=True)
class Baseline:
    """Both of them by one probe, as they stand below the numbers that were taken in the same way.

    Attributes:
        on: the data set that is scored on, by the paper's name.
        probe: as in `evaluate`.
        layer: of the random weights; whitened patches have none.
        crops: the same.
        train_size: images that the probe learns from; None for all.
        random: percent; None where it was not measured.
        whitened: percent by the same probe; None where it was not measured.
    """

    on: str
    probe: Probe
    layer: str
    crops: str
    train_size: int | None
    random: float | None
    whitened: float | None


def untrained(plan: PaperPlan, exhibits: Iterable[Exhibit]) -> list[Untrained]:
    """What stands below the accuracies of some exhibits, each once."""
    found: dict[str, Untrained] = {}
    for exhibit in exhibits:
        for each in _below(plan, exhibit) if exhibit.baselines else ():
            found.setdefault(each.name, each)
    return list(found.values())


def _below(plan: PaperPlan, exhibit: Exhibit) -> Iterator[Untrained]:
    for number in exhibit.numbers:
        if number.what in ("accuracy", "curve"):
            for spec in plan.wanted(exhibit, number)[:1]:
                yield Untrained(
                    number.on, spec, dataclasses.replace(plan.requests(number)[-1], epoch=0.0)
                )
    for claim in exhibit.claims:
        for experiment in claim.experiments:
            for spec in plan.runs_of(exhibit, experiment)[:1]:
                for requests in list(plan.claim_looks(claim, experiment).values())[-1:]:
                    yield from (
                        Untrained(claim.data, spec, dataclasses.replace(k, epoch=0.0))
                        for k in requests
                    )


def placed(
    run: Run, data: str, epoch: float | None, crops: str, runtime: dict[str, Any]
) -> dict[str, Any]:
    """Where images lie on the plane, their classes, and how far those are apart.

    `separation` is the silhouette of the classes in the cosine distances of the projections
    themselves, from -1 to 1; larger is further apart. The plane is not used for it.

    Raises:
        DataError: the images have no labels, or too few.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    encoder = Encoder.from_pretrained(
        run.path if epoch is None else run.epoch(epoch), device=runtime["device"]
    )
    images = open_images(
        data, split="train", data_dir=runtime["data_dir"], side=encoder.image_side,
        download=runtime["download"], decoding=encoder.decoding,
    )  # fmt: skip
    if images.labels is None or len(images) < 3 * PERPLEXITY:
        raise DataError(f"{data} has no labels, or fewer than {3 * PERPLEXITY:.0f} images to map")
    rows = np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int))
    got = images.read(rows.tolist())
    z = projections(encoder, got.pixels[got.valid], Crops.parse(crops)).numpy()
    labels = images.labels[torch.from_numpy(rows)][got.valid].numpy()
    points = TSNE(
        perplexity=PERPLEXITY, init="pca", learning_rate="auto", random_state=TSNE_SEED
    ).fit_transform(z)
    points = (points - points.mean(0)) / points.std()
    return {
        "dataset": Path(data).name,
        "plane": np.round(points, 3).tolist(),
        "labels": labels.tolist(),
        "separation": float(silhouette_score(z, labels, metric="cosine")),
        "parameters": PARAMETERS,
    }


@torch.inference_mode()
def projections(encoder: Encoder, images: Images, crops: Crops) -> Float[Tensor, "batch dim"]:
    """Each image's projection, the mean over its views, of length 1."""
    device = next(encoder.network.parameters()).device
    limit = patches_at_once(device, encoder.policy.view_side(images.shape[-1]))
    found = []
    for part in torch.arange(len(images)).split(max(1, limit // max(1, crops.count**2))):
        views = crops.views(encoder.policy, images[part].to(device), part.to(device))
        z = encoder.network(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        found.append(F.normalize(F.normalize(z.float(), dim=-1).mean(0), dim=-1).cpu())
    return torch.cat(found)


class Scores:
    """The scores of all runs of a reproduction.

    Args:
        path: of the reproduction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "scores"

    def find(self, spec: RunSpec, request: EvalRequest) -> dict[str, Any] | None:
        """What was seen, if it is of the network that is there now."""
        run = spec.run
        file = check_no_links(self.path, spec.name) / f"{request.key}.json"
        if run is None or run.identity is None or not file.exists():
            return None
        found: dict[str, Any] = read_json(file, SeenRecord)
        if found["model"] != _identity(run, request.epoch):
            return None
        return found if request.probe is None or request.probe in found["probes"] else None

    def missing(self, spec: RunSpec, requests: Sequence[EvalRequest]) -> list[EvalRequest]:
        return [request for request in requests if self.find(spec, request) is None]

    def complete(self, spec: RunSpec, requests: Sequence[EvalRequest]) -> None:
        """Train what is not trained, and look at it where that was not done."""
        make(spec)
        run = spec.run
        assert run is not None
        left = self.missing(spec, requests)
        for key in dict.fromkeys(request.key for request in left):
            alike = [
                request for request in requests if request.key == key
            ]  # found ones too: written anew
            request = alike[0]
            say(f"looking at {spec.name}: {key}")
            if request.probe is None:
                content = placed(run, request.on, request.epoch, request.crops, spec.runtime)
            else:
                probes: list[Probe] = [request.probe for request in alike if request.probe]
                found = evaluate(
                    run.path, request.on, probes=probes, crops=[request.crops], epoch=request.epoch,
                    train_size=request.train_size, baselines=False, **spec.runtime,
                )  # fmt: skip
                content = asdict(found) | {"probes": probes}
            content |= {"model": _identity(run, request.epoch)}
            folder = check_no_links(self.path, spec.name)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            replace(folder / f"{key}.json", json.dumps(content) + "\n")

    def begin(self, it: Untrained) -> None:
        """Score what needs no training. Whitened patches are the same for all networks."""
        say(f"looking at what needs no training: {it.request.key}, {it.request.probe}")
        run, request, runtime = it.spec.run, it.request, it.spec.runtime
        assert run is not None
        assert request.probe is not None
        found = evaluate(
            run.path, request.on, probes=[request.probe], crops=[request.crops],
            epoch=request.epoch,
            train_size=request.train_size, baselines=False, **runtime,
        )  # fmt: skip
        self._keep(it.name, {row.layer: row.accuracy for row in found.results})
        if self._kept(it.whitened) is None:
            decoding = Decoding.recorded(run.plan.get("decoding", {}))
            self._keep(it.whitened, {NO_LAYER: _whitened(it, run.plan["image_side"], decoding)})

    def begun(self, it: Untrained) -> list[Baseline]:
        """What was scored, a row for each layer; without scores before that."""
        request, run = it.request, it.spec.run
        assert request.probe is not None
        random = self._kept(it.name) if run is not None else None
        whitened = (self._kept(it.whitened) or {}).get(NO_LAYER)
        return [
            Baseline(
                it.on, request.probe, layer, request.crops, request.train_size,
                (random or {}).get(layer),
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
    request, probe = it.request, it.request.probe
    assert probe is not None
    given = {
        "side": side,
        "decoding": decoding,
        **{key: it.spec.runtime[key] for key in ("data_dir", "download")},
    }
    sizes: dict[Split, int | None] = {"train": request.train_size, "test": None}
    train, test = (
        labeled_images(open_images(request.on, split=split, **given), size, seed=SEED)[0]
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
