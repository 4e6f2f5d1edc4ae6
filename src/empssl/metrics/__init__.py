"""Numbers from tensors: no files, no devices."""

from empssl.metrics.classification import Calibration, Predictions
from empssl.metrics.embeddings import (
    alignment,
    alpha_req,
    coding_rate_ratio,
    covariance_rank,
    effective_rank,
    eigenvalues,
    lidar,
    rankme,
    separation,
    uniformity,
)
from empssl.metrics.projections import projection_metrics, spectrum

__all__ = [
    "Calibration", "Predictions", "alignment", "alpha_req", "coding_rate_ratio", "covariance_rank",
    "effective_rank", "eigenvalues", "lidar", "projection_metrics", "rankme", "separation",
    "spectrum", "uniformity",
]  # fmt: skip
