"""How good embeddings are: probes on frozen features, beside what needs no training."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from empssl.config import is_object, names_in_docstring
from empssl.data import Decoding, ImageSet, ImagesLike, MemoryImages, open_images
from empssl.data.checks import class_counts
from empssl.data.duplicates import digests, found_in
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
    number_alike,
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
from empssl.models import EmbeddingPart, Layer, MirroredPatches
from empssl.progress import progress, say
from empssl.runs.run import Run
from empssl.types import Split

__all__ = ["PROBES", "Evaluation", "Probe", "evaluate"]

Probe = str  # a name in `PROBES`
Where = Literal[Layer, "all"]


@dataclass(frozen=True)
class _Request:
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
class _Results:
    """What was found for one or several models."""

    results: list[Result] = field(default_factory=list)
    few_shot: list[FewShot] = field(default_factory=list)
    curves: list[AccuracyCurve] = field(default_factory=list)

    def __add__(self, other: "_Results") -> "_Results":
        return _Results(
            self.results + other.results,
            self.few_shot + other.few_shot,
            self.curves + other.curves,
        )


@names_in_docstring(probes=PROBES)
def evaluate(
    run: str | Path,
    data: ImagesLike,
    *,
    test_data: ImagesLike | None = None,
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
    backbone: nn.Module | None = None,
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
        test_data: what to test on, as `data`: all of its images then, and the probes learn from all
            images of `data`, whatever parts either has. Classes are the same where their names are;
            where one of the two has no names, where their numbers are. By default `data` is
            divided, as its parts say or 80 : 20.
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
        backbone: a module made as the one given to `train`, for a run of such a one; a copy of it
            gets the run's weights. Random weights are drawn by `reset_parameters()` of its
            submodules; where one with parameters has none, that baseline is left out, and said.
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
        UsageError: an unknown probe, layer or crops, an epoch that was not kept, numbers that
            cannot be drawn; every image of `test_data` is in `data`; or the run needs a backbone.
    """
    for probe in probes:
        if probe not in PROBES:
            raise UsageError(f"no probe '{probe}': {nearest(probe, PROBES)}; {OR_PLUGIN}")
    data = resolve_data(data)
    tested = None if test_data is None else resolve_data(test_data)
    if Path(run).is_file():
        if layers or curve or train_size is not None or epoch is not None:
            raise UsageError(
                f"{run} holds embeddings of one layer and of whole bags: --layers, --curve, "
                "--train-size and --epoch need the run directory"
            )
        if test_data is not None:
            raise UsageError(
                f"{run} holds embeddings of train images, and those of test images are given as "
                "data; leave out test_data"
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
        if is_object(Run(run).config["backbone"]):
            raise UsageError(
                f"the weights that {run} began with came with the backbone that was given to "
                "`train`, and are not kept; give an epoch of its keep_epochs"
            )
        encoder = Encoder.random(run, seed=Run(run).config["seed"], device=device, **reading)
    else:
        source = Path(run) if epoch is None else Run(run).epoch(epoch)
        encoder = Encoder.from_pretrained(
            source, backbone=deepcopy(backbone), device=device, **reading
        )
    request = _Request(
        tuple(probes), _layers(layers, encoder), chosen, tuple(sorted(set(few_shot))),
        tuple(sorted(set(curve))), breakdown, seed,
    )  # fmt: skip
    _check_counts(request, encoder)
    if unkept := Run(run).why_not_kept("evaluations"):
        say(f"{unkept}; the scores will be shown and not kept")

    def opened(part: Literal["train", "test"], decoding: Decoding) -> ImageSet:
        split: Split = part if tested is None else "all"
        images = open_images(
            data if tested is None or part == "train" else tested, split=split,
            data_dir=data_dir, side=encoder.image_side, download=download, decoding=decoding,
            division=Run(run).division,
        )  # fmt: skip
        if tested is not None:
            images = copy(images)  # which may be somebody's own
            images.split = part
        say(class_counts(images))
        images.tell()
        return images

    listed_train = opened("train", encoder.decoding)
    check_labeled(listed_train)
    # Where the run's images decided no range, those of train do.
    listed_test = opened("test", listed_train.decoding)
    if tested is not None:
        number_alike(listed_train, listed_test)
    for listed in (listed_train, listed_test)[: 1 + (tested is not None)]:
        if listed.files:
            say(listed.files)
    check_classes(listed_train, listed_test)
    train, train_summary = labeled_images(listed_train, train_size, seed=seed)
    test, test_summary = labeled_images(listed_test)
    check_classes(train, test)
    splits = (train, test)
    copies = int(found_in(test.pixels, train.pixels).sum())
    if tested is not None and copies == len(test):
        raise UsageError(
            f"every image of test_data, {tested}, is among the train images, {data}, to the last "
            "pixel; leave out test_data to have the images of data divided, or give other ones"
        )
    config = Run(run).config
    overlap = Overlap.of(
        Run(run), data, tested, train, test, data_dir=data_dir, near_copies=near_copies
    )
    transfer = not overlap.familiar

    own = encoder.network.whitened
    whole: tuple[Tensor, ...] = ()
    if own is not None and ("joint" in request.layers or (baselines and not transfer)):
        whole = tuple(whitened_features(own, images) for images in splits)
    found = _score(encoder, splits, whole, request)
    results = found.results
    if baselines:
        random = Encoder.baseline(run, backbone=backbone, seed=seed, device=device)
        if random is not None:
            found += _score(random, splits, whole, request)
        patches = own
        if patches is None or transfer:
            # What needs no training can be had of the images at hand.
            if own is None:
                patches = MirroredPatches()
            else:
                patches = type(own)(own.num_features, patch=own.patch)
            patches.fit(splits[0].pixels, seed=seed)
            whole = tuple(whitened_features(patches, images) for images in splits)
        found += _whitened(patches.identity, whole, splits, request)
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
        } | ({} if tested is None else _recorded(tested, test)),
        asked=asdict(request) | {"crops": list(map(str, chosen)), "baselines": baselines},
        results=results,
        baselines=found.results[len(results):],
        few_shot=found.few_shot,
        curves=found.curves,
        images={
            "train": replace(train_summary, trained_on=overlap.train),
            "test": replace(
                test_summary, in_train=copies, trained_on=overlap.test, near_trained_on=overlap.near
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


def _recorded(test_data: str | GivenImages, test: MemoryImages) -> dict[str, str]:
    """What tells test data that were given apart from all others, whatever they are called."""
    assert test.labels is not None
    content = hashlib.sha256(digests(test.pixels).numpy().tobytes())
    content.update(test.labels.numpy().tobytes())
    return {"test_data": str(test_data), "test_content_fingerprint": content.hexdigest()}


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
    request = _Request(tuple(probes), (made["layer"],), (crops,), counts, (), breakdown, seed)
    found = _probe(
        train.embeddings, [test.embeddings], _Labels.of(train.labels, test.labels), request, (),
        probes=request.probes, layer=made["layer"], crops=str(crops), model=made["model_sha256"],
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
        asked=asdict(request) | {"crops": [str(crops)], "baselines": False},
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


def _check_counts(request: _Request, encoder: Encoder) -> None:
    """See that there are so many patches.

    Raises:
        UsageError: there are not.
    """
    most = max(crop.size(encoder.policy, encoder.image_side) for crop in request.crops)
    for name, counts, largest in (
        ("few_shot", request.few_shot, None),
        ("curve", request.curve, most),
    ):
        for count in counts:
            if count < 1 or (largest is not None and count > largest):
                there = "" if largest is None else f" to {largest}, the patches that there are"
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {count}; give numbers from 1{there}")


def _score(
    encoder: Encoder,
    splits: tuple[MemoryImages, MemoryImages],
    whole: Sequence[Tensor],
    request: _Request,
) -> _Results:
    """All that was asked of one network, from one pass for each crops."""
    known: list[Tensor | None] = [*whole] or [None] * len(splits)
    found = _Results()
    for crops in request.crops:
        size = crops.size(encoder.policy, encoder.image_side)
        counts = [count for count in request.curve if count < size]
        train = features(encoder, splits[0], crops, request.layers, known[0])
        tests = patch_subset_features(encoder, splits[1], crops, request.layers, counts, known[1])
        if request.curve:
            counts.append(size)
        for layer in request.layers:
            embedded = (train[layer], [test[layer] for test in tests])
            found += _probe(
                *embedded, _labels(splits), request, counts, probes=request.probes, layer=layer,
                crops=str(crops), model=encoder.identity, parts=encoder.network.parts(layer),
            )  # fmt: skip
    return found


def _probe(
    train: Tensor,  # not Embeddings: train and test differ in their samples
    tests: Sequence[Tensor],
    labels: _Labels,
    request: _Request,
    counts: Sequence[int],
    *,
    probes: Sequence[Probe],
    layer: str,
    crops: str,
    model: str,
    parts: Sequence[EmbeddingPart] = (),
) -> _Results:
    """The scores of one embedding by each probe.

    Args:
        train: of the train images.
        tests: of the test images, from growing bags; the last is whole.
        labels: of both.
        request: what to score.
        counts: patches of the bags, if a curve was asked for.
        probes: which.
        layer: where it was taken.
        crops: which patches were averaged.
        model: whose.
        parts: of the embedding, for the probes that weigh them.
    """
    train_labels, test_labels = labels.train, labels.test
    found, about = _Results(), (layer, crops)
    for probe in probes:
        learn = PROBES[probe]
        if parts and "parts" in inspect.signature(learn).parameters:
            learn = partial(learn, parts=parts)
        with progress(f"{probe} probe, {train.shape[1]} features", 1) as advance:
            score = _learned(learn, probe, train, train_labels, tests, test_labels, request.seed)
            advance(1)
        points = [
            score.predictions.part(slice(start, start + len(test_labels)))
            for start in range(0, len(score.predictions), len(test_labels))
        ]
        last = points[-1]
        found.results.append(
            Result(
                probe, *about, last.accuracy, last.balanced_accuracy, len(train), len(last),
                score.seed, model, score.details,
                Breakdown.of(last, labels.names) if request.breakdown else None,
            )
        )  # fmt: skip
        if counts:
            accuracies = [point.accuracy for point in points]
            sizes = (len(train), len(last))
            found.curves.append(
                AccuracyCurve(probe, *about, model, *sizes, request.seed, list(counts), accuracies)
            )
        for count in request.few_shot:
            with progress(f"{probe} probe, {count} labels of each class", 1) as advance:
                row = FewShot.of(
                    learn, (train, tests[-1]), (train_labels, test_labels), count=count,
                    probe=probe, layer=layer, crops=crops, model=model, seed=request.seed,
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
    request: _Request,
) -> _Results:
    """Whitened patches under the probes that the run is scored by, and under no other.

    Another probe of the same features may read points more or less: no score of the run has that
    beside it. As many features as the network has beside its own, lest the comparison flatter it.
    """
    return _probe(
        whole[0], [whole[1]], _labels(splits), request, (), probes=request.probes, layer="none",
        crops="whole", model=model,
    )  # fmt: skip
