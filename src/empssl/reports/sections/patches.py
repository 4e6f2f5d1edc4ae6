"""What the network saw: images beside their training views and their clean patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from empssl.config import build
from empssl.evaluation.pooling import Crops
from empssl.reports.html import Picture, picture, tiles
from empssl.reports.sample import CROPS, Sample, spread
from empssl.rng import uniform
from empssl.views import POLICIES, Policy

IMAGES, VIEWS = 6, 8


@dataclass(frozen=True)
class Patched:
    """One image and what becomes of it."""

    name: str
    label: str
    original: Picture
    views: Sequence[Picture]
    grid: Picture


def patched(sample: Sample, config: dict[str, Any]) -> list[Patched]:
    """A few images with the views of the run's first epoch, and the patches that embed them.

    Draws depend only on the seed, the epoch and the image's index, so these are the very pixels
    that training saw, up to the floating point of its device.
    """
    policy: Policy = build(POLICIES, config["views"])
    chosen = spread(len(sample), IMAGES)
    images, rows = sample.pixels[chosen], sample.rows[chosen]
    u = uniform(
        rows, seed=config["seed"], epoch=0, views=range(min(VIEWS, config["patches"])),
        draws=policy.draws,
    )  # fmt: skip
    views = _pixels(policy(images, u), policy)  # view batch 3 side side
    clean = Crops.parse(CROPS)
    grid = _pixels(clean.views(policy, images, rows), policy)[: clean.count**2]
    originals = sample.thumbnails(chosen.tolist())
    return [
        Patched(
            name=sample.names[index],
            label=sample.label(index),
            original=picture(originals[k]),
            views=[picture(view) for view in views[:, k]],
            grid=tiles(grid[:, k], clean.count),
        )
        for k, index in enumerate(chosen.tolist())
    ]


def _pixels(views: Tensor, policy: Policy) -> Tensor:
    """Views as pictures again: uint8."""
    values = views.mul(policy.augmentation.std).add(policy.augmentation.mean)
    return values.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
