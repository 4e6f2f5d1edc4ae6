"""An encoder as a PyTorch module, and what fine-tuning it does to later embeddings."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import train_tiny
from torch import Tensor, nn

from empssl.errors import UsageError
from empssl.evaluation.encoder import Encoder
from empssl.models import Layer


@pytest.fixture
def encoder(tiny_run: Path) -> Encoder:
    return Encoder.from_pretrained(tiny_run, device="cpu")


def pixels(count: int = 4, side: int = 16, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def close(found: Tensor, expected: Tensor) -> bool:
    """Up to bfloat16, which `encode` takes where the processor multiplies it."""
    return bool((found - expected).norm() < 5e-2 * expected.norm())


def tune(module: nn.Module, images: Tensor, steps: int = 3, lr: float = 0.01) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("layer", ["stem", "stage2", "backbone", "head", "projection"])
def test_a_module_embeds_as_encode_does_whole_images(layer: Layer, encoder: Encoder) -> None:
    images, module = pixels(), encoder.module(layer)
    expected = encoder.encode(images, layer=layer, crops="whole")
    assert module(images).shape == (4, module.feature) == (4, encoder.dim(layer))
    assert close(module(images).detach(), expected)
    assert close(encoder(images, layer), expected)
    assert torch.equal(module(images), module(images.float() / 255))
    assert module(pixels(2, 24)).shape == (2, module.feature)


def test_gradients_flow_to_weights_and_images(encoder: Encoder) -> None:
    images = (pixels().float() / 255).requires_grad_()
    module = encoder.module("head")
    module(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert all(p.grad is not None for p in module.parameters())
    assert not encoder(images).requires_grad
    assert float(images.detach().min()) >= 0  # they are not normalized in place


def test_a_module_has_only_what_leads_to_its_layer(encoder: Encoder) -> None:
    network = encoder.network
    of = {layer: set(encoder.module(layer).parameters()) for layer in ("backbone", "projection")}
    assert of["backbone"] == set(network.backbone.parameters())
    assert of["projection"] == set(network.parameters())


def by_an_optimizer(network: nn.Module) -> None:
    tune(network, torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def by_data(network: nn.Module) -> None:
    for weight in network.parameters():
        weight.data.mul_(1.3)


def by_loading(network: nn.Module) -> None:
    network.load_state_dict({k: 1.3 * v for k, v in network.state_dict().items()})


def by_replacing(network: nn.Module) -> None:
    for weight in network.parameters():
        weight.data = 1.3 * weight.data


def by_statistics(network: nn.Module) -> None:
    network.train()
    network(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) ** 4)


@pytest.mark.parametrize(
    "change", [by_an_optimizer, by_data, by_loading, by_replacing, by_statistics]
)
def test_what_is_changed_by_fine_tuning_is_encoded_with(
    change: Callable[[nn.Module], None], encoder: Encoder
) -> None:
    images, module = pixels(), encoder.module()
    before = encoder.encode(images, layer="backbone", crops="whole")
    change(module)
    after = encoder.encode(images, layer="backbone", crops="whole")
    assert not close(after, before)
    assert close(after, module.eval()(images).detach())
    assert close(encoder(images), after)


class Normalized(nn.Module):
    """With a BatchNorm that cannot be folded into the layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.last(self.norm(self.first(images)).relu())
        return made


def test_an_encoder_encodes_in_eval_mode_while_its_module_trains(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", backbone=Normalized())
    encoder = Encoder.from_pretrained(run, backbone=Normalized(), device="cpu")
    images, module = pixels(), encoder.module()
    expected = encoder.encode(images, layer="backbone", crops="whole")
    module.train()
    assert torch.equal(encoder.encode(images, layer="backbone", crops="whole"), expected)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.1)
    changed = encoder.encode(images, layer="backbone", crops="whole")
    assert all(m.training for m in module.modules())
    assert not close(changed, expected)
    assert close(changed, module.eval()(images).detach())


def test_the_copy_is_kept_while_nothing_changes(encoder: Encoder) -> None:
    encoder.encode(pixels())
    first = encoder._inference_network()
    encoder.encode(pixels(seed=1))
    encoder.module()
    assert encoder._inference_network() is first


def test_a_module_is_a_part_of_another_network(encoder: Encoder) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = nn.Sequential(encoder.module(), nn.Linear(32, 2))
    images, classes = pixels(16), torch.arange(16) % 2
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.003)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(classifier(images), classes)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(3, 16, 16), r"images are \(3, 16, 16\), expected \(n, 3, height, width\)"),
        (torch.zeros(2, 1, 16, 16), r"images are \(2, 1, 16, 16\)"),
        (torch.full((2, 3, 16, 16), 255.0), "from 255 to 255, expected floats from 0 to 1"),
        (torch.full((2, 3, 16, 16), torch.nan), "from nan to nan"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.long), "images are torch.int64, expected uint8"),
    ],
)
def test_what_are_no_images_is_refused(images: Tensor, said: str, encoder: Encoder) -> None:
    module = encoder.module()
    with pytest.raises(UsageError, match=said):
        type(module)._shares(module, images)


def test_a_layer_that_no_module_has_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="no layer 'joint' of a module, choose from: stem, "):
        encoder.module("joint")


def test_a_backbone_that_was_given_is_fine_tuned_itself(tmp_path: Path) -> None:
    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3))

    run = train_tiny(tmp_path / "run", backbone=made())
    own = made()
    encoder = Encoder.from_pretrained(run, backbone=own)
    before = encoder.encode(pixels(), layer="backbone", crops="whole")
    with torch.no_grad():
        own[3].weight.mul_(1.5)  # type: ignore[operator]
    assert not close(encoder.encode(pixels(), layer="backbone", crops="whole"), before)
