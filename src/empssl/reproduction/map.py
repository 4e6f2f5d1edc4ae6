"""A map of projections by t-SNE, with the same parameters for every method."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.bag import Crops, patches_at_once
from empssl.data import open_images
from empssl.errors import DataError
from empssl.pretrained import Encoder
from empssl.run import Run
from empssl.shapes import Images

IMAGES = 2000
PERPLEXITY = 30.0
SEED = 0
PARAMETERS = (
    f"t-SNE of the projections of {IMAGES:,} training images, evenly spread, each of length 1: "
    f"perplexity {PERPLEXITY:g}, early exaggeration 12, automatic learning rate, 1,000 iterations, "
    f"started from the principal components, seed {SEED}; every plane is centered and scaled to a "
    "standard deviation of 1, and all have the same axes"
)


def placed(
    run: Run, data: str, epoch: float | None, crops: str, place: dict[str, Any]
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
        run.path if epoch is None else run.epoch(epoch), device=place["device"]
    )
    images = open_images(
        data, split="train", data_dir=place["data_dir"], side=encoder.image_side,
        download=place["download"], decoding=encoder.decoding,
    )  # fmt: skip
    if images.labels is None or len(images) < 3 * PERPLEXITY:
        raise DataError(f"{data} has no labels, or fewer than {3 * PERPLEXITY:.0f} images to map")
    rows = np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int))
    got = images.read(rows.tolist())
    z = projections(encoder, got.pixels[got.valid], Crops.parse(crops)).numpy()
    labels = images.labels[torch.from_numpy(rows)][got.valid].numpy()
    plane = TSNE(
        perplexity=PERPLEXITY, init="pca", learning_rate="auto", random_state=SEED
    ).fit_transform(z)
    plane = (plane - plane.mean(0)) / plane.std()
    return {
        "dataset": Path(data).name,
        "plane": np.round(plane, 3).tolist(),
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
