"""Which images a step sees: a function of the seed and the step alone."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from empssl.data.base import BadSample, ImageSet, MemoryImages
from empssl.data.duplicates import contents
from empssl.errors import DataError, UsageError
from empssl.rng import permutation
from empssl.types import Images


@dataclass(frozen=True)
class Drawn:
    """One process's share of a step's batch.

    Attributes:
        pixels: the images.
        samples: int64 (batch,), their indices in the data set.
        epoch: the pass over the data.
        bad: images that were to come, could not be read and have been replaced.
        new: int64, which of the samples were drawn for the first time; none of a set in memory.
        contents: what the new ones show, a row of `duplicates.contents` each.
    """

    pixels: Images
    samples: Tensor
    epoch: int
    bad: tuple[BadSample, ...] = ()
    new: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    contents: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))


class Sampler:
    """Each epoch visits the images in a new order; what does not fill a batch is left out.

    An image that turns out unreadable is replaced by the one half an epoch later in the order, so
    that every process and a resumed run agree on the replacement.

    Args:
        images: what to draw from.
        batch: global batch, over all processes.
        seed: of the run.
        rank: of this process.
        world: number of processes.

    Raises:
        UsageError: fewer images than a batch, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch: int,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        usable = images.valid if isinstance(images, MemoryImages) else torch.ones(len(images)) > 0
        self.usable = usable.nonzero()[:, 0]
        if len(self.usable) < batch:
            raise UsageError(
                f"a batch of {batch} images was asked for, but only {len(self.usable)} can be "
                f"used; choose --batch {max(2, len(self.usable) // 4)} or give more images"
            )
        if batch % world:
            raise UsageError(f"a batch of {batch} images cannot be shared by {world} processes")
        self.images, self.seed = images, seed
        self.batch, self.rank, self.world = batch, rank, world
        self.steps_per_epoch = len(self.usable) // batch
        self._order: tuple[int, Tensor] = (-1, self.usable)
        self._drawn = torch.zeros(len(images), dtype=torch.bool)
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Drawn]] | None = None

    def draw(self, step: int) -> Drawn:
        """The images of a step; those of the next are read meanwhile, if reading takes time."""
        if self._next is not None and self._next[0] == step:
            drawn = self._next[1].result()
        else:
            drawn = self._read(step)
        if not isinstance(self.images, MemoryImages):
            self._drawn[drawn.new] = True
            self._next = (step + 1, self._reader.submit(self._read, step + 1))
        return drawn

    def drawn_before(self, step: int) -> Tensor:
        """int64, which samples the steps before this one were to draw; of the first epoch alone."""
        order = self.usable[permutation(len(self.usable), seed=self.seed, epoch=0)]
        return order[: min(step, self.steps_per_epoch) * self.batch]

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> Drawn:
        epoch, position = divmod(step, self.steps_per_epoch)
        kept, order = self._order  # read once: two threads may be at two epochs
        if kept != epoch:
            order = self.usable[permutation(len(self.usable), seed=self.seed, epoch=epoch)]
            self._order = (epoch, order)
        share = self.batch // self.world
        places = torch.arange(share) + position * self.batch + self.rank * share
        samples = order[places]
        got = self.images.read(samples.tolist())
        pixels, bad = got.pixels, list(got.bad)
        for attempt in range(1, 21):
            if got.valid.all():
                return self._noted(Drawn(pixels, samples, epoch, tuple(bad)))
            rows = torch.isin(samples, torch.tensor([b.index for b in got.bad])).nonzero()[:, 0]
            later = places[rows] + len(order) // 2 + (attempt - 1) * self.batch
            samples[rows] = order[later % len(order)]
            got = self.images.read(samples[rows].tolist())
            pixels[rows] = got.pixels
            bad += got.bad
        raise DataError(
            f"step {step}: 20 images in a row could not be read, the last of them {bad[-1].name!r} "
            f"({bad[-1].reason}: {bad[-1].error})"
        )

    def _noted(self, drawn: Drawn) -> Drawn:
        """With what is shown by images that no step has drawn before."""
        if isinstance(self.images, MemoryImages):
            return drawn
        new = ~self._drawn[drawn.samples]
        return replace(drawn, new=drawn.samples[new], contents=contents(drawn.pixels[new]))
