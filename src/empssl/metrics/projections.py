"""Collapse metrics of a step's projections, the same whatever the objective, and a monitor."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.types import Projections, Scalar

DISTORTION = 0.2  # of `coding_rate_ratio`, the paper's
UNIFORMITY_SCALE = 2.0  # t in Wang and Isola
LEAST_RANK = 4  # directions that there must be for `participation_ratio` to tell anything
SPECTRA = 50  # kept of a run, or a few less
TINY = 1e-12  # where there is no variance, the participation ratio is 1
WARN_STEPS, FIRST_STEP = 20, 20
# What no healthy run stays under, whatever its objective. `coding_rate_ratio` is not among them:
# where it is low depends on objective, batch and dim.
LOW = {"embedding_std": 0.2, "participation_ratio": 1.5}
_LOOKS = {
    "embedding_std": "are nearly all alike: their embedding std is {value:.2f}, "
    "where 0 is one point",
    "participation_ratio": "lie nearly on one line: their participation ratio is {value:.1f}, "
    "where 1 is one line",
}


@torch.no_grad()
def projection_metrics(
    projections: Projections, views: ViewAxis = LOCAL_VIEWS
) -> dict[str, Scalar]:
    """Measures of collapse on unit rows; but for alignment of the first view's batch alone.

    coding_rate_ratio: the coding rate of the rows about their mean, as a share of the most there
        can be: 0 where all are alike, 1 where they are spread evenly.
    participation_ratio: (sum_k e_k)^2 / sum_k e_k^2 with e the eigenvalues of their covariance: how
        many directions are used, between 1 and min(b - 1, d); an effective rank that needs no
        eigenvalues. Not measured where there are fewer than `LEAST_RANK`, of which a healthy run
        too uses next to one.
    embedding_std: standard deviation of a coordinate over images, mean over coordinates, times
        sqrt(d): 0 where all are alike, 1 on the whole sphere (SimSiam, Chen and He 2021, 4.1).
    alignment: mean square distance of two views of an image: 0 is the closest (Wang and Isola
        2020). Not measured of a single view.
    uniformity: log of the mean of exp(-2 ||z_j - z_k||^2) over pairs of images: 0 where all are
        alike, near -4 where they are spread (Wang and Isola 2020).

    Nothing here makes the host wait for a GPU, and of projections that are not finite the
    measures are not either.

    Args:
        projections: of the whole batch, of any length. Of several processes that hold some views
            each, the first one's are those that count: it has the first view.
        views: where the others are.
    """
    _, batch, dim = projections.shape
    with torch.autocast(projections.device.type, enabled=False):
        z = F.normalize(at_least_single(projections.detach()), dim=-1)
        Z = z[0]
        # About the mean, because not every objective minds what all rows have in common.
        centered = Z - Z.mean(0)
        gram = centered @ centered.T
        eye = torch.eye(batch, dtype=gram.dtype, device=gram.device)
        L, _ = torch.linalg.cholesky_ex(eye + dim / (batch * DISTORTION) * gram)
        rate = L.diagonal().log().sum()
        rank = min(batch - 1, dim)
        most = rank / 2 * math.log1p(dim / (rank * DISTORTION))
        # The mean over pairs, from the length of the means.
        apart = 2 * (1 - views.mean(z).square().sum(-1).mean())
        count = views.count(z)
        near = (2 * UNIFORMITY_SCALE * (Z @ Z.T - 1)).exp() * (1 - eye)
        measured = {
            "coding_rate_ratio": rate / most,
            "participation_ratio": (gram.trace().square() + TINY) / (gram.square().sum() + TINY),
            "embedding_std": Z.std(0).mean() * dim**0.5,
            "uniformity": (near.sum() / (batch * (batch - 1))).log(),
        }
        if rank < LEAST_RANK:
            del measured["participation_ratio"]
        return measured | ({"alignment": apart * count / (count - 1)} if count > 1 else {})


@torch.no_grad()
def spectrum(projections: Projections) -> Float[Tensor, " rank"]:
    """Variances of the first view's unit rows along their principal directions, largest first.

    The eigenvalues of their covariance, as many as can differ from zero: min(b - 1, d). They are
    what `coding_rate_ratio` and `participation_ratio` sum up. Of projections that are not finite
    they mean nothing.

    In float64, on the CPU.

    Args:
        projections: of the whole batch, of any length.
    """
    _, batch, dim = projections.shape
    with torch.autocast(projections.device.type, enabled=False):
        Z = F.normalize(at_least_single(projections[0].detach()), dim=-1)
        centered = Z - Z.mean(0)
        # Of the two products with the same eigenvalues, the smaller.
        gram = centered @ centered.T if batch <= dim else centered.T @ centered
    # On the CPU, since not every device has a solver, and this one is quick. It fails on NaN, of
    # which the step has yet to say in its own words.
    gram = gram.cpu().double().nan_to_num(0.0, 0.0, 0.0)
    values: Tensor = torch.linalg.eigvalsh(gram / batch)
    return values.flip(0)[: min(batch - 1, dim)].clamp(min=0)


@cache
def spectrum_steps(steps: int) -> frozenset[int]:
    """The steps of a run whose spectrum is kept: the first, the last and some fifty between.

    Half at even distances, half at even ratios: most directions are learned early. They follow
    from the number of steps alone, so that a resumed run keeps the same.

    >>> len(spectrum_steps(1000)), min(spectrum_steps(1000)), max(spectrum_steps(1000))
    (45, 0, 999)
    """
    shares = [k / (SPECTRA // 2 - 1) for k in range(SPECTRA // 2)]
    even = {round((steps - 1) * share) for share in shares}
    return frozenset(even | {round(steps**share) - 1 for share in shares})


def at_least_single(x: Tensor) -> Tensor:
    """In float32, or the float64 that it is in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def collapse(measured: Mapping[str, Any]) -> str | None:
    """How the projections of a step have collapsed, in words; None where they have not.

    Args:
        measured: `projection_metrics`, or a line of metrics. What it lacks is not low.

    >>> collapse({"embedding_std": 0.05, "participation_ratio": 12.0})
    'are nearly all alike: their embedding std is 0.05, where 0 is one point'
    >>> collapse({"embedding_std": 0.9, "participation_ratio": 4.0})
    """
    for name, low in LOW.items():
        if name in measured and measured[name] < low:
            return _LOOKS[name].format(value=measured[name])
    return None


