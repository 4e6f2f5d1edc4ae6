"""Numbers that are not numbers, or nearly nothing: found, named, and kept from the weights."""

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import STEPS_PER_EPOCH, command, train_tiny
from torch import Tensor

from empssl.data.sampler import Sampler
from empssl.errors import DivergenceError
from empssl.objectives import OBJECTIVES, build_objective
from empssl.objectives.base import Loss
from empssl.objectives.emp import EMP
from empssl.objectives.functional import SHORTEST
from empssl.training import trainer
from empssl.training.step import objective_loss

STEP, ROW = 2, 5  # of four, of eight


@dataclass(frozen=True)
class Step:
    """What a fault is planted in, right before it is taken."""

    network: Any
    optimizer: torch.optim.Optimizer
    views: Tensor

    def spoil_output(self, layer: str, bad: float) -> None:
        def spoil(module: object, given: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[ROW] = bad  # a view of one image
            return output

        self.network.get_submodule(layer).register_forward_hook(spoil)

    def spoil_gradient(self, layer: str, bad: float) -> None:
        def spoil(module: object, given: object, output: Tensor) -> None:
            output.register_hook(lambda gradient: gradient * bad)

        self.network.get_submodule(layer).register_forward_hook(spoil)


def a_pixel(step: Step, bad: float) -> None:
    step.views[1, ROW, 0, 3, 3] = bad


def a_weight(step: Step, bad: float) -> None:
    step.network.get_parameter("backbone.layer3.0.conv2.weight").data[0, 0] = bad


def a_momentum(step: Step, bad: float) -> None:
    weight = step.network.get_parameter("projector.out.1.weight")
    next(v for v in step.optimizer.state[weight].values() if isinstance(v, Tensor)).fill_(bad)


LAYERS = (
    "backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2", "backbone.layer3",
    "backbone.layer4", "projector.block", "projector.out",
)  # fmt: skip
# What is spoiled, what the message must say of it, and whether it must name the one image.
PLACES: dict[str, tuple[Callable[[Step, float], None], str, bool]] = {
    "a pixel": (a_pixel, "the views are not finite", True),
    "a weight": (a_weight, "the weight backbone.layer3.0.conv2.weight is not finite", False),
    "a momentum": (a_momentum, "what the optimizer remembers of earlier gradients", False),
    "the gradient in the middle": (
        lambda step, bad: step.spoil_gradient("backbone.layer2", bad),
        "the first bad gradient is that of backbone.layer2.0", False,
    ),
    "the gradient at the end": (
        lambda step, bad: step.spoil_gradient("projector.out", bad),
        "the first bad gradient is that of projector.out.1.bias", False,
    ),
} | {
    layer: (
        lambda step, bad, layer=layer: step.spoil_output(layer, bad),
        f"what {layer} makes of the views is not finite", True,
    )
    for layer in LAYERS
}  # fmt: skip
CASES = [*itertools.product(PLACES, (math.nan, math.inf))]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images of each step's batch."""
    names: list[list[str]] = []
    draw = Sampler.draw

    def noted(self: Sampler, step: int) -> Any:
        found = draw(self, step)
        names.append([self.images.sample_name(int(i)) for i in found.samples])
        return found

    monkeypatch.setattr(Sampler, "draw", noted)
    return names  # type: ignore[return-value]


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, fault: Callable[[Step], None]) -> list[Any]:
    """Plant a fault right before a step. Returns what will hold the step, and what was before."""
    take, calls, held = trainer.training_step, itertools.count(), []

    def planted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            step = Step(arguments[1].module, arguments[3][0], arguments[4])
            fault(step)
            held.extend((step, state(step)))
        return take(*arguments, **options)

    monkeypatch.setattr(trainer, "training_step", planted)
    return held


def state(step: Step) -> dict[str, Tensor]:
    """All that an update changes."""
    weights = {name: p.detach().clone() for name, p in step.network.named_parameters()}
    momenta = {
        f"{number}.{key}": value.clone()
        for number, values in enumerate(step.optimizer.state.values())
        for key, value in values.items() if isinstance(value, Tensor)
    }  # fmt: skip
    return weights | momenta


def test_the_places_have_not_become_fewer() -> None:
    assert len(PLACES) >= 12
    assert len(CASES) >= 24


