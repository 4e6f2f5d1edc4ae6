"""Views from worker processes: an image at a time, a patch at a time."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from empssl.diagnostics.reference.views import view
from empssl.rng import permutation, uniform
from empssl.types import Images
from empssl.views.patches import DRAWS

EpochPosition = tuple[int, int]  # an epoch, and an image's index


class PatchViews(Dataset[Tensor]):
    """The views of one image in one epoch, drawn as the engine draws them.

    Args:
        images: all of them.
        patches: views of each.
        options: all arguments of `Patches`.
        seed: of the run.
    """

    def __init__(
        self, images: Images, *, patches: int, options: Mapping[str, Any], seed: int
    ) -> None:
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.patches, self.options, self.seed = patches, options, seed

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: EpochPosition) -> Float32[Tensor, "view 3 side side"]:
        epoch, index = place
        image = Image.fromarray(self.pixels[index])
        draws = uniform(
            torch.tensor([index]), seed=self.seed, epoch=epoch, views=range(self.patches),
            draws=len(DRAWS),
        )[:, 0].tolist()  # fmt: skip
        chains = [view(image, dict(zip(DRAWS, u, strict=True)), self.options) for u in draws]
        return torch.from_numpy(np.stack(chains))


class Epochs(Sampler[list[EpochPosition]]):
    """Batches for ever, each epoch in the order in which the engine visits the images.

    Epochs follow each other without a pause, so that workers never stand still between them.
    """

    def __init__(self, images: int, *, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed

    def __iter__(self) -> Iterator[list[EpochPosition]]:
        epoch = 0
        while True:
            order = permutation(self.images, seed=self.seed, epoch=epoch).tolist()
            for start in range(0, self.images - self.batch + 1, self.batch):
                yield [(epoch, index) for index in order[start : start + self.batch]]
            epoch += 1


def loader(
    images: Images, *, patches: int, batch: int, options: Mapping[str, Any], seed: int,
    workers: int,
) -> DataLoader[Tensor]:  # fmt: skip
    """Batches (batch, view, 3, side, side) from persistent processes.

    Args:
        images: all of them.
        patches: views of each.
        batch: images in a step.
        options: all arguments of `Patches`.
        seed: of the order and of the views.
        workers: processes; 0 draws the views in this one.
    """
    return DataLoader(
        PatchViews(images, patches=patches, options=options, seed=seed),
        batch_sampler=Epochs(len(images), batch=batch, seed=seed), num_workers=workers,
        persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
