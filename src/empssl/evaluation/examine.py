"""How healthy embeddings are, without labels."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from empssl.data import ImagesLike
from empssl.data.run_images import open_run_images
from empssl.data.value_range import RangeWords
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.label_free import (
    MEASURES,
    Measure,
    MeasureReading,
    Quality,
    embed_sample,
    measured,
    read_sample,
    sample_rows,
)
from empssl.evaluation.pooling import Crops
from empssl.models import VIEW_LAYERS, Layer
from empssl.progress import say
from empssl.runs.run import Run
from empssl.types import Split

__all__ = ["MEASURES", "Measure", "MeasureReading", "Quality", "examine"]


def examine(
    run: str | Path,
    *,
    data: ImagesLike | None = None,
    images: int = 2000,
    layers: Sequence[Layer] = VIEW_LAYERS,
    crops: str = "grid3",
    views: int = 8,
    random: bool = True,
    split: Split = "train",
    seed: int = 0,
    backbone: nn.Module | None = None,
    range: RangeWords = (),  # noqa: A002 (what it is)
    max_pixels: int | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
) -> Quality:
    """Measure how healthy a run's embeddings are, without labels, beside random weights.

    No measure is a score: each can be good where classes are read off badly. What the same network
    measures with random weights says where its scale begins.

    Args:
        run: a run directory.
        data: as in `train`, labeled or not; the run's own by default. Say with it where these are
            if they have moved.
        images: how many, at even distances, are embedded.
        layers: where embeddings are taken.
        crops: whose mean is an image's embedding, as in `evaluate`.
        views: random patches of each image, 2 or more, for alignment, lidar and
            separation.
        random: also measure the same network with random weights. Without, what was measured of it
            before is kept.
        split: train, test or all.
        seed: of the sample, the patches, the random weights and the rotation probe.
        backbone: a module made as the one given to `train`, for a run of such a one; a copy of it
            gets the run's weights. Random weights are drawn by `reset_parameters()` of its
            submodules; where one with parameters has none, that baseline is left out, and said.
        range: as in `train`; the run's own by default.
        max_pixels: as in `train`; the run's own by default.
        data_dir: where a data set known by name lies; the run's own by default.
        device: auto, cpu, cuda or mps.

    Returns:
        All measures; they are also written to the run's `quality` folder. Where that cannot be,
        it is said first, and `unkept` and the exit code say so again.

    Raises:
        DataError: fewer than four images that can be read, or embeddings that are not finite.
        UsageError: an unknown layer or crops, too few images or views, or the run needs a backbone.
    """
    least = {"images": (images, 4), "views": (views, 2), "layers": (len(layers), 1)}
    for name, (value, expected) in least.items():
        if value < expected:
            raise UsageError(f"{name} is {value}, expected {expected} or more")
    chosen = Crops.parse(crops, seed=seed)
    source = Run(run)
    encoder = Encoder.from_pretrained(
        run, backbone=deepcopy(backbone), device=device, range=range, max_pixels=max_pixels
    )
    for layer in layers:
        encoder.dim(layer)  # or an error, before anything is read
    if unkept := source.why_not_kept("quality"):
        say(f"{unkept}; the measures will be shown and not kept")
    found = open_run_images(
        source, data=data, split=split, side=encoder.image_side, data_dir=data_dir,
        decoding=encoder.decoding,
    )  # fmt: skip
    found.tell()
    pixels, rows = read_sample(found, sample_rows(len(found), images, seed=seed))
    if len(rows) < 4:
        raise DataError(
            f"{len(rows)} images of {found.name} could be read, expected 4 or more; give more "
            "with --data"
        )

    def of(encoder: Encoder) -> dict[tuple[str, Layer], float]:
        embedded = embed_sample(encoder, pixels, rows, layers, crops=chosen, views=views, seed=seed)
        return measured(embedded, seed=seed)

    own = of(encoder)
    protocol = {
        "model": encoder.identity, "fingerprint": found.fingerprint, "split": split,
        "images": len(rows), "crops": crops, "views": views, "seed": seed,
        "image_side": encoder.image_side, "range": found.decoding.range,
        "widths": {layer: encoder.dim(layer) for layer in layers},
    }  # fmt: skip
    baseline = None
    if random:
        baseline = Encoder.baseline(run, backbone=backbone, seed=seed, device=device)
    other = _measured_before(source, protocol) if baseline is None else of(baseline)
    quality = Quality(
        dataset=found.name,
        run=str(run),
        protocol=protocol,
        readings=[
            MeasureReading(name, layer, value, other.get((name, layer)), MEASURES[name].direction,
                    MEASURES[name].meaning, MEASURES[name].source)
            for (name, layer), value in own.items()
        ],
    )  # fmt: skip
    try:
        source.save_quality(quality.name, asdict(quality))
    except CheckpointError as error:  # what took long is shown all the same
        return replace(quality, unkept=str(error))
    return quality


def _measured_before(run: Run, protocol: dict[str, Any]) -> dict[tuple[str, Layer], float]:
    """What the network measured with random weights, where the file to be replaced says it."""
    return {
        (reading["measure"], reading["layer"]): reading["random"]
        for quality in run.qualities()
        if quality["protocol"] == protocol
        for reading in quality["readings"]
        if reading["random"] is not None
    }
