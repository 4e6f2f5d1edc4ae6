"""What a probe said of each test image, and what is true."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """A class for each test image.

    Attributes:
        predicted: position of the class among those of train.
        truth: the same of the label.
        num_classes: of train.
        probabilities: of every class, from a probe that gives them.
    """

    predicted: Int64[Tensor, " test"]
    truth: Int64[Tensor, " test"]
    num_classes: int
    probabilities: Float[Tensor, "test class"] | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def part(self, rows: slice) -> "Answers":
        """Those of some of the images."""
        some = None if self.probabilities is None else self.probabilities[rows]
        return Answers(self.predicted[rows], self.truth[rows], self.num_classes, some)

    @property
    def accuracy(self) -> float:
        """Percent of images put in their class."""
        return percent(self.predicted, self.truth)

    @property
    def per_class(self) -> list[float | None]:
        """Accuracy by class; None where test has no image of it."""
        confusion = self.confusion
        return [100 * row[at] / sum(row) if sum(row) else None for at, row in enumerate(confusion)]

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes that test has."""
        present = [accuracy for accuracy in self.per_class if accuracy is not None]
        return sum(present) / len(present)

    @property
    def confusion(self) -> list[list[int]]:
        """Images of the class of the row that were put in that of the column."""
        pairs = self.truth * self.num_classes + self.predicted
        counts: list[list[int]] = (
            pairs.bincount(minlength=self.num_classes**2).view(self.num_classes, -1).tolist()
        )
        return counts


def percent(predicted: Int64[Tensor, " n"], classes: Int64[Tensor, " n"]) -> float:
    """Percent of predictions that are right.

    >>> import torch
    >>> percent(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 2, 1]))
    75.0
    """
    return 100 * int((predicted == classes).sum()) / len(classes)
