from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import empssl.evaluation.pooling as module
from empssl.errors import UsageError
from empssl.evaluation.pooling import Crops, embed_bags
from empssl.models import VIEW_LAYERS, Layer, Network, build_network
from empssl.rng import uniform
from empssl.views import Patches, Policy, RandomCrops
from empssl.views.crop import grid


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "resolve_precision", lambda precision, device: "32-true")


def network() -> Network:
    """With batch statistics that eval mode would show if it used those of the batch."""
    torch.manual_seed(0)
    made = build_network(
        {"name": "resnet10", "width": 4}, {"name": "official", "hidden": 12, "dim": 6}
    )
    made(torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return made.eval()


def images(count: int = 5, side: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def embed(
    crops: Crops,
    pixels: Tensor,
    *,
    policy: Patches | None = None,
    samples: Tensor | None = None,
    layers: Sequence[Layer] = VIEW_LAYERS,
) -> dict[Layer, Tensor]:
    rows = torch.arange(len(pixels)) if samples is None else samples
    return embed_bags(network(), policy or Patches(), pixels, rows, crops, layers)


@pytest.mark.parametrize("text", ["grid1", "grid3", "random4", "whole"])
def test_a_bag_is_the_mean_of_its_patches_embedded_one_at_a_time(text: str) -> None:
    crops, policy, pixels, samples = Crops.parse(text), Patches(), images(), torch.arange(5)
    bags, plain = embed(crops, pixels), network()
    for k in range(5):
        views = crops.views(policy, pixels[k : k + 1], samples[k : k + 1])[:, 0]
        with torch.no_grad():
            each = [plain.embed(view[None]) for view in views]
        for layer in VIEW_LAYERS:
            mean = torch.stack([embedded[layer][0] for embedded in each]).mean(0)
            assert torch.allclose(bags[layer][k], mean, rtol=1e-4, atol=1e-6)


def test_a_grid_bag_holds_the_corners_and_their_mirror_images() -> None:
    pixels, policy = images(), Patches()
    views = Crops.parse("grid2").views(policy, pixels, torch.arange(5))
    assert views.shape == (8, 5, 3, 10, 10)
    corners = [pixels[..., :10, :10], pixels[..., :10, 10:], pixels[..., 10:, :10],
               pixels[..., 10:, 10:]]  # fmt: skip
    expected = torch.stack([*corners, *(c.flip(-1) for c in corners)])
    assert torch.allclose(views, expected / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("policy", [Patches(crop=0.3), RandomCrops(), RandomCrops(side=32)])
def test_a_grid_of_a_given_share_has_the_same_pixels_whatever_training_took(policy: Policy) -> None:
    pixels, rows = images(), torch.arange(5)
    own = Crops.parse("grid2").views(Patches(crop=0.5), pixels, rows)
    assert torch.equal(Crops.parse("grid2@0.5").views(policy, pixels, rows), own)
    enlarged = Crops.parse("grid2").views(Patches(crop=0.5, side="image"), pixels, rows)
    assert torch.equal(Crops.parse("grid2@0.5x2").views(policy, pixels, rows), enlarged)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_grid_reaches_every_edge(count: int) -> None:
    for marks in grid(32, 16, count):
        assert (marks.min(), marks.max(), len(marks)) == (0, 16, count**2)


@pytest.mark.parametrize(("flip", "views"), [(0.0, 9), (0.5, 18), (1.0, 18)])
def test_a_grid_mirrors_only_if_training_does(flip: float, views: int) -> None:
    made = Crops.parse("grid3").views(Patches(flip=flip), images(), torch.arange(5))
    assert len(made) == views


def test_the_whole_image_is_one_view_at_its_own_size() -> None:
    views = Crops.parse("whole").views(Patches(), images(), torch.arange(5))
    assert torch.allclose(views[0], images() / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("text", ["grid2", "random4"])
def test_a_bag_does_not_depend_on_the_other_images(text: str) -> None:
    pixels, rows = images(), torch.tensor([3, 1])
    together = embed(Crops.parse(text), pixels)["head"]
    alone = embed(Crops.parse(text), pixels[rows], samples=rows)["head"]
    assert torch.allclose(alone, together[rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 9, 20])
def test_bags_do_not_depend_on_how_many_patches_are_embedded_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embed(Crops.parse("random4"), images())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(module, "PATCHES_A_THREAD", at_once)
    bags = embed(Crops.parse("random4"), images())
    for layer in VIEW_LAYERS:
        assert torch.allclose(bags[layer], expected[layer], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("device", "side", "most"), [
    ("cpu", 16, 512), ("cpu", 64, 512), ("cpu", 128, 128), ("cpu", 224, 41), ("cpu", 10_000, 1),
    ("cuda", 64, 4096), ("cuda", 224, 334),
])  # fmt: skip
def test_large_patches_are_fewer_at_once(
    device: str, side: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert module.patches_at_once(torch.device(device), side) == most


def test_random_patches_follow_from_the_seed_and_the_sample() -> None:
    def bag(seed: int, samples: Tensor) -> Tensor:
        return embed(Crops.parse("random4", seed=seed), images(), samples=samples)["head"]

    samples = torch.arange(5)
    assert torch.equal(bag(0, samples), bag(0, samples))
    assert (bag(0, samples) != bag(1, samples)).any(1).all()
    assert (bag(0, samples) != bag(0, samples + 1)).any(1).all()


def test_random_patches_are_never_those_of_training() -> None:
    policy, samples = Patches(), torch.arange(5)
    evaluated = Crops.parse("random4").views(policy, images(), samples)
    for epoch in range(50):
        u = uniform(samples, seed=0, epoch=epoch, views=range(4), draws=policy.draws)
        assert not torch.equal(policy(images(), u), evaluated)


def test_only_the_layers_asked_for_are_returned() -> None:
    bags = embed(Crops.parse("grid1"), images(), layers=["backbone"])
    assert {layer: tuple(h.shape) for layer, h in bags.items()} == {"backbone": (5, 32)}


def test_embeddings_are_single_precision_on_the_cpu_even_under_autocast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = embed(Crops.parse("grid2"), images())["head"]
    monkeypatch.setattr(module, "resolve_precision", lambda precision, device: "bf16-mixed")
    half = embed(Crops.parse("grid2"), images())["head"]
    assert half.dtype == torch.float32
    assert 0 < (half - exact).norm() / exact.norm() < 0.03


def test_no_images_make_no_rows() -> None:
    bags = embed(Crops.parse("grid2"), images(0))
    assert {layer: tuple(h.shape) for layer, h in bags.items()} == {
        "backbone": (0, 32), "head": (0, 12),
    }  # fmt: skip


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        embed_bags(
            network().train(), Patches(), images(), torch.arange(5), Crops("whole"), VIEW_LAYERS
        )


WRITTEN = ["grid1", "grid3", "grid2@0.5", "grid3@0.5x2", "random128", "whole"]


@pytest.mark.parametrize("text", WRITTEN)
def test_crops_are_written_as_they_are_read(text: str) -> None:
    assert str(Crops.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "grid", "grid0", "random-3", "whole2", "grid3 ", "gird3", "grid2@0", "grid2@1.5",
     "random4@0.5", "grid2x2"],
)  # fmt: skip
def test_unknown_crops_are_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=f"no crops '{text}'; write grid3, random128 or whole"):
        Crops.parse(text)
