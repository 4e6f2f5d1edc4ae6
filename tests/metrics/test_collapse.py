"""Faults planted into every objective, in runs of a small network on digits, and healthy runs."""

import random
from collections.abc import Iterable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from wrong_objectives import FAULTS

from empssl.config import build
from empssl.data import MemoryImages
from empssl.data.digits import open_digits
from empssl.device import Fabric
from empssl.distributed.launch import launch
from empssl.errors import DivergenceError
from empssl.metrics.projections import LOW, CollapseWatch, collapse, projection_metrics
from empssl.models import PROJECTORS
from empssl.models.ema import EMANetwork
from empssl.models.network import Network
from empssl.objectives import OBJECTIVES, build_objective
from empssl.optim import build_optimizers
from empssl.training.recipes import resolve
from empssl.training.step import training_step

PATCHES, BATCH, SIDE, WIDTH = 4, 40, 12, 64
HEALTHY_STEPS, FAULTY_STEPS = 50, 70
# What collapses in so short a run; the others are below.
COLLAPSING = {
    "barlow_twins": ["redundancy flipped"],
    "byol": ["no stop-gradient", "neither", "momentum 0, no predictor"],
    "emp": ["rate flipped", "rate dropped", "weight x 50", "distortion x 10,000"],
    "frossl": ["entropy flipped"],
    "mmcr": ["norm flipped", "lengths only"],
    "ressl": ["student temperature 0.001", "no stop-gradient"],
    "simclr": ["contrast flipped", "contrast dropped", "temperature 0.001"],
    "simsiam": ["no stop-gradient", "no predictor"],
    "spectral_contrastive": ["overlap flipped", "overlap dropped"],
    "ssl_ey": ["covariance flipped"],
    "supcon": ["contrast flipped", "temperature 0.001"],
    "swav": ["plain codes", "epsilon 5"],
    "tcr": ["rate flipped", "rate dropped"],
    "vicreg": ["variance flipped"],
    "vne": ["entropy flipped", "entropy dropped"],
    "wmse": ["not whitened"],
}


@cache
def digits() -> MemoryImages:
    return open_digits(split="train")


@cache
def fabric() -> Fabric:
    return launch(device="cpu", devices=1, precision="32-true")


def patches(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Patches at a random place, each image of its own brightness."""
    views = []
    for _ in range(count):
        top, left = torch.randint(images.shape[-1] - SIDE + 1, (2,), generator=generator)
        patch = images[..., top : top + SIDE, left : left + SIDE].float() / 255
        views.append(patch * (0.6 + 0.8 * torch.rand(len(images), 1, 1, 1, generator=generator)))
    return torch.stack(views)


def collapse_metrics(
    name: str, fault: str | None = None, *, seed: int = 0, steps: int = FAULTY_STEPS
) -> Iterator[dict[str, float]]:
    """What each step measures in a run of the objective with demo's optimizer."""
    settings = resolve("demo", {"objective": name})
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, WIDTH), nn.BatchNorm1d(WIDTH),
                         nn.ReLU())  # fmt: skip
    head = build(PROJECTORS, {"name": "official", "hidden": WIDTH, "dim": WIDTH}, feature=WIDTH)
    network = Network(body, head)
    objective = build_objective(settings["objective"], dim=WIDTH)
    if fault is not None:
        FAULTS[name][fault](objective)
    module = fabric().setup(network)
    target = EMANetwork(network) if objective.target == "momentum" else None
    optimizers = build_optimizers(nn.ModuleList([network, objective]), settings["optimizer"])
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randperm(len(digits()), generator=generator)[:BATCH]
        views = patches(digits().pixels[chosen], PATCHES, generator)
        labels = digits().labels[chosen] if objective.needs_labels else None
        result = training_step(
            fabric(), module, objective, optimizers, views, target=target, labels=labels
        )
        if target is not None:
            target.update(network, objective.momentum_at(step / steps))
        yield {measure: float(value) for measure, value in result.collapse_metrics.items()}


