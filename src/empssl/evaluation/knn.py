"""The class that an image's nearest neighbors vote for."""

from empssl.errors import UsageError
from empssl.evaluation.labeled import (
    Labeled,
    TestEmbeddings,
    TestLabels,
    TrainEmbeddings,
    TrainLabels,
)
from empssl.evaluation.score import Score
from empssl.neighbors import neighbors


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
