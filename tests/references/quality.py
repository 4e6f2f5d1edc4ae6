"""Measures of embeddings without labels, in NumPy, float64, a loop a sum."""

import math
from itertools import combinations

import numpy as np

Array = np.ndarray


def unit(embeddings: Array) -> Array:
    return np.array([row / np.linalg.norm(row) for row in embeddings])


def covariance(rows: Array) -> Array:
    mean = sum(rows) / len(rows)
    return sum(np.outer(row - mean, row - mean) for row in rows) / len(rows)


def entropy_rank(shares: Array) -> float:
    return math.exp(-sum(p * math.log(p) for p in shares / sum(shares) if p > 0))


def rankme(embeddings: Array) -> float:
    return entropy_rank(np.linalg.svd(embeddings, compute_uv=False))


def covariance_rank(embeddings: Array) -> float:
    return entropy_rank(np.linalg.eigvalsh(covariance(embeddings)).clip(0))


def alpha_req(embeddings: Array) -> float:
    values = np.sort(np.linalg.eigvalsh(covariance(embeddings)))[::-1]
    last = max(3, min(len(embeddings) - 1, embeddings.shape[1]) // 2)
    k = np.arange(1, last + 1)
    slope, _ = np.polyfit(np.log(k), np.log(values[:last]), 1, w=np.sqrt(1 / k))
    return -float(slope)


def coding_rate_ratio(embeddings: Array) -> float:
    count, dim = embeddings.shape
    z = unit(embeddings)
    rate = np.linalg.slogdet(np.eye(dim) + dim / 0.2 * covariance(z))[1] / 2
    rank = min(count - 1, dim)
    return float(rate / (rank / 2 * math.log(1 + dim / (rank * 0.2))))


def uniformity(embeddings: Array) -> float:
    z = unit(embeddings)
    near = [math.exp(-2 * sum((a - b) ** 2)) for a, b in combinations(z, 2)]
    return math.log(sum(near) / len(near))


def alignment(views: Array) -> float:
    z = [unit(view) for view in views]
    apart = [
        sum((a[i] - b[i]) ** 2) for a, b in combinations(z, 2) for i in range(views.shape[1])
    ]  # fmt: skip
    return float(sum(apart) / len(apart))


def discriminants(views: Array) -> Array:
    count, images, dim = views.shape
    means = sum(views) / count
    between = covariance(means)
    within = sum(
        np.outer(views[v, i] - means[i], views[v, i] - means[i])
        for v in range(count) for i in range(images)
    ) / (count * images)  # fmt: skip
    within = within + 1e-4 * np.trace(within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return np.linalg.eigvalsh(root @ between @ root).clip(0)


def lidar(views: Array) -> float:
    return entropy_rank(discriminants(views))


def separation(views: Array) -> float:
    return float(np.mean(discriminants(views)))
