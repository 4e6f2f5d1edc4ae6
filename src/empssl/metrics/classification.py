"""Accuracy, balanced accuracy, confusion and calibration of predictions."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

BINS = 15  # as Guo et al. (2017)


@dataclass(frozen=True)
class Predictions:
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

    def part(self, rows: slice) -> "Predictions":
        """Those of some of the images."""
        some = None if self.probabilities is None else self.probabilities[rows]
        return Predictions(self.predicted[rows], self.truth[rows], self.num_classes, some)

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


@dataclass(frozen=True)
class Bin:
    """Test images whose largest probability is above `low` and at most `high`.

    Attributes:
        confidence: mean of that probability, in percent.
        accuracy: percent put in their class.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far apart confidence and accuracy are, smaller is better (Guo et al. 2017, eq. 3).

    Attributes:
        expected_error: sum over bins of count / n |accuracy - confidence|, in percentage points.
        bins: those of equal width that hold images.
        num_bins: with the empty ones.
    """

    expected_error: float
    bins: list[Bin]
    num_bins: int

    @classmethod
    def of(
        cls,
        probabilities: Float[Tensor, "test class"],
        truth: Int64[Tensor, " test"],
        *,
        num_bins: int = BINS,
    ) -> "Calibration":
        """The calibration of the largest probability of each row.

        >>> import torch
        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
        >>> found = Calibration.of(sure, torch.tensor([0, 1, 1]), num_bins=2)
        >>> round(found.expected_error, 4)  # all in (0.5, 1]: sure by 83.33, right in 66.67
        16.6667
        """
        confidence, predicted = probabilities.double().max(1)
        right = (predicted == truth).double()
        # An edge belongs to the bin below it, even where float32 lies a little above.
        place = (confidence * num_bins - 1e-6).ceil().clamp(1, num_bins).long() - 1
        bins = []
        for at in place.unique().tolist():
            inside = place == at
            bins.append(
                Bin(
                    at / num_bins, (at + 1) / num_bins, int(inside.sum()),
                    100 * float(confidence[inside].mean()), 100 * float(right[inside].mean()),
                )
            )  # fmt: skip
        gaps = sum(part.count * abs(part.accuracy - part.confidence) for part in bins)
        return cls(gaps / len(truth), bins, num_bins)


def percent(predicted: Int64[Tensor, " n"], classes: Int64[Tensor, " n"]) -> float:
    """Percent of predictions that are right.

    >>> import torch
    >>> percent(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 2, 1]))
    75.0
    """
    return 100 * int((predicted == classes).sum()) / len(classes)
