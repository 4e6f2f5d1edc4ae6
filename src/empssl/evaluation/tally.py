"""What became of the images of a split: each is scored, or counted here."""

from dataclasses import dataclass, field

from empssl.data import BadSample


@dataclass(frozen=True)
class Tally:
    """Counts of a split, so that listed = used + unlabeled + not_drawn + len(bad).

    Attributes:
        listed: images that the data set has.
        used: images that probes learned from, or were scored on.
        unlabeled: images without a label.
        not_drawn: images that `train_size` left out.
        bad: images that could not be read.
        near_constant: used, though there is next to nothing to see.
        in_train: used in test, though the same picture is in train.
        part: the folders or files that hold them, where the data themselves are divided.
        trained_on: used, and among the images that the encoder was trained on; None where the run
            does not say which those were.
        near_trained_on: used, and nearly equal to one of those, or equal; None where that was not
            asked for, or the run does not say.
    """

    listed: int
    used: int
    unlabeled: int = 0
    not_drawn: int = 0
    near_constant: int = 0
    in_train: int = 0
    part: str = ""
    trained_on: int | None = None
    near_trained_on: int | None = None
    bad: list[BadSample] = field(default_factory=list)

    def remarks(self, split: str) -> list[str]:
        """A line for each thing that a reader of the scores should know."""
        found = {
            f"cannot be used, such as {self._example}": len(self.bad),
            "are without a label": self.unlabeled,
            "are nearly of one color": self.near_constant,
            "are in train too": self.in_train,
        }
        return [f"{n} of {self.listed} {split} images {what}" for what, n in found.items() if n]

    @property
    def _example(self) -> str:
        # As Python writes it: a name may hold what cannot be printed.
        return f"{self.bad[0].name!r} ({self.bad[0].reason})" if self.bad else ""
