"""A sample of images and its embeddings: all that the measures are taken of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from empssl.bag import Crops
from empssl.data import ImageSet
from empssl.draws import uniform
from empssl.models import Layer
from empssl.pretrained import Encoder
from empssl.progress import progress
from empssl.quality.rotation import turned
from empssl.shapes import Embeddings, Images

_AT_ONCE = 256
_WHOLE = Crops("whole")


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a sample at one layer.

    Attributes:
        bags: one row an image, as probes and users get it.
        views: of several random patches of each image.
        turns: of each whole image, turned by 0, 90, 180 and 270 degrees. Not of bags: these hold
            mirror images, of which a quarter turn is the opposite one.
    """

    bags: Embeddings
    views: Float[Tensor, "view sample feature"]
    turns: Float[Tensor, "turn sample feature"]


def sample_rows(total: int, count: int, *, seed: int) -> Int64[Tensor, " row"]:
    """`count` of `total` indices at even distances, the first drawn; or all of them. Ascending.

    >>> sample_rows(10, 5, seed=0).tolist()
    [1, 3, 5, 7, 9]
    """
    if count >= total:
        return torch.arange(total)
    first = uniform(torch.zeros(1).long(), seed=seed, epoch=0, views=range(1), draws=1).double()
    rows = (torch.arange(count) + first.flatten()) * (total / count)
    return rows.long().clamp(max=total - 1)


def read_sample(images: ImageSet, rows: Tensor) -> tuple[Images, Tensor]:
    """The images at `rows` that can be read, and which these are."""
    read = [images.read(part.tolist()) for part in rows.split(_AT_ONCE)]
    valid = torch.cat([batch.valid for batch in read])
    return torch.cat([batch.pixels for batch in read])[valid], rows[valid]


def embed_sample(
    encoder: Encoder,
    pixels: Images,
    rows: Tensor,
    layers: Sequence[Layer],
    *,
    crops: Crops,
    views: int,
    seed: int,
) -> dict[Layer, Embedded]:
    """Embeddings of the images at each layer.

    Args:
        encoder: of which network.
        pixels: the images.
        rows: their indices in the data set; random patches depend on them.
        layers: where embeddings are taken.
        crops: whose mean is an image's row.
        views: random patches of each image.
        seed: of the random patches.
    """

    def kinds(pixels: Images) -> Iterator[tuple[Images, Crops]]:
        """What is embedded of some images: the bags, then each view, then each turn."""
        yield pixels, crops
        yield from ((pixels, Crops("random", 1, seed * views + view)) for view in range(views))
        yield from ((images, _WHOLE) for images in turned(pixels))

    parts = []
    with progress(f"embedding images by {encoder.identity[:12]}", len(rows)) as advance:
        for batch in encoder.batches(len(rows), _AT_ONCE):
            at = slice(batch.start, batch.stop)
            found = [encoder.embed(x, rows[at], crop, layers) for x, crop in kinds(pixels[at])]
            parts.append({layer: torch.stack([f[layer] for f in found]) for layer in layers})
            advance(batch.stop)
    whole = {layer: torch.cat([part[layer] for part in parts], 1) for layer in layers}
    return {layer: Embedded(e[0], e[1 : 1 + views], e[1 + views :]) for layer, e in whole.items()}
