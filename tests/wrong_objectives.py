"""Faults of the kind that collapse a run, planted into an objective after it is built."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import Tensor, nn

from empssl.config import Spec
from empssl.objectives import build_objective, swav
from empssl.objectives.base import Loss, Objective
from empssl.training import trainer

Fault = Callable[[Objective], None]


@contextmanager
def planted(fault: Fault | None) -> Iterator[None]:
    """Every objective that training builds inside has the fault."""

    def build(spec: Spec, *, dim: int) -> Objective:
        objective = build_objective(spec, dim=dim)
        if fault is not None:
            fault(objective)
        return objective

    with mock.patch.object(trainer, "build_objective", build):
        yield


def plus(factor: float, term: str) -> Fault:
    """Add a term to the loss once more: 1 drops what the loss subtracts, 2 flips its sign."""

    def forward(right: Callable[..., Loss], z: Tensor, **asked: Tensor) -> Loss:
        loss = right(z, **asked)
        return Loss(loss.total + factor * loss.terms[term], loss.terms)

    return _forward(forward)


def option(**values: Any) -> Fault:
    """Other values of its options."""

    def plant(objective: Objective) -> None:
        for name, value in values.items():
            assert hasattr(objective, name)
            setattr(objective, name, value)

    return plant


def no_stop_gradient(objective: Objective) -> None:
    """The network's own projections are the targets, and gradients flow through them."""

    def forward(right: Callable[..., Loss], z: Tensor, *, targets: Tensor) -> Loss:
        return right(z, targets=z[: len(targets)])

    _forward(forward)(objective)


def no_predictor(objective: Objective) -> None:
    objective.predictor = nn.Identity()


def both(*faults: Fault) -> Fault:
    def plant(objective: Objective) -> None:
        for fault in faults:
            fault(objective)

    return plant


def plain_codes(objective: Objective) -> None:
    """SwAV's codes are not spread over the prototypes."""

    def codes(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
        return (scores / epsilon).softmax(-1).detach()

    def forward(right: Callable[..., Loss], z: Tensor, *, targets: Tensor) -> Loss:
        with mock.patch.object(swav, "codes", codes):
            return right(z, targets=targets)

    _forward(forward)(objective)


def not_whitened(objective: Objective) -> None:
    objective._whiten = lambda z: z


def lengths_only(objective: Objective) -> None:
    """MMCR with the lengths of the mean views in place of their nuclear norm."""

    def forward(right: Callable[..., Loss], z: Tensor, **asked: Any) -> Loss:
        return Loss(-F.normalize(z, dim=-1).mean(0).norm(dim=-1).sum(), right(z, **asked).terms)

    _forward(forward)(objective)


def _forward(wrong: Callable[..., Loss]) -> Fault:
    def plant(objective: Objective) -> None:
        right = objective.forward
        objective.forward = lambda z, **asked: wrong(right, z, **asked)

    return plant


FAULTS: dict[str, dict[str, Fault]] = {
    "barlow_twins": {
        "redundancy flipped": option(redundancy_weight=-0.0051),
        "redundancy dropped": option(redundancy_weight=0.0),
        "invariance flipped": plus(-2, "invariance_loss"),
    },
    "byol": {
        "no stop-gradient": no_stop_gradient,
        "no predictor": no_predictor,
        "neither": both(no_predictor, no_stop_gradient),
        "momentum 0, no predictor": both(no_predictor, option(momentum=0.0)),
    },
    "emp": {
        "rate flipped": plus(2, "coding_rate"),
        "rate dropped": plus(1, "coding_rate"),
        "weight x 50": option(invariance_weight=10_000.0),
        "distortion x 10,000": option(distortion=2000.0),
    },
    "frossl": {
        "entropy flipped": plus(2, "entropy"),
        "entropy dropped": plus(1, "entropy"),
        "weight x 50": option(invariance_weight=50.0),
    },
    "mmcr": {
        "norm flipped": plus(2, "nuclear_norm"),
        "lengths only": lengths_only,
    },
    "ressl": {
        "teacher temperature 1": option(teacher_temperature=1.0),
        "student temperature 0.001": option(student_temperature=0.001),
        "no stop-gradient": no_stop_gradient,
        "momentum 0": option(momentum=0.0),
    },
    "simclr": {
        "contrast flipped": plus(-2, "contrast_loss"),
        "contrast dropped": plus(-1, "contrast_loss"),
        "temperature 50": option(temperature=50.0),
        "temperature 0.001": option(temperature=0.001),
    },
    "simsiam": {
        "no stop-gradient": no_stop_gradient,
        "no predictor": no_predictor,
        "neither": both(no_predictor, no_stop_gradient),
    },
    "spectral_contrastive": {
        "overlap flipped": plus(-2, "overlap_loss"),
        "overlap dropped": plus(-1, "overlap_loss"),
    },
    "ssl_ey": {
        "variance flipped": plus(-2, "variance_loss"),
        "variance dropped": plus(-1, "variance_loss"),
        "covariance flipped": plus(4, "covariance"),
    },
    "supcon": {
        "contrast flipped": plus(-2, "contrast_loss"),
        "contrast dropped": plus(-1, "contrast_loss"),
        "temperature 10": option(temperature=10.0),
        "temperature 0.001": option(temperature=0.001),
    },
    "swav": {
        "plain codes": plain_codes,
        "temperature 10": option(temperature=10.0),
        "epsilon 5": option(epsilon=5.0),
    },
    "tcr": {
        "rate flipped": plus(2, "coding_rate"),
        "rate dropped": plus(1, "coding_rate"),
        "weight x 50": option(invariance_weight=1500.0),
    },
    "vicreg": {
        "variance flipped": option(variance_weight=-25.0),
        "variance dropped": option(variance_weight=0.0),
        "covariance flipped": option(covariance_weight=-1.0),
        "weight x 50": option(invariance_weight=1250.0),
    },
    "vne": {
        "entropy flipped": option(entropy_weight=-1.0),
        "entropy dropped": option(entropy_weight=0.0),
        "weight x 50": option(invariance_weight=208.0),
    },
    "wmse": {
        "not whitened": not_whitened,
        "distance flipped": plus(-2, "distance_loss"),
    },
}
