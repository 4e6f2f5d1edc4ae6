"""Classifiers on frozen embeddings."""

from collections.abc import Callable

from empssl.evaluation.probes.base import Classifier, Labeled, Score, Standardization, Strength
from empssl.evaluation.probes.knn import knn_score, neighbors, whitened_knn_score
from empssl.evaluation.probes.linear import lbfgs_probe, sgd_probe
from empssl.evaluation.probes.ridge import ridge_probe

# Each takes embeddings and labels of train, then of test, and gives a score.
PROBES: dict[str, Callable[..., Score]] = {
    "linear": lbfgs_probe,
    "linear_sgd": sgd_probe,
    "ridge": ridge_probe,
    "knn_whitened": whitened_knn_score,
    "knn": knn_score,
}

__all__ = [
    "PROBES", "Classifier", "Labeled", "Score", "Standardization", "Strength", "knn_score",
    "lbfgs_probe", "neighbors", "ridge_probe", "sgd_probe",
    "whitened_knn_score",
]  # fmt: skip
