"""Weighted nearest neighbors in NumPy, float64, one query at a time."""

import math

import numpy as np

Array = np.ndarray


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def neighbors(query: Array, bank: Array, k: int) -> list[tuple[float, int]]:
    found = [(cosine(query, row), i) for i, row in enumerate(bank)]
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]


def vote(query: Array, bank: Array, labels: Array, k: int, temperature: float) -> int:
    sums = np.zeros(labels.max() + 1)
    for similarity, i in neighbors(query, bank, k):
        sums[labels[i]] += math.exp(similarity / temperature)
    return int(sums.argmax())


def whitened(train: Array, test: Array) -> tuple[Array, Array]:
    """Principal components of variance 1 on train; those of little variance stay small."""
    mean = train.mean(0)
    covariance = np.zeros((train.shape[1], train.shape[1]))
    for row in train:
        covariance += np.outer(row - mean, row - mean) / len(train)
    values, vectors = np.linalg.eigh(covariance)
    floor = 1e-3 * sum(values) / len(values)
    scaled = np.array(
        [v / math.sqrt(max(value, floor)) for value, v in zip(values, vectors.T, strict=True)]
    )
    return (train - mean) @ scaled.T, (test - mean) @ scaled.T
