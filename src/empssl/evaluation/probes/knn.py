"""k nearest neighbors by cosine similarity, and the class that they vote for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from empssl.errors import UsageError
from empssl.evaluation.probes.base import (
    Labeled,
    Score,
    TestEmbeddings,
    TestLabels,
    TrainEmbeddings,
    TrainLabels,
    weights_of,
)
from empssl.models import EmbeddingPart
from empssl.types import Embeddings

_SIMILARITIES = 2**26  # held at a time: 256 MB
_COMPONENTS = 2048  # of whitened embeddings, at most
_FLOOR = 1e-3  # of the mean eigenvalue
_ITERATIONS = 3
_ROWS = 4096  # at a time


def neighbors(
    queries: Float[Tensor, "query feature"], bank: Float[Tensor, "bank feature"], k: int
) -> tuple[Float[Tensor, "query near"], Int64[Tensor, "query near"]]:
    """Cosine similarities and bank rows of each query's `k` nearest, nearest first.

    Of equal similarities the lower row comes first. With fewer than `k` rows, all of them.

    Raises:
        UsageError: `k` is not positive.

    >>> similarities, rows = neighbors(torch.eye(2), torch.tensor([[2.0, 0.0], [3.0, 3.0]]), 2)
    >>> rows.tolist()
    [[0, 1], [1, 0]]
    """
    if k < 1:
        raise UsageError(f"k is {k}; give at least 1")
    bank = F.normalize(bank.float())
    chunks = F.normalize(queries.float()).split(max(1, _SIMILARITIES // len(bank)))
    found = [_nearest(chunk @ bank.T, min(k, len(bank))) for chunk in chunks]
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def _nearest(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk` with a rule for ties, which it picks and orders as it likes."""
    values, rows = similarities.topk(k)
    rows = rows.sort(dim=1).values
    values, order = similarities.gather(1, rows).sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, order)
    # Where a tie reaches past the k-th place, topk may have left out a lower row: sort it all.
    torn = ((similarities >= values[:, -1:]).sum(1) > k).nonzero().flatten()
    for row in torn.tolist():
        rows[row] = similarities[row].argsort(descending=True, stable=True)[:k]
    return values, rows


def knn_score(
    train: TrainEmbeddings,
    train_labels: TrainLabels,
    test: TestEmbeddings,
    test_labels: TestLabels,
    *,
    k: int = 20,
    temperature: float = 0.07,
    parts: Sequence[EmbeddingPart] = (),
) -> Score:
    """Each test image goes to the class with the largest sum of exp(similarity / temperature).

    The sum is over its `k` nearest train images (Wu et al. 2018); of equal sums, the lowest
    label wins. Where train has fewer than `k` images all of them vote: `details` has both numbers.
    The features of `parts` are multiplied by their weights first.

    Raises:
        UsageError: `k` or `temperature` is not positive.
        DataError: see `Labeled.checked`.
    """
    _check_temperature(temperature)
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    bank, queries = _weighted(labeled, parts)
    return _voted(labeled, bank, queries, k, temperature, "knn", {})


def whitened_knn_score(
    train: TrainEmbeddings,
    train_labels: TrainLabels,
    test: TestEmbeddings,
    test_labels: TestLabels,
    *,
    k: int = 20,
    temperature: float = 0.07,
    parts: Sequence[EmbeddingPart] = (),
) -> Score:
    """The vote of `knn_score` among embeddings whose covariance on train is about the identity.

    Raw embeddings vary most in a few directions, by which most of a cosine is decided. Here those
    of `Whitening` are compared, where each direction says as much. Train and test are whitened by
    train, and no label is used for that.

    Raises:
        UsageError: `k` or `temperature` is not positive.
        DataError: see `Labeled.checked`.
    """
    _check_temperature(temperature)
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    bank, queries = _weighted(labeled, parts)
    whitening = Whitening.of(bank)
    details = {"components": whitening.basis.shape[1]}
    return _voted(
        labeled, whitening(bank), whitening(queries), k, temperature, "knn_whitened", details
    )


