"""What is wrong with images: nearly one color, unreadable, or folders taken for classes."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from empssl.data.base import BadSample, ImageSet
from empssl.errors import DataError
from empssl.progress import visible
from empssl.runs.files import append, open_regular, writing
from empssl.runs.records import BadSampleLine
from empssl.runs.schema import read_json_lines
from empssl.types import Images, Valid

LOOKED_AT, NEAR_CONSTANT_SHARE = 512, 0.05  # images; more of them than this are worth a warning
LEVELS = 8  # of 255: what compression makes of one color stays below
_SHOWN, _LONGEST = 10, 40  # classes that are named, and letters of a name


def near_constant(pixels: Images) -> Valid:
    """Which images span at most 8 of 255 levels in every channel.

    >>> import torch
    >>> white, ramp = torch.full((3, 4, 4), 255), torch.arange(48).view(3, 4, 4)
    >>> near_constant(torch.stack([white, ramp]).byte()).tolist()
    [True, False]
    """
    span = pixels.amax((2, 3)) - pixels.amin((2, 3))  # image channel
    return (span <= LEVELS).all(1)


def class_counts(images: ImageSet) -> str:
    """How many images each class has, by its name; of many classes, the first ten.

    >>> import torch
    >>> from empssl.data.base import MemoryImages
    >>> pixels, labels = torch.zeros(3, 3, 2, 2).byte(), torch.tensor([0, 1, 0])
    >>> class_counts(MemoryImages(pixels, name="pets", split="all", fingerprint="", labels=labels,
    ...                           class_names=["cat", "dog"]))
    '2 classes in 3 images: cat 2, dog 1'
    """
    which = "" if images.split == "all" else f"{images.split} "
    where = f"in {len(images)} {which}images"
    if images.part:
        where += f" ({shortened(images.part)})"
    if images.labels is None:
        return f"no classes {where}"
    known = images.labels[images.labels >= 0]
    labels, counts = known.unique(return_counts=True)
    listed = [
        f"{shortened(images.class_name(label))} {count}"
        for label, count in zip(labels[:_SHOWN].tolist(), counts[:_SHOWN].tolist(), strict=True)
    ]
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    unknown = len(images) - len(known)
    without = f"; {unknown} without a class" if unknown else ""
    kinds = "1 class" if len(labels) == 1 else f"{len(labels)} classes"
    return f"{kinds} {where}: {', '.join(listed)}{more}{without}"


def shortened(name: str) -> str:
    """A name that fits into a line, control characters as escapes.

    >>> shortened("café"), shortened(f"red{chr(27)}[31m").count("x1b"), len(shortened("x" * 99))
    ('café', 1, 40)
    """
    shown = visible(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


class BadSamples:
    """A ledger with one line for each bad image, and a budget.

    The budget is 1 % of the images, at most 1,000. In a set of fewer than 5,000 it is 50, as long
    as that is not more than a fifth: a handful of broken files should not stop a small run.

    A ledger that exists is continued: images in it are not written again, and count.

    Args:
        path: JSON lines; None keeps the ledger in memory only.
        total: images in the set.

    Attributes:
        count: bad images so far.
        budget: how many there may be.

    >>> BadSamples(None, total=100).budget, BadSamples(None, total=50_000).budget
    (20, 500)
    """

    def __init__(self, path: Path | None, total: int) -> None:
        self.path = path
        self.total = total
        self.budget = max(min(total // 100, 1000), min(50, total // 5))
        self._names: set[str] = set()
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        if path is not None:
            for row in read_json_lines(path, BadSampleLine):
                self._note(row["name"], row["reason"], row["error"])
            if path.exists():
                _cut_torn_line(path)

    @property
    def count(self) -> int:
        return len(self._names)

    def add(self, sample: BadSample, *, epoch: int, step: int) -> None:
        """Write `sample` down, unless it is in the ledger already.

        Raises:
            DataError: more bad images than the budget.
            CheckpointError: the storage refused.
        """
        if sample.name in self._names:
            return
        self._note(sample.name, sample.reason, sample.error)
        if self.path is not None:
            append(self.path, json.dumps(asdict(sample) | {"epoch": epoch, "step": step}))
        if self.count > self.budget:
            listed = f", listed in '{self.path}'" if self.path is not None else ""
            raise DataError(
                f"{self.count} of {self.total} images cannot be used{listed}, and at most "
                f"{self.budget} may be bad. Repair or remove them:\n{self.summary()}"
            )

    def summary(self) -> str:
        """The ten most frequent reasons, a line each, with their counts and first examples."""
        return "\n".join(
            f"{count:6d}  {reason}, first {self._examples[reason]}"
            for reason, count in self._reasons.most_common(10)
        )

    def _note(self, name: str, reason: str, error: str) -> None:
        self._names.add(name)
        self._reasons[reason] += 1
        self._examples.setdefault(reason, f"{name!r} ({error})")


def _cut_torn_line(path: Path) -> None:
    """Cut off a line that was being written when a run ended; all others have been understood."""
    with writing(path), open_regular(path, "r+b") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def near_constant_share(
    images: ImageSet, usable: Tensor, say: Callable[[str], None]
) -> dict[str, int]:
    """Of some images, evenly spread, how many have next to nothing to see; tells if many do.

    Args:
        images: of a run.
        usable: int64, those that can be read.
        say: what tells it.
    """
    spread = usable[:: max(1, len(usable) // LOOKED_AT)][:LOOKED_AT]
    got = images.read(spread.tolist())
    found = {"found": int(near_constant(got.pixels[got.valid]).sum()), "of": len(spread)}
    if found["found"] > NEAR_CONSTANT_SHARE * found["of"]:
        say(
            f"{found['found']} of {found['of']} images looked at are nearly of one color; "
            "see whether they are what they should be: nothing can be learned from them"
        )
    return found
