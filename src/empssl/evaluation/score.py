"""How many test images were put in their class."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Int64
from torch import Tensor

from empssl.evaluation.labeled import Labeled

Protocol = Literal["sgd", "lbfgs", "ridge", "knn"]


@dataclass(frozen=True)
class Score:
    """Percent of test images put in their class, larger is better. Plain values, fit for JSON.

    Attributes:
        protocol: how the classes were learned.
        accuracy: over images.
        balanced_accuracy: mean over the classes that test has.
        per_class: accuracy by train class, ascending label; None where test has no image of it.
        seed: of whatever the protocol draws; None where it draws nothing.
        details: options and by-products, e.g. the strength chosen or the train accuracy.
    """

    protocol: Protocol
    accuracy: float
    balanced_accuracy: float
    per_class: list[float | None]
    train_size: int
    test_size: int
    seed: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        predicted: Int64[Tensor, " test"],
        labeled: Labeled,
        *,
        protocol: Protocol,
        seed: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> "Score":
        """The score of one predicted class for each test row."""
        right = predicted == labeled.test_classes
        count = labeled.test_classes.bincount(minlength=labeled.num_classes).tolist()
        hits = labeled.test_classes[right].bincount(minlength=labeled.num_classes).tolist()
        per_class = [100 * h / n if n else None for h, n in zip(hits, count, strict=True)]
        present = [accuracy for accuracy in per_class if accuracy is not None]
        return cls(
            protocol,
            percent(predicted, labeled.test_classes),
            sum(present) / len(present),
            per_class,
            len(labeled.train),
            len(labeled.test),
            seed,
            details or {},
        )


def percent(predicted: Int64[Tensor, " n"], classes: Int64[Tensor, " n"]) -> float:
    """Percent of predictions that are right.

    >>> import torch
    >>> percent(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 2, 1]))
    75.0
    """
    return 100 * int((predicted == classes).sum()) / len(classes)