@dataclass(frozen=True)
class Whitening:
    """From embeddings to their principal components on train, each of variance 1.

    Attributes:
        mean: of train.
        basis: eigenvectors of the covariance C, times max(value, 1e-3 trace C / d)^-1/2, so that
            directions without variance are not blown up. Of more than 2,048 features the 2,048
            leading components alone are kept, and of fewer images than features those that the
            images span.
    """

    mean: Float[Tensor, " feature"]
    basis: Float[Tensor, "feature component"]

    @classmethod
    def of(cls, train: Embeddings) -> "Whitening":
        mean = train.mean(0)
        if len(train) <= min(_COMPONENTS, train.shape[1] - 1):
            return cls(mean, _spanned(train - mean).to(train))
        covariance = torch.zeros(train.shape[1], train.shape[1], device=train.device)
        for rows in train.split(_ROWS):
            centered = rows - mean
            covariance.addmm_(centered.T, centered, alpha=1 / len(train))
        values, vectors = _leading(covariance, _COMPONENTS)
        scale = _scale(values, covariance.diagonal().sum(), train.shape[1])
        return cls(mean, (vectors * scale).to(train))

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, "sample component"]:
        return torch.addmm(-(self.mean @ self.basis), embeddings, self.basis)


def _scale(values: Tensor, total: Tensor, count: int) -> Float[Tensor, " component"]:
    """max(value, 1e-3 total / count)^-1/2; total is the trace of a covariance of `count` rows."""
    floor = max(_FLOOR * float(total) / count, torch.finfo(torch.float32).tiny)
    return torch.rsqrt(values.clamp(min=floor))


def _spanned(centered: Embeddings) -> Float[Tensor, "feature component"]:
    """The basis of `Whitening` from the products of the images, which are fewer than features."""
    x = _double(centered)
    products = x @ x.T / len(x)
    values, vectors = torch.linalg.eigh(products)
    there = values > 1e-9 * values[-1]  # the mean takes one direction away
    values, vectors = values[there], vectors[:, there]
    scale = _scale(values, products.diagonal().sum(), x.shape[1])
    return torch.mm(x.T, vectors * scale / (len(x) * values).sqrt())


def _leading(
    covariance: Float[Tensor, "feature feature"], count: int
) -> tuple[Float[Tensor, " component"], Float[Tensor, "feature component"]]:
    """Eigenvalues and vectors, float64: all of them, or about those of the largest values.

    Of a matrix of more than `count` rows the leading subspace is found by subspace iteration (Halko
    et al. 2011, algorithm 4.4) and the eigenvectors within it: n^3 grows too fast.
    """
    if len(covariance) <= count:
        values, vectors = torch.linalg.eigh(_double(covariance))
        return values, vectors
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(len(covariance), count, generator=generator).to(covariance)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(covariance @ basis).Q
    values, within = torch.linalg.eigh(_double(basis.T @ (covariance @ basis)))
    return values, _double(basis) @ within


def _double(values: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}; give a positive number, e.g. 0.07")


def _weighted(
    labeled: Labeled, parts: Sequence[EmbeddingPart]
) -> tuple[TrainEmbeddings, TestEmbeddings]:
    weights = weights_of(parts, labeled.train)
    if weights is None:
        return labeled.train, labeled.test
    return labeled.train * weights, labeled.test * weights


def _voted(
    labeled: Labeled,
    bank: Tensor,
    queries: Tensor,
    k: int,
    temperature: float,
    protocol: str,
    details: dict[str, Any],
) -> Score:
    similarities, indices = neighbors(queries, bank, k)
    # Relative to the nearest: the same vote, and no overflow at a small temperature.
    votes = ((similarities - similarities[:, :1]) / temperature).exp()
    sums = votes.new_zeros(len(votes), labeled.num_classes)
    sums.scatter_add_(1, labeled.train_classes[indices], votes)
    details = {"k": indices.shape[1], "k_asked": k, "temperature": temperature} | details
    return Score.of(sums.argmax(1), labeled, protocol=protocol, details=details)
