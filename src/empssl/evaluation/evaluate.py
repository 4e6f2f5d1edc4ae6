"""How good embeddings are: probes on frozen features, beside what needs no training."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from empssl.config import names_in_docstring
from empssl.data import Decoding, ImageSet, ImagesLike, MemoryImages, open_images
from empssl.data.checks import class_counts
from empssl.data.duplicates import found_in
from empssl.data.objects import GivenImages
from empssl.data.open import resolve_data
from empssl.data.value_range import RangeWords
from empssl.errors import OR_PLUGIN, CheckpointError, UsageError, nearest
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.features import (
    EmbeddingFile,
    check_classes,
    check_labeled,
    check_one_source,
    features,
    labeled_images,
    patch_subset_features,
    whitened_features,
)
from empssl.evaluation.few_shot import FewShot
from empssl.evaluation.overlap import Overlap
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes import PROBES, Score
from empssl.evaluation.results import (
    AccuracyCurve,
    Breakdown,
    Evaluation,
    Result,
    SplitSummary,
)
from empssl.models import Layer, MirroredPatches, Part
from empssl.progress import progress, say
from empssl.runs.run import Run
from empssl.types import Split

__all__ = ["PROBES", "Evaluation", "Probe", "evaluate"]

Probe = str  # a name in `PROBES`
Where = Literal[Layer, "all"]


@dataclass(frozen=True)
class _Asked:
    """Which scores were asked for; see `evaluate`."""

    probes: tuple[Probe, ...]
    layers: tuple[Layer, ...]
    crops: tuple[Crops, ...]
    few_shot: tuple[int, ...]
    curve: tuple[int, ...]
    breakdown: bool
    seed: int


@dataclass(frozen=True)
class _Labels:
    """Labels of the train and the test images, and the names of the classes of train."""

    train: Tensor
    test: Tensor
    names: list[str]

    @classmethod
    def of(cls, train: Tensor, test: Tensor, names: Sequence[str] = ()) -> "_Labels":
        present = train.unique().tolist()
        return cls(train, test, [names[at] if at < len(names) else str(at) for at in present])


@dataclass(frozen=True)
class _Found:
    """What was found for one or several models."""

    results: list[Result] = field(default_factory=list)
    few_shot: list[FewShot] = field(default_factory=list)
    curves: list[AccuracyCurve] = field(default_factory=list)

    def __add__(self, other: "_Found") -> "_Found":
        return _Found(
            self.results + other.results,
            self.few_shot + other.few_shot,
            self.curves + other.curves,
        )


@names_in_docstring(probes=PROBES)
def evaluate(
    run: str | Path,
    data: ImagesLike,
    *,
    probes: Sequence[Probe] = ("linear", "knn_whitened", "knn"),
    layers: Sequence[Where] = (),
    crops: Sequence[str] = ("grid3",),
    train_size: int | None = None,
    few_shot: Sequence[int] = (),
    curve: Sequence[int] = (),
    breakdown: bool = False,
    baselines: bool = True,
    near_copies: bool = False,
    epoch: float | None = None,
    seed: int = 0,
    range: RangeWords = (),  # noqa: A002 (what it is)
    max_pixels: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
) -> Evaluation:
    """Score a run's frozen encoder on labeled images, beside what needs no training.

    Args:
        run: a run directory; or the file of its train images' embeddings, and as `data` that of
            the test images', which must come from one network. Files have no baselines.
        data: as in `train`; it must have labels. Other images than those of training make it a
            transfer: the encoder stays as it is and the probes learn from these images. Which test
            images it was trained on is known by what they show, wherever they lie.
        probes: linear is softmax regression, solved, its strength chosen on a part of train;
            linear_sgd is the authors' protocol (100 epochs, last epoch); ridge has a closed form;
            knn is a vote of the 20 nearest, and knn_whitened the same after whitening. One of
            {probes}.
        layers: where embeddings are taken: backbone, head (the projector's first block) and joint
            by default; all adds stem, stage1, stage2, stage3 and projection.
        crops: grid3 averages 3 x 3 clean patches (and their mirror images where training mirrored
            them), random128 the authors' 128 augmented ones, whole takes the whole image;
            grid2@0.5 averages 2 x 2 patches of half the image's side, whatever training took.
        train_size: learn the probes from so many of the train images, drawn with as many of every
            class as there are: cheaper, and lower scores. All by default.
        few_shot: also learn from so many images of each class, 10 draws for each number; linear
            and ridge with strength 1, since there are no labels to choose one by.
        curve: also give test images bags of so many patches, in a random order, and last of all.
            The probe is learned from whole bags.
        breakdown: also the accuracy of each class, what it is taken for (the confusion matrix), and
            whether a probe with probabilities is as sure as it is right (expected calibration
            error, 15 bins of equal width).
        baselines: also score random weights, and whitened patches, by each of the probes.
        near_copies: also count the test images that nearly equal an image that the encoder was
            trained on, as after scaling or compressing anew: whose perceptual hashes differ in at
            most 4 of 64 bits. One in a thousand of CIFAR-10's does by chance.
        epoch: score the network that `train --keep-epochs` kept then, or that of epoch 0, with the
            weights that it began with; the last by default.
        seed: of random crops, the baselines, the probes and what is drawn.
        range: as in `train`; the run's own by default.
        max_pixels: as in `train`; the run's own by default.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.

    Returns:
        All scores; those of a run are also written to its `evaluations` folder, where they replace
        those of the same data, protocol and questions, and no others. Where the run cannot be
        written to, that is said first, and `unkept` and the exit code say so again.

    Raises:
        DataError: no labels, a class with too few images, or too many that cannot be read.
        UsageError: an unknown probe, layer or crops, an epoch that was not kept, or numbers that
            cannot be drawn.
    """
    for probe in probes:
        if probe not in PROBES:
            raise UsageError(f"no probe '{probe}': {nearest(probe, PROBES)}; {OR_PLUGIN}")
    data = resolve_data(data)
    if Path(run).is_file():
        if layers or curve or train_size is not None or epoch is not None:
            raise UsageError(
                f"{run} holds embeddings of one layer and of whole bags: --layers, --curve, "
                "--train-size and --epoch need the run directory"
            )
        if isinstance(data, GivenImages):
            raise UsageError(
                f"{run} holds embeddings, and data is {data}; expected the file of the test "
                "images' embeddings, or the run directory in place of this file"
            )
        return _of_files(run, data, probes, few_shot, breakdown=breakdown, seed=seed)
    chosen = tuple(Crops.parse(text, seed=seed) for text in crops)
    reading: dict[str, Any] = {"range": range, "max_pixels": max_pixels}
    if epoch == 0:
        encoder = Encoder.random(run, seed=Run(run).config["seed"], device=device, **reading)
    else:
        source = Path(run) if epoch is None else Run(run).epoch(epoch)
        encoder = Encoder.from_pretrained(source, device=device, **reading)
    asked = _Asked(
        tuple(probes), _layers(layers, encoder), chosen, tuple(sorted(set(few_shot))),
        tuple(sorted(set(curve))), breakdown, seed,
    )  # fmt: skip
    _check_counts(asked, encoder)
    if unkept := Run(run).why_not_kept("evaluations"):
        say(f"{unkept}; the scores will be shown and not kept")

    def opened(split: Split, decoding: Decoding) -> ImageSet:
        images = open_images(
            data, split=split, data_dir=data_dir, side=encoder.image_side, download=download,
            decoding=decoding, division=Run(run).division,
        )  # fmt: skip
        say(class_counts(images))
        images.tell()
        return images

    listed_train = opened("train", encoder.decoding)
    check_labeled(listed_train)
    # Where the run's images decided no range, those of train do.
    listed_test = opened("test", listed_train.decoding)
    if listed_train.files:
        say(listed_train.files)
    check_classes(listed_train, listed_test)
    train, train_tally = labeled_images(listed_train, train_size, seed=seed)
    test, test_tally = labeled_images(listed_test)
    check_classes(train, test)
    splits = (train, test)
    copies = int(found_in(test.pixels, train.pixels).sum())
    config = Run(run).config
    overlap = Overlap.of(Run(run), data, train, test, data_dir=data_dir, near_copies=near_copies)
    transfer = not overlap.familiar

    own = encoder.network.whitened
    whole: tuple[Tensor, ...] = ()
    if own is not None and ("joint" in asked.layers or (baselines and not transfer)):
        whole = tuple(whitened_features(own, images) for images in splits)
    found = _score(encoder, splits, whole, asked)
    results = found.results
    if baselines:
        found += _score(Encoder.random(run, seed=seed, device=device), splits, whole, asked)
        patches = own
        if patches is None or transfer:
            # What needs no training can be had of the images at hand.
            if own is None:
                patches = MirroredPatches()
            else:
                patches = type(own)(own.num_features, patch=own.patch)
            patches.fit(splits[0].pixels, seed=seed)
            whole = tuple(whitened_features(patches, images) for images in splits)
        found += _whitened(patches.identity, whole, splits, asked)
    evaluation = Evaluation(
        dataset=str(data),
        run=str(run),
        protocol={
            "frozen": True, "mode": "eval", "epoch": "last" if epoch is None else epoch,
            "train_fingerprint": splits[0].fingerprint, "test_fingerprint": splits[1].fingerprint,
            "image_side": encoder.image_side, "range": listed_train.decoding.range,
            "precision": "as trained", "seed": seed, "train_size": train_size,
            "transfer": overlap.transfer, "trained_on": config["data"],
            "saw_test": overlap.saw_test,
        },
        asked=asdict(asked) | {"crops": list(map(str, chosen)), "baselines": baselines},
        results=results,
        baselines=found.results[len(results):],
        few_shot=found.few_shot,
        curves=found.curves,
        images={
            "train": replace(train_tally, trained_on=overlap.train),
            "test": replace(
                test_tally, in_train=copies, trained_on=overlap.test, near_trained_on=overlap.near
            ),
        },
        trained_with_labels=Run(run).needs_labels,
        trained_split=config["split"],
    )  # fmt: skip
    try:
        Run(run).save_evaluation(evaluation.name, asdict(evaluation))
    except CheckpointError as error:  # scores that took an hour are shown all the same
        return replace(evaluation, unkept=str(error))
    return evaluation


def _of_files(
    train_path: str | Path,
    test_path: str | Path,
    probes: Sequence[Probe],
    few_shot: Sequence[int],
    *,
    breakdown: bool,
    seed: int,
) -> Evaluation:
    """Score embeddings that are there already.

    Raises:
        UsageError: they do not come from one network, or share images.
    """
    train, test = EmbeddingFile.read(train_path), EmbeddingFile.read(test_path)
    check_one_source(train, test)
    made = train.made
    crops = Crops.parse(made["crops"], seed=made["seed"])
    counts = tuple(sorted(set(few_shot)))
    asked = _Asked(tuple(probes), (made["layer"],), (crops,), counts, (), breakdown, seed)
    found = _probe(
        train.embeddings, [test.embeddings], _Labels.of(train.labels, test.labels), asked, (),
        probes=asked.probes, layer=made["layer"], crops=str(crops), model=made["model_sha256"],
        parts=train.parts,
    )  # fmt: skip
    return Evaluation(
        dataset=made["data"],
        run=made["run"],
        protocol={
            "frozen": True, "mode": "eval", "epoch": "last",
            "train_fingerprint": made["fingerprint"], "test_fingerprint": test.made["fingerprint"],
            "image_side": made["image_side"], "precision": "as trained", "seed": seed,
            "train_size": None, "embeddings": [str(train.path), str(test.path)],
        },
        asked=asdict(asked) | {"crops": [str(crops)], "baselines": False},
        results=found.results,
        baselines=[],
        few_shot=found.few_shot,
        images={
            split: SplitSummary(len(part.labels), len(part.labels), trained_on=part.trained_on)
            for split, part in (("train", train), ("test", test))
        },
        trained_with_labels=made.get("trained_with_labels", False),
    )  # fmt: skip


def _layers(layers: Sequence[Where], encoder: Encoder) -> tuple[Layer, ...]:
    """Those that are meant, or an error, before anything is read."""
    if "all" in layers:
        return encoder.network.every_layer
    named = tuple(layer for layer in layers if layer != "all") or encoder.network.layers
    for layer in named:
        encoder.dim(layer)
    return named


def _check_counts(asked: _Asked, encoder: Encoder) -> None:
    """See that there are so many patches.

    Raises:
        UsageError: there are not.
    """
    most = max(crop.size(encoder.policy, encoder.image_side) for crop in asked.crops)
    for name, counts, largest in (("few_shot", asked.few_shot, None), ("curve", asked.curve, most)):
        for count in counts:
            if count < 1 or (largest is not None and count > largest):
                there = "" if largest is None else f" to {largest}, the patches that there are"
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {count}; give numbers from 1{there}")


def _score(
    encoder: Encoder,
    splits: tuple[MemoryImages, MemoryImages],
    whole: Sequence[Tensor],
    asked: _Asked,
) -> _Found:
    """All that was asked of one network, from one pass for each crops."""
    known: list[Tensor | None] = [*whole] or [None] * len(splits)
    found = _Found()
    for crops in asked.crops:
        size = crops.size(encoder.policy, encoder.image_side)
        counts = [count for count in asked.curve if count < size]
        train = features(encoder, splits[0], crops, asked.layers, known[0])
        tests = patch_subset_features(encoder, splits[1], crops, asked.layers, counts, known[1])
        if asked.curve:
            counts.append(size)
        for layer in asked.layers:
            splits_of = (train[layer], [test[layer] for test in tests])
            found += _probe(
                *splits_of, _labels(splits), asked, counts, probes=asked.probes, layer=layer,
                crops=str(crops), model=encoder.identity, parts=encoder.network.parts(layer),
            )  # fmt: skip
    return found


def _probe(
    train: Tensor,  # not Embeddings: train and test differ in their samples
    tests: Sequence[Tensor],
    grounds: "_Labels",
    asked: _Asked,
    counts: Sequence[int],
    *,
    probes: Sequence[Probe],
    layer: str,
    crops: str,
    model: str,
    parts: Sequence[Part] = (),
) -> _Found:
    """The scores of one embedding by each probe.

    Args:
        train: of the train images.
        tests: of the test images, from growing bags; the last is whole.
        grounds: the labels of both.
        asked: what to score.
        counts: patches of the bags, if a curve was asked for.
        probes: which.
        layer: where it was taken.
        crops: which patches were averaged.
        model: whose.
        parts: of the embedding, for the probes that weigh them.
    """
    labels, test_labels = grounds.train, grounds.test
    found, about = _Found(), (layer, crops)
    for probe in probes:
        learn = PROBES[probe]
        if parts and "parts" in inspect.signature(learn).parameters:
            learn = partial(learn, parts=parts)
        with progress(f"{probe} probe, {train.shape[1]} features", 1) as advance:
            score = _learned(learn, probe, train, labels, tests, test_labels, asked.seed)
            advance(1)
        points = [
            score.answers.part(slice(start, start + len(test_labels)))
            for start in range(0, len(score.answers), len(test_labels))
        ]
        last = points[-1]
        found.results.append(
            Result(
                probe, *about, last.accuracy, last.balanced_accuracy, len(train), len(last),
                score.seed, model, score.details,
                Breakdown.of(last, grounds.names) if asked.breakdown else None,
            )
        )  # fmt: skip
        if counts:
            accuracies = [point.accuracy for point in points]
            sizes = (len(train), len(last))
            found.curves.append(
                AccuracyCurve(probe, *about, model, *sizes, asked.seed, list(counts), accuracies)
            )
        for count in asked.few_shot:
            with progress(f"{probe} probe, {count} labels of each class", 1) as advance:
                row = FewShot.of(
                    learn, (train, tests[-1]), (labels, test_labels), count=count, probe=probe,
                    layer=layer, crops=crops, model=model, seed=asked.seed,
                )  # fmt: skip
                advance(1)
            found.few_shot.append(row)
    return found


def _learned(
    learn: Callable[..., Score],
    probe: Probe,
    train: Tensor,
    labels: Tensor,
    tests: Sequence[Tensor],
    test_labels: Tensor,
    seed: int,
) -> Score:
    """The score of one probe on all the bags of the test images, one below the other."""
    options = {"seed": seed} if "seed" in inspect.signature(learn).parameters else {}
    if len(tests) == 1:
        return learn(train, labels, tests[0], test_labels, **options)
    score = learn(train, labels, torch.cat(list(tests)), test_labels.repeat(len(tests)), **options)
    # The best epoch on bags of all sizes together would be the best for none of them.
    details = {key: value for key, value in score.details.items() if key != "best_on_test"}
    return replace(score, details=details)


def _labels(splits: tuple[MemoryImages, MemoryImages]) -> _Labels:
    train, test = (images.labels for images in splits)
    assert train is not None
    assert test is not None
    return _Labels.of(train, test, splits[0].class_names)


def _whitened(
    model: str,
    whole: Sequence[Tensor],
    splits: tuple[MemoryImages, MemoryImages],
    asked: _Asked,
) -> _Found:
    """Whitened patches under the probes that the run is scored by, and under no other.

    Another probe of the same features may read points more or less: no score of the run has that
    beside it. As many features as the network has beside its own, lest the comparison flatter it.
    """
    return _probe(
        whole[0], [whole[1]], _labels(splits), asked, (), probes=asked.probes, layer="none",
        crops="whole", model=model,
    )  # fmt: skip
