"""Spectra in NumPy, float64."""

import math

import numpy as np

Array = np.ndarray


def eigenvalues(embeddings: Array) -> Array:
    mean = sum(embeddings) / len(embeddings)
    covariance = sum(np.outer(h - mean, h - mean) for h in embeddings) / len(embeddings)
    return np.sort(np.linalg.eigvals(covariance).real)[::-1]


def effective_rank(embeddings: Array) -> float:
    sigma = np.linalg.svd(embeddings, compute_uv=False)
    entropy = 0.0
    for share in sigma / sigma.sum():
        if share > 0:
            entropy -= share * math.log(share)
    return math.exp(entropy)
