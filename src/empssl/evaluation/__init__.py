"""How good embeddings are: probes on frozen features, beside what needs no training."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from empssl.bag import Crops, joint
from empssl.data import BadSamples, ImageSet, MemoryImages, open_images
from empssl.data.duplicates import found_in
from empssl.data.near_constant import near_constant
from empssl.errors import DataError, UsageError, nearest
from empssl.evaluation.draw import balanced
from empssl.evaluation.knn import knn_score
from empssl.evaluation.linear import lbfgs_probe, sgd_probe
from empssl.evaluation.ridge import ridge_probe
from empssl.evaluation.score import Score
from empssl.evaluation.tally import Tally
from empssl.models import VIEW_LAYERS, Layer
from empssl.models.whitened_patches import WhitenedPatches
from empssl.pretrained import Encoder
from empssl.progress import progress
from empssl.run import Run
from empssl.shapes import Embeddings

Probe = Literal["linear", "linear_sgd", "ridge", "knn"]
PROBES: dict[Probe, Callable[..., Score]] = {
    "linear": lbfgs_probe,
    "linear_sgd": sgd_probe,
    "ridge": ridge_probe,
    "knn": knn_score,
}


@dataclass(frozen=True)
class Result:
    """One score, with all that it depends on.

    Attributes:
        probe: `linear` (L-BFGS, strength chosen on a part of train), `linear_sgd` (the authors'
            protocol), `ridge` or `knn`.
        layer: where the embedding was taken.
        crops: which patches were averaged.
        accuracy: percent of the test images.
        model: SHA-256 of the weights, `random-SEED`, or `whitened-patches`.
        details: what the probe chose and recorded.
    """

    probe: str
    layer: str
    crops: str
    accuracy: float
    balanced_accuracy: float
    train_size: int
    test_size: int
    seed: int | None
    model: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """All scores of a run on one data set.

    Attributes:
        dataset: what was scored on.
        run: which run.
        protocol: what holds for every row.
        asked: which rows were asked for.
        results: of the run's network.
        baselines: of the same network with random weights, and of whitened patches with ridge
            regression, which need no training.
        images: by split, what became of its images.
    """

    dataset: str
    run: str
    protocol: dict[str, Any]
    asked: dict[str, Any]
    results: list[Result]
    baselines: list[Result]
    images: dict[str, Tally] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @property
    def name(self) -> str:
        """Unlike that of an evaluation of other data, with another protocol or other questions."""
        key = json.dumps([self.dataset, self.protocol, self.asked], sort_keys=True)
        return f"{Path(self.dataset).name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"

    def table(self) -> str:
        """A line for each score, for a person."""
        lines = [f"{'model':18} {'probe':11} {'layer':9} {'crops':10} {'accuracy':>8}"]
        for row in [*self.results, *self.baselines]:
            model = self.run if row in self.results else row.model
            lines.append(
                f"{model[-18:]:18} {row.probe:11} {row.layer:9} {row.crops:10} {row.accuracy:7.2f}%"
            )
        sizes = f"{self.results[0].train_size} train, {self.results[0].test_size} test"
        lines.append(f"{self.dataset}: {sizes} images, frozen encoder, eval mode")
        return "\n".join(
            [*lines, *(r for s, tally in self.images.items() for r in tally.remarks(s))]
        )


def evaluate(
    run: str | Path,
    data: str,
    *,
    probes: Sequence[Probe] = ("linear", "knn"),
    layers: Sequence[Layer] | None = None,
    crops: Sequence[str] = ("grid3",),
    train_size: int | None = None,
    baselines: bool = True,
    epoch: float | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
) -> Evaluation:
    """Score a run's frozen encoder on labeled images, beside what needs no training.

    Args:
        run: a run directory.
        data: as in `train`; it must have labels. Another data set than that of training makes
            it a transfer.
        probes: linear is softmax regression, solved, its strength chosen on a part of train;
            linear_sgd is the authors' protocol (100 epochs, last epoch); ridge has a closed form;
            knn is a vote of the 20 nearest.
        layers: where embeddings are taken; all that the network has by default.
        crops: grid3 averages 3 x 3 clean patches (and their mirror images where training mirrored
            them), random128 the authors' 128 augmented ones, whole takes the whole image.
        train_size: learn the probes from so many of the train images, drawn with as many of every
            class as there are: cheaper, and lower scores. All by default.
        baselines: also score random weights, and whitened patches with ridge regression.
        epoch: score the network that `train --keep-epochs` kept then; the last by default.
        seed: of random crops, the baselines, the probes and what is drawn.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.

    Returns:
        All scores; they are also written to the run's `evaluations` folder, where they replace
        those of the same data, protocol and questions, and no others.

    Raises:
        DataError: no labels, nothing to compare, or too many images that cannot be read.
        UsageError: an unknown probe, layer or crops, or an epoch that was not kept.
    """
    for probe in probes:
        if probe not in PROBES:
            raise UsageError(f"no probe '{probe}': {nearest(probe, PROBES)}")
    chosen = [Crops.parse(text, seed=seed) for text in crops]
    source = Path(run) if epoch is None else Run(run).epoch(epoch)
    encoder = Encoder.from_pretrained(source, device=device)
    layers = encoder.network.layers if layers is None else layers
    for layer in layers:
        encoder.dim(layer)  # or an error, before anything is read
    opened = [
        open_images(
            data, split=split, data_dir=data_dir, side=encoder.image_side, download=download
        )
        for split in ("train", "test")
    ]
    (train, train_tally), (test, test_tally) = (
        _labeled(opened[0], train_size, seed), _labeled(opened[1])
    )  # fmt: skip
    splits = [train, test]
    copies = int(found_in(test.pixels, train.pixels).sum())
    patches = encoder.network.whitened
    if patches is None and baselines:
        patches = WhitenedPatches().fit(splits[0].pixels, seed=seed)
    whole: list[Tensor] = []
    if patches is not None and (baselines or "joint" in layers):
        whole = [_whole(patches, images) for images in splits]
    score = partial(
        _score, splits=splits, whole=whole, probes=probes, layers=layers, crops=chosen, seed=seed
    )
    results = score(encoder)
    others: list[Result] = []
    if baselines:
        others = score(Encoder.random(run, seed=seed, device=device))
        others += _whitened(whole, splits, probes, seed)
    evaluation = Evaluation(
        dataset=data,
        run=str(run),
        protocol={
            "frozen": True, "mode": "eval", "epoch": "last" if epoch is None else epoch,
            "train_fingerprint": splits[0].fingerprint, "test_fingerprint": splits[1].fingerprint,
            "image_side": encoder.image_side, "precision": "as trained", "seed": seed,
            "train_size": train_size,
        },
        asked={
            "probes": list(probes), "layers": list(layers), "crops": list(map(str, chosen)),
            "baselines": baselines,
        },
        results=results,
        baselines=others,
        images={"train": train_tally, "test": replace(test_tally, in_train=copies)},
    )  # fmt: skip
    Run(run).save_evaluation(evaluation.name, asdict(evaluation))
    return evaluation


def _labeled(
    images: ImageSet, size: int | None = None, seed: int = 0
) -> tuple[MemoryImages, Tally]:
    """The images that have a label and can be read, all in memory; or a draw of `size` of them.

    Raises:
        DataError: no labels, or too many images that cannot be read.
    """
    if images.labels is None:
        raise DataError(
            f"{images.name} has no labels to evaluate with; give a folder with one sub-folder per "
            "class, or a data set with labels"
        )
    rows = labeled = (images.labels >= 0).nonzero()[:, 0]
    if size is not None:
        rows = rows[balanced(images.labels[rows], size, seed=seed)]
    pixels = torch.empty(len(rows), 3, images.side, images.side, dtype=torch.uint8)
    valid = torch.zeros(len(rows), dtype=torch.bool)
    ledger, bad = BadSamples(None, len(rows)), []
    with progress(f"reading {images.split} images", len(rows)) as advance:
        for part in torch.arange(len(rows)).split(1024):
            batch = images.read(rows[part].tolist())
            pixels[part], valid[part] = batch.pixels.cpu(), batch.valid
            for sample in batch.bad:
                ledger.add(sample, epoch=0, step=0)
                bad.append(sample)
            advance(int(part[-1]) + 1)
    drawn = len(rows)
    if not valid.all():
        pixels, rows = pixels[valid], rows[valid]
    tally = Tally(
        listed=len(images), used=len(rows), unlabeled=len(images) - len(labeled),
        not_drawn=len(labeled) - drawn, near_constant=int(near_constant(pixels).sum()), bad=bad,
    )  # fmt: skip
    kept = MemoryImages(
        pixels, name=images.name, split=images.split, labels=images.labels[rows],
        class_names=images.class_names, fingerprint=images.fingerprint,
    )  # fmt: skip
    return kept, tally


def _score(
    encoder: Encoder,
    *,
    splits: Sequence[MemoryImages],
    whole: Sequence[Tensor],
    probes: Sequence[Probe],
    layers: Sequence[Layer],
    crops: Sequence[Crops],
    seed: int,
) -> list[Result]:
    results = []
    known: list[Tensor | None] = [*whole] or [None] * len(splits)
    for crop in crops:
        features = [
            _features(encoder, images, crop, layers, found)
            for images, found in zip(splits, known, strict=True)
        ]
        for layer in layers:
            parts = [found[layer] for found in features]
            scores = _probe(parts, splits, probes, seed)
            results += [
                _result(s, p, layer, str(crop), encoder.identity) for p, s in scores.items()
            ]
    return results


def _probe(
    features: Sequence[Tensor],  # not Embeddings: train and test differ in their samples
    splits: Sequence[MemoryImages],
    probes: Sequence[Probe],
    seed: int,
) -> dict[Probe, Score]:
    """The score of the embeddings of train and test by each probe."""
    (train, test), (labels, test_labels) = features, [s.labels for s in splits]
    scores: dict[Probe, Score] = {}
    for probe in probes:
        options = {} if probe == "knn" else {"seed": seed}
        with progress(f"{probe} probe, {train.shape[1]} features", 1) as advance:
            scores[probe] = PROBES[probe](train, labels, test, test_labels, **options)
            advance(1)
    return scores


def _features(
    encoder: Encoder,
    images: MemoryImages,
    crops: Crops,
    layers: Sequence[Layer],
    whole: Tensor | None = None,  # not Embeddings: of other features
) -> dict[Layer, Embeddings]:
    """As `Encoder.embed`; `whole` saves it the whitened patches, which take as long as the rest."""
    known = whole if "joint" in layers else None
    needed = layers if known is None else VIEW_LAYERS
    parts = []
    title = f"embedding {images.split} images"
    with progress(title, len(images)) as advance:
        for rows in encoder.batches(len(images)):
            pixels = images.pixels[rows.start : rows.stop]
            parts.append(encoder.embed(pixels, torch.tensor(rows), crops, needed))
            advance(rows.stop)
    found = {layer: torch.cat([part[layer] for part in parts]) for layer in needed}
    if known is not None:
        found["joint"] = joint(found, known)
    return {layer: found[layer] for layer in layers}


def _whole(patches: WhitenedPatches, images: MemoryImages) -> Embeddings:
    """The whitened patches of every image, which no crops and no weights change."""
    parts: list[Tensor] = []
    with progress(f"whitened patches of {images.split} images", len(images)) as advance:
        for pixels in images.pixels.split(512):
            parts.append(patches(pixels.to(patches.mean.device)).cpu())
            advance(sum(map(len, parts)))
    return torch.cat(parts)


def _whitened(
    whole: Sequence[Tensor], splits: Sequence[MemoryImages], probes: Sequence[Probe], seed: int
) -> list[Result]:
    """Whitened patches with ridge regression, as published, and under the other probes too.

    As many features as the network has beside its own, lest the comparison flatter it.
    """
    every: tuple[Probe, ...] = ("ridge", *(p for p in probes if p not in ("ridge", "linear_sgd")))
    scores = _probe(whole, splits, every, seed)
    return [_result(s, p, "none", "whole", "whitened-patches") for p, s in scores.items()]


def _result(score: Score, probe: str, layer: str, crops: str, model: str) -> Result:
    return Result(
        probe, layer, crops, score.accuracy, score.balanced_accuracy, score.train_size,
        score.test_size, score.seed, model, score.details,
    )  # fmt: skip
