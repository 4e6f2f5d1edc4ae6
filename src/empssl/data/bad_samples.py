"""The images that could not be used: written down, counted, and only so many of them."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from empssl.data.images import BadSample
from empssl.errors import DataError
from empssl.records import BadSampleLine
from empssl.schema import read_json_lines
from empssl.storage import append, open_regular, writing


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
