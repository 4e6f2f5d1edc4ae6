import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from empssl.config import build
from empssl.errors import UsageError
from empssl.models import BACKBONES, Network, build_network
from empssl.models.resnet import Conv2d, weight_gradient
from empssl.objectives.emp import EMP
from empssl.training.flops import flops_per_view, training_flops

Shapes = dict[str, tuple[int, ...]]
RESNETS = {
    "resnet18": ((2, 2, 2, 2), 1),
    "resnet34": ((3, 4, 6, 3), 1),
    "resnet50": ((3, 4, 6, 3), 4),
}


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def small(projector: str = "official", **options: Any) -> Network:
    torch.manual_seed(0)
    head = {"name": projector, "hidden": 24, "dim": 8, **options}
    return build_network({"name": "resnet10", "width": 4}, head)


def norm(name: str, channels: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{v}": (channels,) for v in vectors} | {f"{name}.num_batches_tracked": ()}


def torchvision_shapes(depths: tuple[int, ...], expansion: int) -> Shapes:
    """The state dict of torchvision's ResNet without its `fc`, spelled out."""
    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    width_in = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        kernels = [(width, 1), (width, 3), (4 * width, 1)] if expansion == 4 else [(width, 3)] * 2
        for index in range(depth):
            block = f"layer{stage + 1}.{index}"
            channels = width_in
            for k, (filters, kernel) in enumerate(kernels, 1):
                shapes[f"{block}.conv{k}.weight"] = (filters, channels, kernel, kernel)
                shapes |= norm(f"{block}.bn{k}", filters)
                channels = filters
            if index == 0 and width_in != channels:
                shapes[f"{block}.downsample.0.weight"] = (channels, width_in, 1, 1)
                shapes |= norm(f"{block}.downsample.1", channels)
            width_in = channels
    return shapes


@pytest.mark.parametrize("name", RESNETS)
def test_keys_and_shapes_are_those_of_torchvision(name: str) -> None:
    network = build(BACKBONES, {"name": name, "stem": "imagenet"})
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert ours == torchvision_shapes(*RESNETS[name])


@pytest.mark.parametrize(
    ("name", "parameters", "dim"),
    [("resnet18", 11_176_512, 512), ("resnet34", 21_284_672, 512), ("resnet50", 23_508_032, 2048)],
)
def test_parameters_number_as_in_torchvision(name: str, parameters: int, dim: int) -> None:
    network = build(BACKBONES, {"name": name, "stem": "imagenet"})
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.dim == dim


@pytest.mark.parametrize("name", ["resnet10", *RESNETS])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_a_backbone_gives_embeddings_of_its_width(name: str, stem: str) -> None:
    network = build(BACKBONES, {"name": name, "stem": stem, "width": 4})
    assert network(normal(2, 3, 32, 32)).shape == (2, network.dim)


def test_the_small_stem_keeps_the_resolution_and_the_other_quarters_it() -> None:
    for stem, side in (("small", 32), ("imagenet", 8)):
        network = build(BACKBONES, {"name": "resnet10", "stem": stem, "width": 4})
        first = network.maxpool(network.bn1(network.conv1(normal(1, 3, 32, 32))))
        assert first.shape == (1, 4, side, side)


def test_resnet18_takes_555_million_multiplications_at_32_pixels() -> None:
    network = build(BACKBONES, {"name": "resnet18"})
    stem = 3 * 64 * 9 * 32 * 32  # has no gradient for its input
    assert (training_flops(network, 32) / 2 + stem) / 3 == pytest.approx(555.42e6, rel=1e-5)


@pytest.mark.parametrize(
    ("stem", "side", "projector", "gigaflop"),
    [
        ("small", 32, "official", 3.467),
        ("small", 32, "paper", 3.354),
        ("imagenet", 224, "official", 10.784),
        ("imagenet", 224, "paper", 10.671),
    ],
)
def test_training_the_papers_network_costs_gigaflops_a_view(
    stem: str, side: int, projector: str, gigaflop: float
) -> None:
    network = build_network({"name": "resnet18", "stem": stem}, {"name": projector})
    assert training_flops(network, side) / 1e9 == pytest.approx(gigaflop, abs=5e-4)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = small().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    training_flops(network, 32)
    assert not network.training
    assert all(p.grad is None and p.device.type == "cpu" for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("channels", [1, 3, 4, 8])
@pytest.mark.parametrize("side", [7, 16])
def test_a_narrow_strided_convolution_is_that_of_torch(channels: int, side: int) -> None:
    """In float32 torch's own corrupts the heap on processors with AVX2; in float64 it does not."""
    ours = Conv2d(channels, 6, 1, 2, bias=False).to(memory_format=torch.channels_last)
    theirs = nn.Conv2d(channels, 6, 1, 2, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = normal(5, channels, side, side).contiguous(memory_format=torch.channels_last)
    found, expected = x.clone().requires_grad_(), x.double().requires_grad_()
    upstream = normal(5, 6, -(-side // 2), -(-side // 2))
    ours(found).backward(upstream)
    theirs(expected).backward(upstream.double())
    assert_close(ours(x).double(), theirs(x.double()), rtol=1e-5, atol=1e-5)
    assert_close(found.grad.double(), expected.grad, rtol=1e-5, atol=1e-5)
    assert_close(ours.weight.grad.double(), theirs.weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0),
                                                           (1, 2, 0), (7, 2, 3)])  # fmt: skip
@pytest.mark.parametrize("side", [1, 2, 5, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_weight_gradient_is_that_of_torch(
    kernel: int, stride: int, padding: int, side: int, layout: torch.memory_format
) -> None:
    x = normal(3, 4, side, side).double().contiguous(memory_format=layout)
    weight = normal(5, 4, kernel, kernel, seed=1).double().requires_grad_()
    out = F.conv2d(x, weight, stride=stride, padding=padding)
    upstream = normal(*out.shape, seed=2).double().contiguous(memory_format=layout)
    (expected,) = torch.autograd.grad(out, weight, upstream)
    gradient = weight_gradient(x, upstream, kernel, stride, padding)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_under_autocast_is_that_of_torch(
    kernel: int, stride: int, layout: torch.memory_format
) -> None:
    ours = Conv2d(16, 24, kernel, stride, padding=kernel // 2, bias=False)
    theirs = nn.Conv2d(16, 24, kernel, stride, padding=kernel // 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours.to(memory_format=layout), theirs.to(memory_format=layout)):
        side = 2 * stride  # small enough for the product
        x = normal(30, 16, side, side).contiguous(memory_format=layout).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        out.backward(normal(*out.shape, seed=1).to(out))
        results.append((out, x.grad, layer.weight.grad))
    assert results[0][0].dtype == torch.bfloat16
    for mine, other in zip(*results, strict=True):
        assert mine is not None
        assert other is not None
        assert mine.dtype == other.dtype
        assert (mine - other).float().norm() < 0.01 * other.float().norm()


def test_a_convolution_without_autocast_is_exactly_that_of_torch() -> None:
    layer, x = Conv2d(4, 6, 3, 2, padding=1, bias=False), normal(2, 4, 4, 4)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, stride=2, padding=1))


def test_every_parameter_gets_a_gradient_under_autocast() -> None:
    network = small()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(normal(8, 3, 16, 16))
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("projector", ["paper", "official"])
def test_layers_have_the_widths_of_the_paper(projector: str) -> None:
    network = build_network({"name": "resnet18"}, {"name": projector}).eval()
    layers = network.embed(normal(1, 3, 16, 16))
    assert {name: h.shape[1] for name, h in layers.items()} == {"backbone": 512, "head": 4096}
    assert [network.width(name) for name in layers] == [512, 4096]


@pytest.mark.parametrize(
    ("projector", "dim", "widths"),
    [("paper", 512, [(4096, 512), (512, 4096)]),
     ("official", 1024, [(4096, 512), (4096, 4096), (1024, 4096)])],
)  # fmt: skip
def test_projectors_have_the_layers_of_their_source(
    projector: str, dim: int, widths: list[tuple[int, int]]
) -> None:
    network = build_network({"name": "resnet18"}, {"name": projector})
    linear = [m for m in network.projector.modules() if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == widths
    assert all(m.bias is not None for m in linear)
    assert network.projector.dim == dim


def test_the_head_is_not_negative_and_leads_to_the_projection() -> None:
    network, images = small().eval(), normal(4, 3, 16, 16)
    head = network.embed(images)["head"]
    assert head.min() == 0
    assert torch.equal(network.projector.out(head), network(images))


def test_weights_follow_from_the_global_seed() -> None:
    first, again = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    ("backbone", "projector", "message"),
    [
        ({"name": "resnet81"}, {"name": "paper"}, "no 'resnet81' here: did you mean 'resnet18'"),
        ({"name": "resnet18"}, {"name": "offical"}, "did you mean 'official'"),
        ({"name": "resnet18", "widht": 32}, {"name": "paper"},
         "'resnet18' has no option 'widht': did you mean 'width'"),
        ({"name": "resnet18"}, {"name": "paper", "feature": 3}, "'paper' has no option 'feature'"),
        ({"name": "resnet18"}, {"name": "paper", "hidden": 0}, "expected positive numbers"),
        ({"name": "timm"}, {"name": "paper"}, "'timm' needs a value for model"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(
    backbone: dict[str, Any], projector: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(backbone, projector)


def test_without_timm_its_backbones_are_refused_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"needs the timm package.*pip install 'empssl\[timm\]'"):
        build(BACKBONES, {"name": "timm", "model": "resnet18"})


def test_a_model_that_timm_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(is_model=lambda name: False))
    with pytest.raises(UsageError, match="timm has no model 'resnet81'"):
        build(BACKBONES, {"name": "timm", "model": "resnet81"})


class Widening(nn.Sequential):
    """As some of timm's models: what is left of the head widens the features."""

    num_features, head_hidden_size = 7, 9


def stub_timm(monkeypatch: pytest.MonkeyPatch, create_model: Callable[..., nn.Module]) -> None:
    timm = SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)


def test_a_timm_model_that_widens_its_features_is_as_wide_as_what_it_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = (nn.Flatten(), nn.Linear(3 * 8 * 8, 7), nn.Linear(7, 9))
    stub_timm(monkeypatch, lambda *_, **__: Widening(*layers))
    network = build_network(
        {"name": "timm", "model": "x"}, {"name": "paper", "hidden": 6, "dim": 5}
    )
    assert network(normal(4, 3, 8, 8)).shape == (4, 5)


def test_options_with_which_timm_fails_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_timm(monkeypatch, lambda *_, norm_layer, **__: {}[norm_layer])
    with pytest.raises(UsageError, match=r"cannot make 'x' with .*'nope'.*KeyError"):
        build(BACKBONES, {"name": "timm", "model": "x", "options": {"norm_layer": "nope"}})


def test_views_that_a_backbone_cannot_take_are_refused() -> None:
    class Transformer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] == 224, "Input height (32) doesn't match model (224)."
            return x

    with pytest.raises(UsageError, match=r"cannot take views of 32 pixels \(Input height \(32\)"):
        flops_per_view(Transformer(), EMP(), 4, 32, 10, {"name": "sgd"})


def test_a_timm_backbone_gives_what_timm_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, pretrained: bool, num_classes: int, **options: Any) -> nn.Module:
        assert (name, pretrained, num_classes) == ("tiny", False, 0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, options["width"]))
        model.num_features = options["width"]  # type: ignore[assignment]
        return model

    stub_timm(monkeypatch, create_model)
    backbone = {"name": "timm", "model": "tiny", "options": {"width": 7}}
    network = build_network(backbone, {"name": "paper", "hidden": 6, "dim": 5})
    assert network.embed(normal(4, 3, 8, 8))["backbone"].shape == (4, 7)
    assert network(normal(4, 3, 8, 8)).shape == (4, 5)
