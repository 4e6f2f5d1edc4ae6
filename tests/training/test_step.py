import pytest
import torch
from torch import Tensor, nn

from empssl.device import Fabric
from empssl.distributed.launch import launch
from empssl.errors import DivergenceError
from empssl.objectives.base import Loss, Objective
from empssl.training.step import StepResult, gradient_norm, training_step


class Recorder(Objective):
    """Keeps the projections it was given; its loss is their mean."""

    def forward(self, projections: Tensor) -> Loss:
        self.seen = projections.detach()
        return Loss(projections.mean(), {})


def fabric() -> Fabric:
    return launch(device="cpu", devices=1, precision="32-true")


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))


def views() -> Tensor:
    return torch.randn(3, 6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def step(network: nn.Module, objective: Objective, given: Tensor, lr: float = 0.1) -> StepResult:
    sgd = torch.optim.SGD(network.parameters(), lr=lr)
    return training_step(fabric(), network, objective, [sgd], given)


def test_the_objective_sees_each_view_of_each_image_in_its_place() -> None:
    network, objective = linear(), Recorder()
    step(network, objective, views(), lr=0.0)
    expected = torch.stack([
        torch.stack([network(image[None])[0] for image in view]) for view in views()
    ])  # fmt: skip
    assert torch.allclose(objective.seen, expected, atol=1e-6)


def test_a_step_descends_along_the_gradient_and_clears_it() -> None:
    network, plain = linear(), linear()
    plain(views().flatten(0, 1)).mean().backward()
    result = step(network, Recorder(), views())
    for weight, before in zip(network.parameters(), plain.parameters(), strict=True):
        assert before.grad is not None
        assert torch.allclose(weight, before - 0.1 * before.grad, atol=1e-7)
        assert weight.grad is None
    assert result.gradient_norm == pytest.approx(float(gradient_norm(plain)), rel=1e-5)


def test_the_gradient_norm_is_that_of_all_weights_together() -> None:
    network = linear()
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 2.0)
    count = sum(weight.numel() for weight in network.parameters())
    assert float(gradient_norm(network)) == pytest.approx(2 * count**0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(bad: float) -> None:
    network, before = linear(), linear()
    given = views()
    given[1, 2, 0, 0, 0] = bad
    with pytest.raises(DivergenceError, match=r"the loss is .* the views are not finite"):
        step(network, Recorder(), given)
    for weight, old in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, old)
