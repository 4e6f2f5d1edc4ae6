"""Whether a probe is as sure as it is right."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

BINS = 15  # as Guo et al. (2017)


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
