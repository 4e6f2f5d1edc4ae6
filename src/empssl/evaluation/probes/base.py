"""What every probe has in common: labeled embeddings, a linear classifier, a score."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from empssl.errors import DataError, UsageError
from empssl.metrics.classification import Predictions
from empssl.metrics.embeddings import check_finite
from empssl.models import EmbeddingPart
from empssl.types import Embeddings

TrainEmbeddings = Float[Tensor, "train feature"]
TrainLabels = Int64[Tensor, " train"]
TestEmbeddings = Float[Tensor, "test feature"]
TestLabels = Int64[Tensor, " test"]


@dataclass(frozen=True)
class Labeled:
    """Labeled embeddings, ready for arithmetic: float32, one device, classes counted from zero.

    Attributes:
        train_classes: position of each label in `labels`.
        test_classes: position of each label in `labels`.
        labels: the labels of the training set, ascending.
    """

    train: TrainEmbeddings
    train_classes: TrainLabels
    test: TestEmbeddings
    test_classes: TestLabels
    labels: Int64[Tensor, " class"]

    @classmethod
    def checked(
        cls, train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
    ) -> "Labeled":
        """The embeddings and classes, on the device of `train`.

        Raises:
            DataError: sizes that do not fit, values that are not finite, unknown labels, fewer
                than two classes to learn, or a test class that cannot be learned.
        """
        for part, embeddings, labels in (
            ("train", train, train_labels),
            ("test", test, test_labels),
        ):
            check_finite(embeddings, part)
            if len(embeddings) != len(labels):
                raise DataError(
                    f"{part}: {len(embeddings)} embeddings but {len(labels)} labels; "
                    "give one label for each row"
                )
            if unknown := int((labels < 0).sum()):
                raise DataError(
                    f"{part}: {unknown} of {len(labels)} images have no label (-1); "
                    "leave them out of the evaluation"
                )
        if train.shape[1] != test.shape[1]:
            raise DataError(
                f"train embeddings have {train.shape[1]} features, test embeddings "
                f"{test.shape[1]}; embed both with the same run and layer"
            )
        classes = train_labels.unique()
        if len(classes) < 2:
            raise DataError(
                f"all train labels are {classes.tolist()}; a score needs two classes or more"
            )
        unseen = sorted(set(test_labels.unique().tolist()) - set(classes.tolist()))
        if unseen:
            raise DataError(
                f"test has {'class' if len(unseen) == 1 else 'classes'} "
                f"{', '.join(map(str, unseen))}, which train does not; add train images of it "
                "or leave it out of test"
            )
        device = train.device
        return cls(
            train.detach().float(),
            torch.searchsorted(classes, train_labels).to(device),
            test.detach().to(device).float(),
            torch.searchsorted(classes, test_labels.to(classes.device)).to(device),
            classes,
        )

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def holdout(
        self, fraction: float, seed: int
    ) -> tuple[Int64[Tensor, " fit"], Int64[Tensor, " held"]]:
        """Train rows to fit on and train rows to choose by, in the same proportion of every class.

        Every class keeps at least one row to fit on, and gives at least one if it has two.

        Raises:
            UsageError: `fraction` is not between 0 and 1.
            DataError: no class has two images.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"holdout is {fraction}; give a fraction between 0 and 1")
        classes = self.train_classes.cpu()
        shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
        rows = shuffled[classes[shuffled].argsort(stable=True)]  # by class, random within it
        count = classes.bincount()
        place = torch.arange(len(rows)) - (count.cumsum(0) - count)[classes[rows]]
        quota = (count * fraction).round().long().clamp(min=1).minimum(count - 1)
        held = place < quota[classes[rows]]
        if not held.any():
            raise DataError(
                "no class has two train images, so no strength can be chosen on held-out ones; "
                "give more images or a single strength"
            )
        return rows[~held].to(self.train.device), rows[held].to(self.train.device)


@dataclass(frozen=True)
class Classifier:
    """The class with the largest `weight @ embedding + bias`."""

    weight: Float[Tensor, "class feature"]
    bias: Float[Tensor, " class"]

    def logits(self, embeddings: Embeddings) -> Float[Tensor, "sample class"]:
        return torch.addmm(self.bias, embeddings, self.weight.T)

    def predict(self, embeddings: Embeddings) -> Int64[Tensor, " sample"]:
        return self.logits(embeddings).argmax(1)

    def after(self, scaling: "Standardization") -> "Classifier":
        """The same classifier for embeddings that have not been standardized."""
        weight = self.weight / scaling.deviation
        return Classifier(weight, self.bias - weight @ scaling.mean)


