import copy
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from empssl.config import build
from empssl.errors import UsageError
from empssl.optim import (
    LARS,
    OPTIMIZERS,
    SCHEDULES,
    Muon,
    build_optimizers,
    cosine,
    linear,
    orthogonalized,
    set_lr,
    split,
)

Layout = torch.memory_format


def network(layout: Layout = torch.contiguous_format, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(72, 5),
    )  # fmt: skip
    return layers.to(memory_format=layout)


def backward(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(6, 3, 8, 8, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    target = torch.randint(5, (6,), generator=generator)
    module.zero_grad()
    F.cross_entropy(module(images), target).backward()


def train(module: nn.Module, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    schedule = cosine(steps=20)
    for step in steps:
        set_lr(optimizers, schedule(step))
        backward(module, step)
        for optimizer in optimizers:
            optimizer.step()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class PlainLARS:
    """One weight at a time, one number at a time: LARS as its docstring describes it."""

    def __init__(self, weights: list[Tensor], *, eta: float, momentum: float, decay: float,
                 clip: bool, nesterov: bool) -> None:  # fmt: skip
        self.weights = [w.detach().clone() for w in weights]
        self.velocity = [torch.zeros_like(w) for w in self.weights]
        self.eta, self.momentum, self.decay, self.clip = eta, momentum, decay, clip
        self.nesterov = nesterov

    def step(self, gradients: list[Tensor], lr: float) -> None:
        for w, v, g in zip(self.weights, self.velocity, gradients, strict=True):
            if w.dim() > 1:
                w_length, g_length = math.sqrt((w**2).sum()), math.sqrt((g**2).sum())
                trust = self.eta * w_length / (g_length + self.decay * w_length)
                g = (g + self.decay * w) * (min(trust, lr) / lr if self.clip else trust)
            v.copy_(self.momentum * v + g)
            w -= lr * (g + self.momentum * v if self.nesterov else v)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("nesterov", [True, False], ids=["nesterov", "classical"])
@pytest.mark.parametrize("eta", [0.005, 1.0], ids=["small-trust", "large-trust"])
def test_lars_is_its_plain_twin_over_twenty_steps(clip: bool, eta: float, nesterov: bool) -> None:
    module = network().double()
    options = {"eta": eta, "momentum": 0.8, "nesterov": nesterov}
    optimizers = build(OPTIMIZERS, {"name": "lars", "weight_decay": 0.05, "clip": clip, **options},
                       network=module)  # fmt: skip
    plain = PlainLARS(list(module.parameters()), decay=0.05, clip=clip, **options)
    for step in range(20):
        lr = 0.2 * cosine(steps=20)(step)
        for group in optimizers[0].param_groups:
            group["lr"] = lr
        generator = torch.Generator().manual_seed(step)
        gradients = [
            torch.randn(w.shape, dtype=w.dtype, generator=generator) for w in module.parameters()
        ]
        for weight, gradient in zip(module.parameters(), gradients, strict=True):
            weight.grad = gradient.clone()
        optimizers[0].step()
        plain.step(gradients, lr)
    for weight, expected in zip(module.parameters(), plain.weights, strict=True):
        assert torch.allclose(weight, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("nesterov", [True, False])
def test_without_trust_it_is_torchs_momentum(nesterov: bool) -> None:
    ours, theirs = network(), network()
    lars = LARS([{"params": list(ours.parameters()), "adapt": False}], lr=0.1, momentum=0.9,
                nesterov=nesterov)  # fmt: skip
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov)
    for step in range(10):
        for module, optimizer in ((ours, lars), (theirs, sgd)):
            backward(module, step)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def single(weight: Tensor, gradient: Tensor, **options: Any) -> tuple[nn.Parameter, LARS]:
    """One weight after one step of LARS."""
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    lars = LARS([{"params": [parameter]}], **options)
    lars.step()
    return parameter, lars


@pytest.mark.parametrize("clip", [False, True])
def test_a_weight_of_zero_moves(clip: bool) -> None:
    weight, _ = single(torch.zeros(3, 3), torch.ones(3, 3), clip=clip)
    assert (weight < 0).all()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("decay", [0.0, 1e-4])
def test_a_gradient_of_zero_leaves_everything_finite(clip: bool, decay: float) -> None:
    weight, lars = single(torch.ones(3, 3), torch.zeros(3, 3), clip=clip, weight_decay=decay)
    assert torch.allclose(weight, torch.ones(3, 3), atol=1e-3)
    assert lars.state[weight]["momentum"].isfinite().all()


def test_steps_are_a_share_of_the_weight_whatever_the_gradient() -> None:
    lengths = []
    for scale in (1e-3, 1.0, 1e3):
        start = torch.full((4, 4), 2.0)
        weight, _ = single(start, scale * torch.ones(4, 4), lr=0.1, eta=0.01, momentum=0.0,
                           weight_decay=0.0)  # fmt: skip
        lengths.append(float((weight.detach() - start).norm() / start.norm()))
    assert lengths == pytest.approx([0.001] * 3, rel=1e-3)


def test_clipped_steps_are_at_most_those_of_plain_descent() -> None:
    weight, lars = single(torch.full((4, 4), 2.0), 1e-3 * torch.ones(4, 4), lr=0.1, eta=1.0,
                          momentum=0.0, weight_decay=0.0, clip=True)  # fmt: skip
    assert torch.allclose(weight, torch.full((4, 4), 2.0 - 0.1 * 1e-3))
    assert lars.clip_fraction == 1.0


def test_the_clip_fraction_is_the_share_of_weights_held_by_the_learning_rate() -> None:
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(4)]
    for weight, scale in zip(weights, (1e-6, 1.0, 1.0, 1.0), strict=True):
        weight.grad = scale * torch.ones(2, 2)
    vector = nn.Parameter(torch.ones(2))
    vector.grad = torch.ones(2)
    lars = LARS([{"params": weights}, {"params": [vector], "adapt": False}], clip=True)
    lars.step()
    assert lars.clip_fraction == 0.25
    assert single(torch.ones(2, 2), torch.ones(2, 2))[1].clip_fraction is None


def test_weights_without_a_gradient_stay() -> None:
    kept, moved = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    moved.grad = torch.ones(2, 2)
    LARS([{"params": [kept, moved]}]).step()
    assert torch.equal(kept, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))


def test_biases_and_normalization_are_neither_adapted_nor_decayed() -> None:
    module = network()
    vectors = [p for p in module.parameters() if p.dim() == 1]
    for name in OPTIMIZERS:
        groups = [g for o in build_optimizers(module, {"name": name}) for g in o.param_groups]
        (group,) = [g for g in groups if any(p is vectors[0] for p in g["params"])]
        assert {id(p) for p in group["params"]} == {id(p) for p in vectors}
        assert group["weight_decay"] == 0
        assert not group.get("adapt", False)


def test_sgd_decays_biases_and_normalization_where_asked() -> None:
    ours, theirs = network(), network()
    spec = {"name": "sgd", "lr": 0.1, "weight_decay": 0.05, "decay_vectors": True}
    torchs = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    [sgd] = build_optimizers(ours, spec)
    for step in range(3):
        for module, optimizer in ((ours, sgd), (theirs, torchs)):
            backward(module, step)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_lars_from_a_checkpoint_without_the_choice_stays_with_nesterov() -> None:
    module = network()
    [made], [loaded] = (build_optimizers(module, {"name": "lars"}) for _ in range(2))
    state = made.state_dict()
    for group in state["param_groups"]:
        del group["nesterov"]
    loaded.load_state_dict(state)
    assert all(group["nesterov"] for group in loaded.param_groups)
    backward(module, 0)
    loaded.step()


def test_frozen_weights_are_left_out() -> None:
    module = network()
    module[0].weight.requires_grad_(False)
    matrices, vectors = split(module.parameters())
    assert len(matrices) == 2
    assert len(vectors) == 4


def newton_schulz(matrix: Tensor) -> Tensor:
    """As it is written in the literature, in float64."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return x


@pytest.mark.parametrize(("rows", "columns"), [(32, 288), (288, 32), (64, 64), (40, 20), (1, 9)])
def test_orthogonalizing_by_the_gram_matrix_is_newton_schulz(rows: int, columns: int) -> None:
    """With singular values from 1 to 1e-5 of the largest."""
    torch.manual_seed(0)
    matrix = torch.randn(rows, columns) * torch.logspace(0, -5, columns)
    found, expected = orthogonalized(matrix), newton_schulz(matrix)
    assert (found - expected).norm() < 1e-3 * expected.norm()
    assert (orthogonalized(matrix.double()) - expected).norm() < 1e-9 * expected.norm()


def test_orthogonalizing_leaves_zeros_and_the_type_alone() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))
    assert orthogonalized(torch.randn(3, 5).bfloat16()).dtype == torch.bfloat16


def test_muon_is_that_of_torch_but_for_bfloat16() -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(16, 24))
    theirs = nn.Parameter(ours.detach().clone())
    begun = ours.detach().clone()
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}
    steppers = (
        Muon([ours], **options),
        torch.optim.Muon([theirs], **options, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        gradient = torch.randn(16, 24)
        for weight, stepper in zip((ours, theirs), steppers, strict=True):
            weight.grad = gradient.clone()
            stepper.step()
    moved = (ours - begun).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    state = [stepper.state_dict()["state"][0]["momentum_buffer"] for stepper in steppers]
    assert torch.allclose(*state)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_gradient", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_along_the_orthogonal_part_of_the_gradient(
    layout: Layout, of_gradient: Layout
) -> None:
    """Whatever the memory formats of the weight and of its gradient."""
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=layout)
    module.bias = nn.Parameter(torch.zeros(6))
    before = module.weight.detach().clone()
    gradient = torch.randn(6, 4, 3, 3)
    module.weight.grad = gradient.contiguous(memory_format=of_gradient)
    module.bias.grad = torch.ones(6)
    for optimizer in build_optimizers(module, {"name": "muon", "weight_decay": 0.0}):
        optimizer.step()
    move = (before - module.weight.detach()).flatten(1)
    U, _, Vh = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert F.cosine_similarity(move.flatten(), (U @ Vh).flatten(), dim=0) > 0.95
    singular = torch.linalg.svdvals(move)
    assert singular.max() < 2 * singular.min()  # Newton-Schulz stops early


def test_muon_lars_moves_filter_banks_as_muon_and_the_rest_as_lars() -> None:
    mixed, by_muon, by_lars = (network() for _ in range(3))
    train(mixed, build_optimizers(mixed, {"name": "muon_lars"}), range(1))
    train(by_muon, build_optimizers(by_muon, {"name": "muon"}), range(1))
    train(by_lars, build_optimizers(by_lars, {"name": "lars", "clip": True}), range(1))
    for (name, weight), a, b in zip(
        mixed.named_parameters(), by_muon.parameters(), by_lars.parameters(), strict=True
    ):
        assert not torch.equal(a, b), name
        assert torch.equal(weight, a if weight.ndim == 4 else b), name


def test_muon_lars_needs_filter_banks() -> None:
    with pytest.raises(UsageError, match="no filter banks"):
        build_optimizers(nn.Linear(3, 2), {"name": "muon_lars"})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("spec", [{"name": "lars"}, {"name": "lars", "clip": True},
                                  {"name": "adamw"}, {"name": "muon"},
                                  {"name": "muon_lars"}])  # fmt: skip
def test_a_restored_optimizer_continues_bit_for_bit(spec: dict[str, Any], layout: Layout) -> None:
    whole = network(layout)
    train(whole, build_optimizers(whole, spec), range(6))

    first = network(layout)
    optimizers = build_optimizers(first, spec)
    train(first, optimizers, range(3))
    saved = copy.deepcopy([optimizer.state_dict() for optimizer in optimizers])
    second = network(layout, seed=1)
    second.load_state_dict(first.state_dict())
    restored = build_optimizers(second, spec)
    for optimizer, state in zip(restored, saved, strict=True):
        optimizer.load_state_dict(state)
    train(second, restored, range(3, 6))
    assert not equal(first, whole)
    assert equal(second, whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_peak_survives_the_learning_rate_and_a_restart(name: str) -> None:
    module = network()
    optimizers = build_optimizers(module, {"name": name, "lr": 0.25})
    assert set_lr(optimizers, 0.5) == 0.125
    train(module, optimizers, range(1))
    restored = build_optimizers(module, {"name": name, "lr": 0.25})
    for new, old in zip(restored, optimizers, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    assert set_lr(restored, 0.1) == 0.025
    for new, old in zip(restored, optimizers, strict=True):
        assert [g["peak_lr"] for g in new.param_groups] == [g["peak_lr"] for g in old.param_groups]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_of_zero_moves_nothing(name: str) -> None:
    module = network()
    before = copy.deepcopy(module)
    optimizers = build_optimizers(module, {"name": name})
    set_lr(optimizers, 0.0)
    backward(module, 0)
    for optimizer in optimizers:
        optimizer.step()
    assert equal(module, before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_lowers_the_loss(name: str) -> None:
    module = network()
    optimizers = build_optimizers(module, {"name": name})
    losses = []
    for _ in range(15):
        backward(module, 0)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            images = torch.randn(6, 3, 8, 8, generator=generator)
            target = torch.randint(5, (6,), generator=generator)
            losses.append(float(F.cross_entropy(module(images), target)))
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_gradient_outlives_its_step(name: str) -> None:
    module = network()
    optimizers = build_optimizers(module, {"name": name})
    backward(module, 0)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    held = [weakref.ref(gradient.untyped_storage()) for gradient in gradients]
    del gradients
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert not any(storage() for storage in held)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "larz"}, "did you mean 'lars'"),
        ({"name": "lars", "lr": -0.1}, "lr is -0.1, expected 0 or more"),
        ({"name": "lars", "eta": float("nan")}, "eta of 'lars' is nan"),
        ({"name": "adamw", "lr": -0.1}, "Invalid learning rate"),
        ({"name": "adamw", "betas": [0.9]}, r"betas are \[0.9\], expected two numbers"),
        ({"name": "lars", "momentun": 0.9}, "did you mean 'momentum'"),
    ],
)
def test_optimizers_that_make_no_sense_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_optimizers(network(), spec)


def test_cosine_values() -> None:
    schedule = cosine(steps=4)
    half = math.sqrt(0.5)
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2, 0]
    assert [schedule(step) for step in range(5)] == pytest.approx(expected)


def test_linear_values() -> None:
    schedule = linear(steps=4, final=0.2)
    assert [schedule(step) for step in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_in_equal_steps_to_the_peak(name: str) -> None:
    schedule = SCHEDULES[name](steps=20, warmup=0.2)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule(5) < 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_schedules_rise_once_fall_to_the_end_and_stay_there(
    name: str, steps: int, warmup: float, final: float
) -> None:
    schedule: Callable[[int], float] = SCHEDULES[name](steps=steps, warmup=warmup, final=final)
    factors = [schedule(step) for step in range(steps)]
    peak = factors.index(max(factors))
    assert factors[peak] == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert [schedule(steps + extra) for extra in (0, 1, 3 * steps)] == pytest.approx([final] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"warmup": 1.0}, "warmup is 1.0"), ({"warmup": -0.1}, "warmup is -0.1"),
     ({"final": 1.5}, "final is 1.5"), ({"final": -0.1}, "final is -0.1")],
)  # fmt: skip
def test_schedules_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(SCHEDULES, {"name": "cosine", **options}, steps=10)