@pytest.mark.parametrize(("place", "bad"), CASES)
def test_what_is_not_finite_is_found_before_the_update(
    place: str, bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    fault, said, one = PLACES[place]
    held = spoil(monkeypatch, STEP, lambda step: fault(step, bad))
    with pytest.raises(DivergenceError) as stopped:
        train_tiny(tmp_path / "run")
    message = str(stopped.value)
    assert stopped.value.exit_code == 5
    assert message.startswith(f"step {STEP}: ")
    assert said in message
    batch = drawn[STEP]
    if one:
        assert f"It began in {batch[ROW]}. " in message
    else:
        assert f"Its images were {', '.join(batch[:5])} and 3 more. " in message
    before, after = held[1], state(held[0])
    assert before.keys() == after.keys()
    assert all(torch.equal(v.nan_to_num(), after[k].nan_to_num()) for k, v in before.items())
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_found_before_the_update(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EMP, "forward", lambda self, z, **_: Loss(z.sum().abs() * bad))
    held = spoil(monkeypatch, 0, lambda step: None)
    with pytest.raises(
        DivergenceError, match=r"step 0: .* projections are finite, the loss is not"
    ):
        train_tiny(tmp_path / "run")
    assert all(torch.equal(v, state(held[0])[k]) for k, v in held[1].items())


def test_weights_that_the_last_update_spoiled_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(step: Step) -> None:
        weight = step.network.get_parameter("backbone.conv1.weight")
        step.optimizer.register_step_post_hook(lambda *_: weight.data.fill_(math.inf))

    spoil(monkeypatch, 3, overflow)
    with pytest.raises(DivergenceError, match="step 4: the update before it made weights"):
        train_tiny(tmp_path / "run", steps=4, keep_epochs=[4 / STEPS_PER_EPOCH])
    for folder in ("checkpoints", "epochs", "model"):
        assert not (tmp_path / "run" / folder).exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("views[0, 3, 0, 0, 0] = nan", ("the views are not finite", "It began in digits/")),
        ("network.register_forward_hook(lambda *a: a[2].register_hook(lambda g: g * nan) and None)",
         ("the first bad gradient is that of", "Its images were digits/")),
    ],
    ids=["an image", "a gradient"],
)  # fmt: skip
def test_what_one_process_spoils_ends_both_before_either_updates(
    fault: str, said: tuple[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "spoiled.py"  # a file, as the second process starts by running it again
    script.write_text(
        "import os, sys; from empssl.training import trainer\n"
        "take, nan = trainer.training_step, float('nan')\n"
        "def spoiled(fabric, network, objective, optimizers, views, *a, **k):\n"
        f"    if os.environ.get('LOCAL_RANK') == '1': {fault}\n"
        "    optimizers[0].register_step_pre_hook(lambda *_: print('UPDATED', file=sys.stderr))\n"
        "    return take(fabric, network, objective, optimizers, views, *a, **k)\n"
        "trainer.training_step = spoiled\n"
        "from empssl.__main__ import run; run()"
    )
    words = command(tmp_path / "run", "--devices", "2", steps=2)
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert all(part in done.stderr for part in said), done.stderr
    assert "UPDATED" not in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


# Precision of the coding rate

SHAPES = ((100, 1024), (100, 512), (256, 128), (64, 64), (8, 512), (200, 32))
AUTOCAST = (None, torch.bfloat16, torch.float16)
SPECTRA = ("flat", "power law", "half collapsed", "collapsed")
SEEDS = range(5)


def rows(spectrum: str, batch: int, dim: int, seed: int) -> Tensor:
    """Unit rows in float32 whose covariance has this kind of spectrum."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, dim, generator=generator)
    common = F.normalize(torch.randn(dim, generator=generator), dim=0)
    if spectrum == "power law":
        z = z / torch.arange(1, dim + 1)
    elif spectrum == "half collapsed":
        z = 0.1 * F.normalize(z, dim=-1) + common
    elif spectrum == "collapsed":
        z = 1e-4 * F.normalize(z, dim=-1) + common
    return F.normalize(z, dim=-1)


def exact_rate(z: Tensor, distortion: float) -> Tensor:
    """Eq. 1 in float64, from singular values."""
    batch, dim = z.shape
    s = torch.linalg.svdvals(z.double())
    return (s.square() * dim / (batch * distortion)).log1p().sum() / 2


def test_the_coding_rate_is_that_of_float64_whatever_the_autocast() -> None:
    emp, errors = EMP(invariance_weight=0.0), {}
    for spectrum, (batch, dim), seed in itertools.product(SPECTRA, SHAPES, SEEDS):
        z = rows(spectrum, batch, dim, seed)
        expected = float(exact_rate(z, emp.distortion))
        for kind in AUTOCAST:
            given = z[None].clone().requires_grad_()
            with torch.autocast("cpu", dtype=kind, enabled=kind is not None):
                loss = objective_loss(emp, given)
            loss.total.backward()
            assert given.grad is not None
            assert given.grad.isfinite().all()
            error = abs(float(loss.terms["coding_rate"].detach()) / expected - 1)
            errors[spectrum, batch, dim, seed, kind] = error
    assert len(errors) == 360
    assert not any(math.isnan(error) for error in errors.values())
    assert max(errors.values()) <= 1e-4


def test_collapse_is_worse_and_the_gradient_leads_away_from_it_for_a_hundred_shapes() -> None:
    shapes = [*itertools.product((2, 4, 8, 16, 32), (4, 16, 64, 256), (2, 3, 4, 8, 20))]
    assert len(shapes) == 100
    for batch, dim, views in shapes:
        spread, half, alike = (
            rows(spectrum, batch, dim, 0).double().expand(views, -1, -1)
            for spectrum in ("flat", "half collapsed", "collapsed")
        )
        totals = [float(objective_loss(EMP(), z).total) for z in (spread, half, alike)]
        assert totals == sorted(totals)
        z = half.clone().requires_grad_()
        loss = objective_loss(EMP(), z)
        (gradient,) = torch.autograd.grad(loss.total, z)
        moved = objective_loss(EMP(), z - 1e-4 * gradient)
        assert moved.terms["coding_rate"] > loss.terms["coding_rate"]
        # and is what differences say
        way = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1))
        ahead, behind = (objective_loss(EMP(), z + h * way).total for h in (1e-6, -1e-6))
        slope = float((ahead - behind).detach()) / 2e-6
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-6)


# Projections that are next to nothing

VIEWS, BATCH, DIM = 4, 8, 16


def nearly_nothing(kind: str) -> Tensor:
    z = torch.randn(VIEWS, BATCH, DIM, generator=torch.Generator().manual_seed(0))
    if kind == "one view":
        z[1, 2] = 0.0
    elif kind == "one image":
        z[:, 2] = 0.0
    elif kind == "a faint view":
        z[1, 2] *= 1e-9
    elif kind == "all":
        z.zero_()
    return z


@pytest.mark.parametrize("kind", ["one view", "one image", "a faint view", "all"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_gradient_of_projections_near_zero_is_bounded(name: str, kind: str) -> None:
    objective = build_objective({"name": name}, dim=DIM)
    generator = torch.Generator().manual_seed(1)
    asked: dict[str, Tensor] = {}
    if objective.target is not None:
        count = objective.target_views or VIEWS
        asked["targets"] = torch.randn(count, BATCH, DIM, generator=generator)
    if objective.needs_labels:
        asked["labels"] = torch.arange(BATCH) % 3
    z = nearly_nothing(kind).requires_grad_()
    objective_loss(objective, z, **asked).total.backward()
    assert z.grad is not None
    assert float(z.grad.norm()) <= 100 / SHORTEST  # before there was a shortest, 1e12


@pytest.mark.parametrize("scale", [1.0, SHORTEST, 1e-2 * SHORTEST, 1e-9, 1e-20, 0.0])
@pytest.mark.parametrize(("views", "batch", "dim"), [(4, 8, 16), (2, 30, 8), (20, 100, 64)])
def test_the_gradient_of_emp_has_a_bound_that_can_be_written_down(
    views: int, batch: int, dim: int, scale: float
) -> None:
    emp = EMP()
    z = scale * torch.randn(views, batch, dim, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    objective_loss(emp, z).total.backward()
    # a s / (1 + a s^2) <= sqrt(a) / 2 for each singular value s of each view
    a, rank = dim / (batch * emp.distortion), min(batch, dim)
    rate = math.sqrt(rank * a / views) / 2
    similarity = emp.invariance_weight / math.sqrt(views * batch)
    assert z.grad is not None
    assert float(z.grad.norm()) <= (rate + similarity) / SHORTEST


def test_a_blank_projection_moves_and_is_not_stuck() -> None:
    z = nearly_nothing("one view").requires_grad_()
    objective_loss(EMP(), z).total.backward()
    assert z.grad is not None
    mean = F.normalize(z.detach(), dim=-1).mean(0)[2]
    # towards what the other views of its image say
    assert float(F.cosine_similarity(-z.grad[1, 2], mean, dim=0)) > 0.99
