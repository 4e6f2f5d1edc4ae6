"""Which images a run learns from, written down as it goes: what `evaluate` counts leaks by."""

from itertools import chain

import torch
from torch import Tensor

from empssl.data.base import ImageBatch, ImageSet, MemoryImages
from empssl.data.checks import LOOKED_AT
from empssl.data.duplicates import contents, listed
from empssl.data.sampler import Sampler
from empssl.device import Fabric
from empssl.distributed.collectives import all_gather_object, on_rank_zero
from empssl.errors import CheckpointError
from empssl.progress import say
from empssl.runs.run import Run
from empssl.runs.trained_images import TrainedImages
from empssl.types import ContentHashes

COMPARED_AT_ONCE = 8192  # images, with those that a run learned from


class TrainedImagesLog:
    """The run's list of trained images: of a set in memory all at once, else what steps drew.

    Args:
        fabric: of the run.
        run: where it is written.
        images: of the run.
    """

    def __init__(self, fabric: Fabric, run: Run, images: ImageSet) -> None:
        self.fabric, self.run, self.images = fabric, run, images
        self.memory = images if isinstance(images, MemoryImages) else None
        self.known: TrainedImages | None = None  # None where the list would have gaps
        self._new: list[Tensor] = []  # hashes that the list lacks

    def saw(self, images: ImageBatch) -> None:
        """Count these images, which something else than a step has learned from."""
        if self.memory is None:
            self._new.append(contents(images.pixels[images.valid]))

    def drew(self, hashes: ContentHashes) -> None:
        """Count the images of a step."""
        if len(hashes):
            self._new.append(hashes)

    def begin(self, *, anew: bool) -> None:
        """Have the run say which images it learns from; of a set in memory all, and at once.

        Args:
            anew: forget what it said.
        """
        if not anew:
            try:
                self.known = self.run.trained_images
            except CheckpointError as error:
                self._say(f"{error}; {'it is made anew' if self.memory else 'none is kept'}")
        elif not self.memory:
            self.known = TrainedImages(torch.empty(0, 2, dtype=torch.int64), whole=False)
        # Of a larger set whose list is lost, what is drawn from now on would not be all.
        if self.memory and self.known is None and self.fabric.is_global_zero:
            valid = self.memory.valid.nonzero()[:, 0]
            self.known = TrainedImages(hashes_of(self.memory, valid), whole=True)
        if anew or self.memory:
            self._write()

    def write_new(self) -> None:
        """Write down what was drawn since the last time, in any process."""
        if self.memory:
            return
        every, self._new = all_gather_object(self._new), []
        if self.known is not None and any(every):
            self.known.add(torch.cat([*chain(*every)]))
            self._write()

    def warn_of_changes(self, sampler: Sampler, step: int) -> None:
        """Say how many images show something else than when the run learned from them.

        The fingerprint of a folder knows names and sizes of files, and not what is in them. Of a
        set that is not in memory some images are looked at, evenly spread over those drawn so far.

        Args:
            sampler: of the run.
            step: where it stands.
        """
        if self.known is None:
            return
        samples = sampler.usable if self.known.whole else sampler.drawn_before(step)
        if not self.memory:
            # Others were drawn in the place of bad ones.
            bad = {row["name"] for row in self.run.bad_samples()}
            samples = samples[:: max(1, len(samples) // LOOKED_AT)][:LOOKED_AT]
            samples = samples[[self.images.sample_name(i) not in bad for i in samples.tolist()]]
        changed = torch.zeros(len(samples), dtype=torch.bool)
        for rows in torch.arange(len(samples)).split(COMPARED_AT_ONCE):
            got = self.images.read(samples[rows].tolist())
            changed[rows] = got.valid.cpu() & ~listed(got.pixels, self.known.rows)
        if not changed.any():
            return
        if self.memory:  # others are listed when they are drawn
            self.known.add(hashes_of(self.images, samples[changed]))
            self.run.trained_images = self.known
        example = self.images.sample_name(int(samples[changed][0]))
        self._say(
            f"{int(changed.sum()):,} of {len(samples):,} images"
            f"{'' if self.memory else ' looked at'} show something "
            f"else than when {self.run.path} learned from them, such as {example!r}: their files "
            "were replaced by others of the same name and size, or are decoded otherwise here; the "
            "run goes on with the images as they are now"
        )

    def _write(self) -> None:
        def write() -> None:
            if self.known is not None:
                self.run.trained_images = self.known

        on_rank_zero(self.fabric, write)

    def _say(self, text: str) -> None:
        if self.fabric.is_global_zero:
            say(text)


def hashes_of(images: ImageSet, samples: Tensor) -> ContentHashes:
    """The contents of some images of a set, int64 samples."""
    parts = samples.split(COMPARED_AT_ONCE)
    return torch.cat([contents(images.read(part.tolist()).pixels.cpu()) for part in parts])
