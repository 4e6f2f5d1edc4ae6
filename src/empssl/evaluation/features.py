"""Labeled images, and the embeddings of all of them from one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from empssl.bag import Crops, joint
from empssl.data import BadSamples, ImageSet, MemoryImages
from empssl.data.class_counts import shortened
from empssl.data.near_constant import near_constant
from empssl.errors import DataError
from empssl.evaluation.draw import balanced
from empssl.evaluation.tally import Tally
from empssl.models import VIEW_LAYERS, Layer
from empssl.models.whitened_patches import WhitenedPatches
from empssl.pretrained import Encoder
from empssl.progress import progress
from empssl.shapes import Embeddings


def labeled_images(
    images: ImageSet, size: int | None = None, *, seed: int = 0
) -> tuple[MemoryImages, Tally]:
    """The images that have a label and can be read, all in memory; and what became of the others.

    Args:
        images: of any kind; a draw reads no others.
        size: draw so many of them, as evenly from the classes as these allow.
        seed: of the draw.

    Raises:
        DataError: there are no labels, or too many images that cannot be read.
        UsageError: there are fewer than `size`.
    """
    labels = check_labeled(images)
    rows = labeled = (labels >= 0).nonzero()[:, 0]
    if size is not None:
        rows = rows[balanced(labels[rows], size, seed=seed)]
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
        part=images.part,
    )  # fmt: skip
    kept = MemoryImages(
        pixels, name=images.name, split=images.split, labels=labels[rows],
        class_names=images.class_names, fingerprint=images.fingerprint,
    )  # fmt: skip
    return kept, tally


def check_labeled(images: ImageSet) -> Tensor:
    """The labels of a set that has some.

    Raises:
        DataError: it has none.
    """
    if images.labels is None or not (images.labels >= 0).any():
        raise DataError(
            f"the {len(images)} {images.split} images of {images.name} have no labels to evaluate "
            "with; give a folder with one sub-folder per class, or a data set with labels"
        )
    return images.labels


def check_classes(train: ImageSet, test: ImageSet) -> None:
    """See that train has every class that test has.

    Raises:
        DataError: it has not, or one of the two has no labels.
    """
    known = check_labeled(test)
    unseen = sorted(set(known[known >= 0].tolist()) - set(check_labeled(train).tolist()))
    if unseen:
        names = ", ".join(shortened(test.class_name(label)) for label in unseen[:10])
        more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
        one = len(unseen) == 1
        raise DataError(
            f"test images of {test.name} have {'the class' if one else 'classes'} {names}{more}, "
            f"of which train has no image, so that no probe can learn {'it' if one else 'them'}; "
            f"add train images of {'it' if one else 'them'}, or take {'it' if one else 'them'} out "
            "of test"
        )


def features(
    encoder: Encoder,
    images: MemoryImages,
    crops: Crops,
    layers: Sequence[Layer],
    whole: Tensor | None = None,  # not Embeddings: of other features
) -> dict[Layer, Embeddings]:
    """The embedding of every image at each layer; see `growing_features`."""
    return growing_features(encoder, images, crops, layers, (), whole)[-1]


def growing_features(
    encoder: Encoder,
    images: MemoryImages,
    crops: Crops,
    layers: Sequence[Layer],
    counts: Sequence[int],
    whole: Tensor | None = None,  # not Embeddings: of other features
) -> list[dict[Layer, Embeddings]]:
    """Embeddings from bags of so many patches each, and last from all patches.

    Args:
        encoder: whose.
        images: all of them.
        crops: which patches.
        layers: where.
        counts: of patches, fewer than there are.
        whole: the images' whitened patches, which take as long to compute as the rest.
    """
    known = whole if "joint" in layers else None
    needed = list(layers)
    if known is not None:
        needed = [*dict.fromkeys([*(at for at in layers if at != "joint"), *VIEW_LAYERS])]
    parts = []
    with progress(f"embedding {images.split} images", len(images)) as advance:
        for rows in encoder.batches(len(images)):
            pixels = images.pixels[rows.start : rows.stop]
            parts.append(encoder.embed_growing(pixels, torch.tensor(rows), crops, needed, counts))
            advance(rows.stop)
    bags = []
    for same in zip(*parts, strict=True):
        found = {layer: torch.cat([part[layer] for part in same]) for layer in needed}
        if known is not None:
            found["joint"] = joint(found, known)
        bags.append({layer: found[layer] for layer in layers})
    return bags


def whitened_features(patches: WhitenedPatches, images: MemoryImages) -> Embeddings:
    """The whitened patches of every image, which no crops and no weights change."""
    parts: list[Tensor] = []
    with progress(f"whitened patches of {images.split} images", len(images)) as advance:
        for pixels in images.pixels.split(512):
            parts.append(patches(pixels.to(patches.mean.device)).cpu())
            advance(sum(map(len, parts)))
    return torch.cat(parts)
