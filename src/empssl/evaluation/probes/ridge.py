"""Ridge regression on class membership: the probe with a closed form."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.evaluation.probes.base import (
    Classifier,
    Labeled,
    Score,
    Standardization,
    Strength,
    TestEmbeddings,
    TestLabels,
    TrainEmbeddings,
    TrainLabels,
)
from empssl.metrics.classification import percent
from empssl.models import EmbeddingPart

CrossMoments = Float[Tensor, "column column"]
"""A^T A in float64, with one row [features, class membership, 1] of A for each image."""

_ROWS = 4096  # at a time: the largest temporary is 64 MB at 4,096 features


def ridge_probe(
    train: TrainEmbeddings,
    train_labels: TrainLabels,
    test: TestEmbeddings,
    test_labels: TestLabels,
    *,
    strengths: Sequence[float] = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
    holdout: float = 0.1,
    seed: int = 0,
    parts: Sequence[EmbeddingPart] = (),
) -> Score:
    """Least squares from standardized embeddings to class membership; strength chosen on train.

    loss = mean ||W h + b - onehot||^2 + strength ||W||^2. One pass over the data serves every
    strength: sums of products over all of train minus those over the held-out rows are those
    over the rest. Of strengths that do equally well on the held-out rows, the strongest.
    A single strength is used as it is and nothing is held out. `parts` have the weights of
    `Standardization.of`.

    Raises:
        UsageError: a strength or `holdout` out of range.
        DataError: see `Labeled.checked` and `Labeled.holdout`.
    """
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    x, y = labeled.train, labeled.train_classes
    scaling = Standardization.of(x, parts)
    basis: Tensor | None = None
    if len(x) < x.shape[1]:
        # The best W lies in the span of the images; `lbfgs_probe` does the same.
        basis = torch.linalg.qr(scaling(x).T).Q  # (feature, image)
    moments = _moments(x, y, scaling, basis, labeled.num_classes)
    if len(strengths) > 1:
        _, held = labeled.holdout(holdout, seed)
        rest = moments - _moments(x[held], y[held], scaling, basis, labeled.num_classes)

    def classifier_of(fitted: CrossMoments, strength: float) -> Classifier:
        found = solve(fitted, strength, labeled.num_classes)
        if basis is not None:
            found = Classifier(found.weight @ basis.T, found.bias)
        return found.after(scaling)

    def accuracy(strength: float) -> float:
        try:
            classifier = classifier_of(rest, strength)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return 0.0  # so weak that rounding in nearly dependent features outweighs it
        return percent(classifier.predict(x[held]), y[held])

    chosen = Strength.select_l2(strengths, accuracy)
    fitted = classifier_of(moments, chosen.value)
    details = chosen.details() | {"train_accuracy": percent(fitted.predict(x), y)}
    predicted = fitted.predict(labeled.test)
    return Score.of(predicted, labeled, protocol="ridge", seed=seed, details=details)


def solve(moments: CrossMoments, strength: float, num_classes: int) -> Classifier:
    """W = C_yx (C_xx + strength I)^-1 with covariances C, and the bias that meets the means."""
    count = moments[-1, -1]
    mean = moments[-1, :-1] / count
    covariance = moments[:-1, :-1] / count - mean.outer(mean)
    xx, xy = covariance[:-num_classes, :-num_classes], covariance[:-num_classes, -num_classes:]
    root = torch.linalg.cholesky(xx + strength * torch.eye(len(xx)).to(xx))
    weight = torch.cholesky_solve(xy, root).T
    bias = mean[-num_classes:] - weight @ mean[:-num_classes]
    return Classifier(weight.float(), bias.float())


def _moments(
    x: Tensor, y: Tensor, scaling: Standardization, basis: Tensor | None, num_classes: int
) -> CrossMoments:
    columns = (x if basis is None else basis).shape[1] + num_classes + 1
    total = torch.zeros(columns, columns, dtype=torch.float64, device=x.device)
    for images, classes in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
        membership = F.one_hot(classes, num_classes).to(images)
        h = scaling(images) if basis is None else scaling(images) @ basis
        a = torch.cat([h, membership, images.new_ones(len(images), 1)], 1)
        total += a.T @ a
    return total
