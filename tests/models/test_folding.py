import pytest
import torch
from torch import Tensor, nn

from empssl.models import VIEW_LAYERS, Network, build_network
from empssl.models.folding import folded
from empssl.models.projector import official

BACKBONES = [
    {"name": "resnet10", "width": 4},
    {"name": "resnet18", "width": 4, "stem": "imagenet"},
    {"name": "resnet50", "width": 4},
]


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(backbone: dict[str, object]) -> Network:
    """In float64, every BatchNorm with statistics and parameters of its own."""
    torch.manual_seed(0)
    made = build_network(backbone, {"name": "official", "hidden": 12, "dim": 6}).double()
    for seed, module in enumerate(made.modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            size = module.num_features
            with torch.no_grad():
                module.weight.copy_(1 + 0.3 * normal(size, seed=seed))
                module.bias.copy_(0.3 * normal(size, seed=seed + 1000))
                module.running_mean.copy_(0.3 * normal(size, seed=seed + 2000))
                module.running_var.copy_(0.5 + normal(size, seed=seed + 3000).square())
    return made.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_folded_network_embeds_as_its_original_does(backbone: dict[str, object]) -> None:
    plain = network(backbone)
    views = normal(3, 3, 32, 32, seed=1)
    expected, found = plain.embed(views), folded(plain).embed(views)
    for layer in VIEW_LAYERS:
        assert float(expected[layer].std()) > 0.01
        assert float((found[layer] - expected[layer]).norm() / expected[layer].norm()) < 1e-12
    assert torch.allclose(folded(plain)(views), plain(views), rtol=1e-9)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_folded_network_is_the_same_inside(backbone: dict[str, object]) -> None:
    plain = network(backbone)
    views = normal(3, 3, 32, 32, seed=1)
    layers = plain.every_layer
    expected, found = plain.embed(views, layers), folded(plain).embed(views, layers)
    assert layers == ("stem", "stage1", "stage2", "stage3", "backbone", "head", "projection")
    for layer in layers:
        assert expected[layer].shape == (3, plain.width(layer))
        assert float((found[layer] - expected[layer]).norm() / expected[layer].norm()) < 1e-12


@torch.no_grad()
def test_inner_layers_are_what_hooks_see() -> None:
    plain, seen = network(BACKBONES[0]), {}
    views = normal(3, 3, 32, 32, seed=1)
    for name, at in (("stem", "maxpool"), ("stage2", "layer2"), ("backbone", "layer4")):
        plain.backbone.get_submodule(at).register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update({name: out.mean((2, 3))})
        )
    usual = plain.embed(views)
    found = plain.embed(views, plain.every_layer)
    for name, expected in seen.items():
        assert torch.equal(found[name], expected)
    assert torch.equal(found["backbone"], usual["backbone"])
    assert torch.equal(found["projection"], plain(views))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_batchnorm_is_left(backbone: dict[str, object]) -> None:
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    plain = network(backbone)
    assert any(isinstance(module, norms) for module in plain.modules())
    assert not any(isinstance(module, norms) for module in folded(plain).modules())


def test_the_original_stays_as_it_was() -> None:
    plain = network(BACKBONES[0])
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    folded(plain)
    after = plain.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


class Preactivated(nn.Module):
    """BatchNorm before the convolution of the same number, as in some of timm's models."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(self.bn1(x))).mean((2, 3))


@torch.no_grad()
def test_layers_in_an_unknown_order_are_left_alone() -> None:
    torch.manual_seed(0)
    plain = Network(Preactivated(), official(4, hidden=6, dim=5))
    plain(torch.randn(16, 3, 8, 8) * 3 + 1)
    views = normal(2, 3, 8, 8).float()
    expected, found = plain.eval().embed(views), folded(plain).embed(views)
    for layer in VIEW_LAYERS:
        assert torch.allclose(found[layer], expected[layer], atol=1e-6)


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        folded(network(BACKBONES[0]).train())
