"""How many test images were put in their class."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float, Int64
from torch import Tensor

from empssl.evaluation.answers import Answers
from empssl.evaluation.labeled import Labeled

Protocol = Literal["sgd", "lbfgs", "ridge", "knn"]


@dataclass(frozen=True)
class Score:
    """Percent of test images put in their class, larger is better.

    Attributes:
        protocol: how the classes were learned.
        accuracy: over images.
        balanced_accuracy: mean over the classes that test has.
        per_class: accuracy by train class, ascending label; None where test has no image of it.
        seed: of whatever the protocol draws; None where it draws nothing.
        details: options and by-products, e.g. the strength chosen or the train accuracy.
        answers: what the rest was counted from.
    """

    protocol: Protocol
    accuracy: float
    balanced_accuracy: float
    per_class: list[float | None]
    train_size: int
    test_size: int
    seed: int | None
    details: dict[str, Any]
    answers: Answers = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        predicted: Int64[Tensor, " test"],
        labeled: Labeled,
        *,
        protocol: Protocol,
        seed: int | None = None,
        details: dict[str, Any] | None = None,
        probabilities: Float[Tensor, "test class"] | None = None,
    ) -> "Score":
        """The score of one predicted class for each test row."""
        answers = Answers(predicted, labeled.test_classes, labeled.num_classes, probabilities)
        return cls(
            protocol,
            answers.accuracy,
            answers.balanced_accuracy,
            answers.per_class,
            len(labeled.train),
            len(labeled.test),
            seed,
            details or {},
            answers,
        )
