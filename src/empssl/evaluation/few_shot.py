"""How good a few labels are: probes learned from so many images of each class, many times."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from empssl.evaluation.draw import shots
from empssl.evaluation.score import Score

DRAWS = 10
# Held-out images to choose by would be labels too. On whitened patches of CIFAR-10 train images, 1
# to 0.001 change linear by 0.35 points at most; with 0.1 ridge loses 2 of 32 at 10 labels a class.
STRENGTH = 1.0
OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {"strengths": (STRENGTH,)},
    "ridge": {"strengths": (STRENGTH,)},
}


@dataclass(frozen=True)
class FewShot:
    """The scores of one probe, learned from draws of the train images.

    Attributes:
        probe: as in `evaluate`; linear and ridge with one strength, 1, that no label chose.
        layer: where the embedding was taken.
        crops: which patches were averaged.
        model: SHA-256 of the weights, `random-SEED`, or `whitened-patches`.
        shots: images of each class that a draw has.
        train_size: images that a draw has.
        test_size: of all test images, the same for each draw.
        seed: of the draws; those of another seed are others.
        accuracies: percent of the test images, a draw each.
        mean: of the accuracies.
        deviation: their sample standard deviation.
    """

    probe: str
    layer: str
    crops: str
    model: str
    shots: int
    train_size: int
    test_size: int
    seed: int
    accuracies: list[float]
    mean: float
    deviation: float

    @classmethod
    def of(
        cls,
        learn: Callable[..., Score],
        features: tuple[Tensor, Tensor],  # not Embeddings: train and test differ in samples
        labels: tuple[Tensor, Tensor],
        *,
        count: int,
        probe: str,
        layer: str,
        crops: str,
        model: str,
        seed: int,
        draws: int = DRAWS,
    ) -> "FewShot":
        """Learn from `count` images of each class, again for each draw.

        Args:
            learn: a probe, from embeddings and labels of train and test.
            features: of train and test.
            labels: of train and test.
            count: images of each class.
            probe: which, and so on as in the attributes.
            layer: where the embedding was taken.
            crops: which patches were averaged.
            model: whose embeddings.
            seed: of the draws.
            draws: how many.

        Raises:
            DataError: a class has too few images.
        """
        (train, test), (train_labels, test_labels) = features, labels
        options = OPTIONS.get(probe, {})
        found = []
        for draw in range(draws):
            rows = shots(train_labels, count, seed=seed * draws + draw)
            found.append(learn(train[rows], train_labels[rows], test, test_labels, **options))
        accuracies = [score.accuracy for score in found]
        return cls(
            probe, layer, crops, model, count, found[0].train_size, found[0].test_size, seed,
            accuracies, statistics.fmean(accuracies),
            statistics.stdev(accuracies) if draws > 1 else 0.0,
        )  # fmt: skip