def weights_of(
    parts: Sequence[EmbeddingPart], embeddings: Embeddings
) -> Float[Tensor, " feature"] | None:
    """The weight of each feature, of mean square 1; None where all are alike.

    Raises:
        DataError: the parts have another number of features.
    """
    if not parts:
        return None
    width = sum(part.width for part in parts)
    if width != embeddings.shape[1]:
        raise DataError(
            f"parts of {width} features were given for embeddings of {embeddings.shape[1]}; "
            "give the parts of that layer"
        )
    weights = torch.cat([embeddings.new_full((part.width,), part.weight) for part in parts])
    return weights / weights.square().mean().sqrt()


@dataclass(frozen=True)
class Standardization:
    """Mean 0 and variance 1 for each feature of the train set; a constant feature becomes 0."""

    mean: Float[Tensor, " feature"]
    deviation: Float[Tensor, " feature"]

    @classmethod
    def of(cls, train: Embeddings, parts: Sequence[EmbeddingPart] = ()) -> "Standardization":
        """Measured on the train set.

        Args:
            train: embeddings.
            parts: of theirs. Their weights are the deviations that they get; the mean of the
                variances stays 1, and a strength means what it means without weights.
        """
        mean = train.mean(0)
        # Rounding leaves a constant feature a deviation near 1e-7 of its size: not a signal.
        deviation = train.std(0, correction=0)
        constant = deviation <= 1e-6 * mean.abs().clamp(min=torch.finfo(train.dtype).tiny)
        deviation = deviation.masked_fill(constant, 1.0)
        weights = weights_of(parts, train)
        return cls(mean, deviation if weights is None else deviation / weights)

    def __call__(self, embeddings: Embeddings) -> Embeddings:
        return (embeddings - self.mean) / self.deviation


@dataclass(frozen=True)
class Strength:
    """A strength, and why it was chosen.

    Attributes:
        value: of the penalty.
        held_out: percent of the held-out images put in their class with each strength tried.
    """

    value: float
    held_out: dict[float, float]

    @classmethod
    def select_l2(
        cls,
        strengths: Sequence[float],
        accuracy: Callable[[float], float],
        *,
        patience: int | None = None,
    ) -> "Strength":
        """The strength with most of the held-out images right; of equals, the strongest.

        A single strength is taken as it is.

        Args:
            strengths: to choose from. They are tried from strong to weak.
            accuracy: percent of the held-out images right with a strength.
            patience: stop when so many have done worse than the best before them.

        Raises:
            UsageError: no strength is given, or one is not a positive number.

        >>> Strength.select_l2([0.01, 0.1, 1.0], {1.0: 80.0, 0.1: 90.0, 0.01: 90.0}.get)
        Strength(value=0.1, held_out={1.0: 80.0, 0.1: 90.0, 0.01: 90.0})
        """
        if not strengths or not all(0 < strength < math.inf for strength in strengths):
            raise UsageError(f"strengths are {list(strengths)}; give one or more positive numbers")
        ordered = sorted(set(strengths), reverse=True)
        best, worse = ordered[0], 0
        held_out: dict[float, float] = {}
        for strength in ordered if len(ordered) > 1 else []:
            held_out[strength] = accuracy(strength)
            if held_out[strength] > held_out[best]:
                best, worse = strength, 0
            worse += held_out[strength] < held_out[best]
            if worse == patience:
                break
        return cls(best, held_out)

    def details(self) -> dict[str, Any]:
        """For the details of a score."""
        held_out = {f"{strength:g}": accuracy for strength, accuracy in self.held_out.items()}
        return {"strength": self.value, "held_out": held_out}


ProbeProtocol = str  # sgd, lbfgs, ridge or knn, or that of a probe of your own


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
        predictions: what the rest was counted from.
    """

    protocol: ProbeProtocol
    accuracy: float
    balanced_accuracy: float
    per_class: list[float | None]
    train_size: int
    test_size: int
    seed: int | None
    details: dict[str, Any]
    predictions: Predictions = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        predicted: Int64[Tensor, " test"],
        labeled: Labeled,
        *,
        protocol: ProbeProtocol,
        seed: int | None = None,
        details: dict[str, Any] | None = None,
        probabilities: Float[Tensor, "test class"] | None = None,
    ) -> "Score":
        """The score of one predicted class for each test row."""
        predictions = Predictions(
            predicted, labeled.test_classes, labeled.num_classes, probabilities
        )
        return cls(
            protocol,
            predictions.accuracy,
            predictions.balanced_accuracy,
            predictions.per_class,
            len(labeled.train),
            len(labeled.test),
            seed,
            details or {},
            predictions,
        )