class CollapseWatch:
    """Tells once when the projections have been collapsed for too long.

    A run collapses to a point, where `embedding_std` falls, or to a line, where
    `participation_ratio` does and `embedding_std` does not. What a measure stayed under for some 20
    steps from step 20 on, with all 16 objectives on digits (recipe `demo`, 4 patches, one seed;
    `benchmarks/alarm.py`): in healthy runs never less than 0.40 (ressl) and 2.5 (swav); with a
    fault planted, `embedding_std` at most 0.16 or `participation_ratio` at most 1.45 in 20 of 21
    runs.

    Not every fault collapses a run: with a temperature a hundred times too high it only learns
    slowly.
    """

    def __init__(self) -> None:
        self._low = 0
        self._warned = False

    def update(self, step: int, measured: Mapping[str, Any]) -> str | None:
        """A warning to print, the first time that there is reason for one."""
        looks = collapse(measured) if step >= FIRST_STEP else None
        self._low = 0 if looks is None else self._low + 1
        if self._warned or self._low < WARN_STEPS:
            return None
        self._warned = True
        return (
            f"step {step}: the projections are collapsing: they {looks}, and have been as bad for "
            f"{WARN_STEPS} steps. Lower the learning rate, or strengthen what keeps images apart: "
            "a lower invariance_weight, a higher weight of the term that spreads, a temperature or "
            "momentum nearer the published one."
        )
