"""Embeddings of a whole data set, as a file."""

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from empssl.data import BadSample, BadSamples, ImagesLike, open_images
from empssl.data.base import ImageBatch
from empssl.data.duplicates import listed
from empssl.data.open import resolve_data
from empssl.data.value_range import RangeWords
from empssl.distributed.signals import stop_requests
from empssl.errors import StoppedError
from empssl.evaluation.embedding_files import Shards, check_out, names_path
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import Crops
from empssl.models import Layer
from empssl.progress import progress, say
from empssl.runs.files import writing
from empssl.runs.run import Run
from empssl.runs.trained_images import TrainedImages
from empssl.types import Embeddings, Split, Valid


def embed(
    run: str | Path,
    data: ImagesLike,
    *,
    out: str | Path,
    layer: Layer = "head",
    crops: str = "grid3",
    split: Split = "all",
    seed: int = 0,
    backbone: nn.Module | None = None,
    range: RangeWords = (),  # noqa: A002 (what it is)
    max_pixels: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write one embedding an image to a file: Parquet, CSV or NumPy.

    Row i is image i, and the ending of the file's name says what is written. The columns of a
    .parquet file are `index`, `name`, `label` (where there are labels), `valid`,
    `trained_on` (whether the encoder was trained on it; null where the run does not say) and
    `embedding`; an image that could not be read has `valid` false and no embedding, and is listed
    in a file beside the output. Its metadata says which weights and crops made it. A .csv file has
    `name`, `label` and the numbers `embedding_0`, `embedding_1` and so on, empty where an image
    could not be read. A .npy file is a float32 matrix, with not-a-numbers there; the file beside it
    that ends in .names.csv has `index`, `name`, `label`, `valid` and `trained_on`. `evaluate` reads
    .parquet alone.

    Memory does not grow with the number of images. A call that ended early, however it did, goes on
    where it was when it is made again: what is finished waits in a hidden folder beside `out`.

    Args:
        run: a run directory.
        data: as in `train`.
        out: the file to write, which ends in .parquet, .csv or .npy.
        layer: backbone; head, the projector's first block; or joint, where there is one: both of
            them and whitened patches of the whole image side by side, each of length 1.
        crops: grid3 averages 3 x 3 clean patches (and their mirror images where training mirrored
            them), random128 as many random ones, whole takes the whole image.
        split: train, test or all.
        seed: of random crops.
        backbone: a module made as the one given to `train`, for a run of such a one; a copy of it
            gets the run's weights.
        range: as in `train`; the run's own by default.
        max_pixels: as in `train`; the run's own by default.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.
        overwrite: replace `out`.

    Returns:
        The file written.

    Raises:
        DataError: no usable images, or too many bad ones.
        UsageError: `out` exists, is a folder, link or device, or ends in another way; or the run
            needs a backbone.
        CheckpointError: the storage refused, or the run is damaged.
        RunInUseError: another process is writing `out`.
        StoppedError: Ctrl-C or SIGTERM came.
    """
    out = Path(out)
    check_out(out, overwrite=overwrite)
    encoder = Encoder.from_pretrained(
        run, backbone=deepcopy(backbone), device=device, range=range, max_pixels=max_pixels
    )
    chosen = Crops.parse(crops, seed=seed)
    source = Run.around(run)
    data = resolve_data(data)
    images = open_images(
        data, split=split, data_dir=data_dir, side=encoder.image_side, download=download,
        decoding=encoder.decoding,
        division="stable" if source is None else source.division,
    )  # fmt: skip
    images.tell()
    known = None if source is None else source.trained_images
    if images.files:
        say(images.files)
    protocol = {
        "model_sha256": encoder.identity, "run": str(run), "data": str(data), "split": split,
        "fingerprint": images.fingerprint, "layer": layer, "crops": str(chosen), "seed": seed,
        "image_side": encoder.image_side, "range": images.decoding.range,
        "trained_with_labels": source is not None and source.needs_labels,
    }  # fmt: skip
    if parts := encoder.network.parts(layer):
        protocol["parts"] = [asdict(part) for part in parts]
    schema = _schema(encoder.dim(layer), labeled=images.labels is not None)
    schema = schema.with_metadata({b"empssl": json.dumps(protocol).encode()})
    shards = Shards(out, schema)
    with (
        shards.held(),
        stop_requests() as request,
        progress("embedding", len(images)) as advance,
    ):
        listing = out.with_name(f"{out.stem}.bad_samples.jsonl")
        with writing(listing):
            listing.unlink(missing_ok=True)
        bad = BadSamples(listing, len(images))
        for rows in encoder.batches(len(images)):
            found = shards.notes(rows)
            if found is None:
                got = images.read(rows)
                samples = torch.tensor(rows)
                bags = encoder.embed(got.pixels[got.valid], samples[got.valid], chosen, [layer])
                columns = {
                    "index": rows,
                    "name": [_utf8(images.sample_name(i)) for i in rows],
                    "valid": got.valid.numpy(),
                    "trained_on": _trained_on(known, got),
                    "embedding": _nullable(bags[layer], got.valid, schema),
                }
                if images.labels is not None:
                    columns["label"] = images.labels[samples].numpy()
                found = [asdict(sample) for sample in got.bad]
                shards.add(rows, pa.table(columns, schema), found)
            for sample in found:
                bad.add(BadSample(**sample), epoch=0, step=0)
            advance(rows.stop)
            if request.signal and rows.stop < len(images):
                raise StoppedError(
                    f"stopped after image {rows.stop} of {len(images)}; the same command goes on "
                    "from there",
                    128 + request.signal,
                )
        shards.join()
    images.tell()
    if out.suffix.lower() == ".npy":
        say(f"{names_path(out)} names the rows of {out}")
    return out


def _schema(dim: int, *, labeled: bool) -> pa.Schema:
    fields = [("index", pa.int64()), ("name", pa.string()), ("valid", pa.bool_()),
              ("trained_on", pa.bool_()), ("embedding", pa.list_(pa.float32(), dim))]  # fmt: skip
    if labeled:
        fields.insert(2, ("label", pa.int64()))
    return pa.schema(fields)


def _trained_on(known: TrainedImages | None, got: ImageBatch) -> pa.Array:
    """Whether each image is one that the encoder was trained on; null where that is not known."""
    mask = np.full(len(got.valid), known is None) | ~got.valid.numpy()
    held = got.valid if known is None else listed(got.pixels, known.rows)
    return pa.array(held.numpy(), mask=mask)


def _nullable(found: Embeddings, valid: Valid, schema: pa.Schema) -> pa.Array:
    """A row of numbers for each valid image, and null for the others."""
    kind = schema.field("embedding").type
    full = torch.zeros(len(valid), kind.list_size)
    full[valid] = found
    values = pa.array(full.flatten().numpy())
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array((~valid).numpy()))


def _utf8(name: str) -> str:
    """File names may hold bytes that are not text; Parquet's strings may not."""
    return name.encode("utf-8", "backslashreplace").decode()