def warned(series: Iterable[dict[str, float]]) -> Iterator[tuple[int, str]]:
    """Steps at which there is a warning, as far as they are asked for."""
    watch = CollapseWatch()
    for step, measured in enumerate(series):
        if text := watch.update(step, measured):
            yield step, text


def warnings(series: Iterable[dict[str, float]]) -> list[tuple[int, str]]:
    return list(warned(series))


def spreads(series: list[float]) -> Iterator[dict[str, float]]:
    return ({"embedding_std": value, "participation_ratio": 9.0} for value in series)


def test_a_collapsing_fault_is_planted_in_every_objective() -> None:
    assert set(COLLAPSING) == set(FAULTS) == set(OBJECTIVES)
    assert len(COLLAPSING["emp"]) == 4


@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name in COLLAPSING for fault in COLLAPSING[name]]
)
def test_a_planted_fault_is_warned_of_soon(name: str, fault: str) -> None:
    """Within 50 steps of being visible: at once in most, from step 30 or 40 on in a few."""
    step, text = next(warned(collapse_metrics(name, fault)))
    assert step < (50 if name == "emp" else FAULTY_STEPS)
    assert f"step {step}: the projections are collapsing: they " in text


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_healthy_run_is_left_alone(name: str, seed: int) -> None:
    assert warnings(collapse_metrics(name, seed=seed, steps=HEALTHY_STEPS)) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [("simclr", "temperature 50"), ("supcon", "temperature 10"), ("swav", "temperature 10")],
)
def test_a_temperature_too_high_learns_slowly_and_collapses_nothing(name: str, fault: str) -> None:
    *_, last = collapse_metrics(name, fault, steps=HEALTHY_STEPS)
    assert collapse(last) is None
    assert last["embedding_std"] > 0.8


def test_variances_that_are_rewarded_end_the_run() -> None:
    with pytest.raises(DivergenceError):
        list(collapse_metrics("ssl_ey", "variance flipped"))


@pytest.mark.parametrize("measure", LOW)
def test_each_measure_is_enough(measure: str) -> None:
    healthy = {"embedding_std": 0.9, "participation_ratio": 4.0}
    ((step, _),) = warnings(healthy | {measure: 0.9 * LOW[measure]} for _ in range(100))
    assert step == 39
    assert warnings(healthy | {measure: 1.1 * LOW[measure]} for _ in range(100)) == []


@pytest.mark.parametrize(("batch", "dim"), [(2, 64), (64, 1)])
def test_so_few_that_they_must_lie_on_one_line_are_left_alone(batch: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    every = [torch.randn(2, batch, dim, generator=generator) for _ in range(50)]
    assert warnings({k: float(v) for k, v in projection_metrics(z).items()} for z in every) == []


def test_the_warning_says_what_was_measured_and_what_to_do() -> None:
    ((_, text),) = warnings(spreads([0.05] * 100))
    assert "they are nearly all alike: their embedding std is 0.05, where 0 is one point" in text
    assert "Lower the learning rate" in text


def test_a_collapse_in_the_middle_is_warned_of_within_fifty_steps_of_it() -> None:
    ((step, _),) = warnings(spreads([0.8] * 200 + [0.05] * 200))
    assert 200 < step < 250


def test_a_slow_start_is_left_alone() -> None:
    assert warnings(spreads([0.1] * 30 + [0.6] * 200)) == []


def test_short_dips_are_left_alone() -> None:
    assert warnings(spreads(([0.1] * 19 + [0.5]) * 20)) == []


def test_it_tells_only_once() -> None:
    noise = random.Random(0)
    low = [0.1 + noise.gauss(0, 0.01) for _ in range(40)]
    assert len(warnings(spreads((low + [0.8] * 10) * 5))) == 1


def test_a_line_of_metrics_that_measured_neither_is_not_low() -> None:
    assert collapse({"step": 3, "coding_rate_ratio": 0.01}) is None
