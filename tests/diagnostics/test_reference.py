"""The slow pipeline computes what training computes."""

import pytest
import torch

from empssl.config import build
from empssl.diagnostics.reference import SlowPipeline
from empssl.diagnostics.reference.lars import LoopLARS
from empssl.diagnostics.reference.loader import Epochs, loader
from empssl.diagnostics.reference.pipeline import emp_loss, lars_options
from empssl.objectives import EMP
from empssl.optim import lars
from empssl.rng import permutation, uniform
from empssl.training.recipes import resolve
from empssl.views import POLICIES

TINY = {"patches": 2, "batch": 3, "backbone": {"width": 4}, "projector": {"hidden": 16, "dim": 8}}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count: int) -> torch.Tensor:
    """Smooth pictures: on noise, the hue of every pixel would hang on rounding to 8 bits."""
    at = torch.linspace(0, 3, 16)
    waves = torch.stack([torch.sin(at + k)[:, None] * torch.cos(at * 0.7 + k) for k in range(3)])
    shifts = torch.linspace(0.5, 1, count)[:, None, None, None]
    return (127.5 + 100 * shifts * waves).to(torch.uint8)


@pytest.mark.parametrize(("batch", "dim"), [(4, 7), (7, 4)])
def test_loss_and_gradient_are_those_of_the_objective(batch: int, dim: int) -> None:
    one, other = (noise(3, batch, dim).requires_grad_() for _ in range(2))
    fast = EMP(invariance_weight=5.0, distortion=0.3)(one).total
    slow = emp_loss(other, invariance_weight=5.0, distortion=0.3)
    fast.backward(), slow.backward()
    torch.testing.assert_close(slow, fast, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_steps_are_those_of_lars(clip: bool, nesterov: bool) -> None:
    options = {"lr": 0.1, "eta": 0.02, "momentum": 0.9, "weight_decay": 0.01, "clip": clip,
               "nesterov": nesterov}  # fmt: skip
    networks = [torch.nn.Linear(5, 4).double() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    [fast], slow = lars(networks[0], **options), LoopLARS(networks[1].parameters(), **options)
    for step in range(3):
        for network, optimizer in zip(networks, (fast, slow), strict=True):
            network.zero_grad()
            network(noise(6, 5, seed=step)).square().sum().backward()
            optimizer.step()
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["lars", "muon_lars", "sgd"])
def test_its_lars_has_the_options_of_the_runs(name: str) -> None:
    asked = {} if name == "sgd" else {"eta": 0.125}
    optimizer = resolve("paper", {"optimizer": {"name": name} | asked})["optimizer"]
    found = lars_options(optimizer)
    assert found["eta"] == (0.005 if name == "sgd" else 0.125)
    assert found["nesterov"]
    assert LoopLARS(torch.nn.Linear(3, 2).parameters(), **found)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_those_of_the_policy_to_the_rounding_of_pillow(workers: int) -> None:
    settings = resolve("paper", {"views": {"blur": 0.0, "hue": 0.0}})
    options = {key: value for key, value in settings["views"].items() if key != "name"}
    pictures = images(6)
    got = next(iter(loader(pictures, patches=4, batch=6, options=options, seed=3, workers=workers)))
    order = permutation(6, seed=3, epoch=0)
    policy = build(POLICIES, settings["views"])
    u = uniform(order, seed=3, epoch=0, views=range(4), draws=policy.draws)
    difference = (got.transpose(0, 1) - policy(pictures[order], u)).abs()
    assert difference.mean() < 0.02  # of a range from -1 to 1: a level is 0.008
    assert got.std() > 0.1


def test_epochs_visit_every_image_once_and_in_new_orders() -> None:
    batches = iter(Epochs(6, batch=3, seed=0))
    epochs = [[place for _ in range(2) for place in next(batches)] for _ in range(2)]
    for epoch, places in enumerate(epochs):
        assert sorted(places) == [(epoch, index) for index in range(6)]
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]]


def test_training_on_the_same_views_lowers_the_loss() -> None:
    pipeline = SlowPipeline(resolve("demo", TINY), images(3), workers=0)
    views = next(pipeline.batches())
    losses = [pipeline.step(views) for _ in range(15)]
    assert losses[-1] < losses[0] - 1


def test_a_seed_fixes_weights_and_views() -> None:
    found = []
    for seed in (0, 0, 1):
        pipeline = SlowPipeline(resolve("demo", TINY), images(6), seed=seed, workers=0)
        found.append(pipeline.step(next(pipeline.batches())))
    assert found[0] == found[1] != found[2]
