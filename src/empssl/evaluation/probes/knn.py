"""k nearest neighbors by cosine similarity, and the class that they vote for."""

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
)

_SIMILARITIES = 2**26  # held at a time: 256 MB


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
) -> Score:
    """Each test image goes to the class with the largest sum of exp(similarity / temperature).

    The sum is over its `k` nearest train images (Wu et al. 2018); of equal sums, the lowest
    label wins. Where train has fewer than `k` images all of them vote: `details` has both numbers.

    Raises:
        UsageError: `k` or `temperature` is not positive.
        DataError: see `Labeled.checked`.
    """
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}; give a positive number, e.g. 0.07")
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    similarities, indices = neighbors(labeled.test, labeled.train, k)
    # Relative to the nearest: the same vote, and no overflow at a small temperature.
    votes = ((similarities - similarities[:, :1]) / temperature).exp()
    sums = votes.new_zeros(len(votes), labeled.num_classes)
    sums.scatter_add_(1, labeled.train_classes[indices], votes)
    details = {"k": indices.shape[1], "k_asked": k, "temperature": temperature}
    return Score.of(sums.argmax(1), labeled, protocol="knn", details=details)
