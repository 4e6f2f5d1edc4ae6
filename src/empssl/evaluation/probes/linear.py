"""Linear probes: softmax regression on frozen embeddings, as published and as solved."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
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


def sgd_probe(
    train: TrainEmbeddings,
    train_labels: TrainLabels,
    test: TestEmbeddings,
    test_labels: TestLabels,
    *,
    lr: float = 0.03,
    momentum: float = 0.9,
    weight_decay: float = 5e-5,
    batch: int = 100,
    epochs: int = 100,
    seed: int = 0,
) -> Score:
    """The EMP-SSL authors' probe: softmax regression by SGD on embeddings as they are.

    The learning rate follows a cosine, one value per epoch. The score is that of the last epoch;
    the authors' code prints the best epoch on test beside it, which `details` has as
    `best_on_test` to show what that is worth: it is chosen on test, and no score. Two differences
    from their code leave the optimum alone: weights start at zero, and an incomplete last batch is
    used.

    Raises:
        DataError: see `Labeled.checked`.
    """
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    options: dict[str, Any] = {
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "batch": batch,
        "epochs": epochs,
    }
    x, y = labeled.train, labeled.train_classes
    on_test: list[float] = []

    def watch(classifier: Classifier) -> None:
        on_test.append(percent(classifier.predict(labeled.test), labeled.test_classes))

    fitted = sgd_regression(x, y, labeled.num_classes, **options, seed=seed, each=watch)
    details = options | {
        "train_accuracy": percent(fitted.predict(x), y), "best_on_test": max(on_test)
    }  # fmt: skip
    logits = fitted.logits(labeled.test)
    return Score.of(
        logits.argmax(1), labeled, protocol="sgd", seed=seed, details=details,
        probabilities=logits.softmax(1),
    )  # fmt: skip


def sgd_regression(
    x: Float[Tensor, "fit feature"],
    classes: Int64[Tensor, " fit"],
    num_classes: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    batch: int,
    epochs: int,
    seed: int,
    each: Callable[[Classifier], None] | None = None,
) -> Classifier:
    """The classifier after the last epoch; see `sgd_probe`. `each` sees it after every epoch."""
    weight, bias = x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes)
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        rate = lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(batch):
            # The gradient by hand: autograd and an optimizer object double the time of a step.
            images = x.index_select(0, rows)
            slope = torch.addmm(bias, images, weight.T).softmax(1)
            slope = (slope - F.one_hot(classes[rows], num_classes)) / len(rows)
            weight_velocity.mul_(momentum).addmm_(slope.T, images)
            weight_velocity.add_(weight, alpha=weight_decay)
            bias_velocity.mul_(momentum).add_(slope.sum(0)).add_(bias, alpha=weight_decay)
            weight.sub_(weight_velocity, alpha=rate)
            bias.sub_(bias_velocity, alpha=rate)
        if each is not None:
            each(Classifier(weight, bias))
    return Classifier(weight, bias)


def lbfgs_probe(
    train: TrainEmbeddings,
    train_labels: TrainLabels,
    test: TestEmbeddings,
    test_labels: TestLabels,
    *,
    strengths: Sequence[float] = (1.0, 0.1, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5),
    holdout: float = 0.1,
    seed: int = 0,
    parts: Sequence[EmbeddingPart] = (),
) -> Score:
    """Softmax regression on standardized embeddings, solved; strength chosen on train alone.

    loss = mean cross-entropy + strength / 2 ||W||^2; scikit-learn's C is 1 / (strength n).
    Every strength is fitted on 1 - `holdout` of each train class and the one with most of the
    rest right is fitted again on all of train; of equals, the strongest. The search goes from
    strong to weak and ends when two have done worse than the best. Test is scored once.
    A single strength is used as it is and nothing is held out. `parts` have the weights of
    `Standardization.of`.

    Raises:
        UsageError: a strength or `holdout` out of range.
        DataError: see `Labeled.checked` and `Labeled.holdout`.
    """
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    # Rows to fit on come first, so that one standardized copy serves both parts.
    rows = torch.arange(len(labeled.train), device=labeled.train.device)
    num_fit = len(rows)
    if len(strengths) > 1:
        divided = labeled.holdout(holdout, seed)
        rows, num_fit = torch.cat(divided), len(divided[0])
    scaling = Standardization.of(labeled.train, parts)
    x = labeled.train[rows].sub_(scaling.mean).div_(scaling.deviation)  # in place: it is large
    y = labeled.train_classes[rows]
    basis = None
    if len(x) < x.shape[1]:
        # The best W lies in the span of the images: with fewer of them than features the same
        # problem is smaller in an orthonormal basis of that span.
        basis = torch.linalg.qr(x.T).Q  # (feature, image)
        x = x @ basis
    gram = x.T @ x / len(x)
    zero = Classifier(
        x.new_zeros(labeled.num_classes, x.shape[1]), x.new_zeros(labeled.num_classes)
    )
    fits: dict[float, Classifier] = {}

    def accuracy(strength: float) -> float:
        # Each fit starts where the stronger one ended, and a choice needs only 3 digits.
        start = next(reversed(fits.values()), zero)
        fit = x[:num_fit], y[:num_fit]
        fits[strength] = softmax_regression(*fit, strength, start, gram, tolerance=5e-4)
        return percent(fits[strength].predict(x[num_fit:]), y[num_fit:])

    chosen = Strength.select_l2(strengths, accuracy, patience=2)
    fitted = softmax_regression(x, y, chosen.value, fits.get(chosen.value, zero), gram)
    details = chosen.details() | {"train_accuracy": percent(fitted.predict(x), y)}
    if basis is not None:
        fitted = Classifier(fitted.weight @ basis.T, fitted.bias)
    logits = fitted.after(scaling).logits(labeled.test)
    return Score.of(
        logits.argmax(1), labeled, protocol="lbfgs", seed=seed, details=details,
        probabilities=logits.softmax(1),
    )  # fmt: skip


def softmax_regression(
    x: Float[Tensor, "fit feature"],
    classes: Int64[Tensor, " fit"],
    strength: float,
    start: Classifier,
    gram: Float[Tensor, "feature feature"],
    *,
    tolerance: float = 1e-5,
    max_steps: int = 100,
) -> Classifier:
    """The minimizer of mean cross-entropy + strength / 2 ||W||^2, by L-BFGS in round coordinates.

    The curvature in W is at most x^T x / 2n (Boehning 1992). With L L^T = gram / 2 + strength I
    and U = W L the problem in U has curvature at most 1 in every direction, and a dozen or two
    steps do what takes hundreds in W. The result does not depend on `gram`, only the time does.

    Args:
        x: standardized.
        classes: of each row, counted from zero.
        strength: of the penalty on W; the bias is free.
        start: where to begin, e.g. the solution for a stronger penalty.
        gram: x^T x / n, or that of a set much like it.
        tolerance: largest slope, in U, of a solution.
        max_steps: give up improving after so many.
    """
    # 1e-3 keeps float32 safe where features repeat each other.
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    root = torch.linalg.cholesky(gram / 2 + (strength + 1e-3 * gram.diagonal().mean()) * eye)
    inverse = torch.linalg.solve_triangular(root, eye, upper=False)
    u = (start.weight @ root).requires_grad_()
    bias = start.bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [u, bias], max_iter=max_steps, tolerance_grad=tolerance, tolerance_change=1e-7,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        weight = u @ inverse
        # Classes before rows in both: a (feature, class) weight has a 10x slower gradient, and
        # (row, class) logits take a quarter longer.
        logits = torch.addmm(bias[:, None], weight, x.T)
        value: Tensor = F.cross_entropy(logits[None], classes[None])
        value = value + strength / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return Classifier(u.detach() @ inverse, bias.detach())
