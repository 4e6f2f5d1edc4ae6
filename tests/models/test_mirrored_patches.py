import numpy as np
import pytest
import torch
from references import mirrored_patches as plain
from torch import Tensor

import empssl.models.whitened_patches as module
from empssl.errors import DataError, UsageError
from empssl.models.whitened_patches import MirroredPatches


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUM_SAMPLES", 2_000)
    monkeypatch.setattr(module, "resolve_precision", lambda *_: "32-true")


def smooth_noise(seed: int, count: int, *size: int) -> Tensor:
    """Neighboring pixels alike, or whitening would have nothing to do."""
    generator = torch.Generator().manual_seed(seed)
    size = tuple(side + 2 for side in size)
    noise = torch.randint(256, (count, 3, *size), generator=generator).float()
    return (torch.nn.functional.avg_pool2d(noise, 3, 1) * 2 - 128).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "pairs"),
    [((16, 16), [4, 2]), ((17, 15), [4, 2]), ((13, 9), [6]), ((64, 47), [4, 2])],
)
def test_features_are_those_of_the_reference(size: tuple[int, int], pairs: list[int]) -> None:
    images = smooth_noise(0, 3, *size)
    images[1] = 0  # flat: contrast must stay finite
    patches = MirroredPatches(48).fit(images)
    parts = (patches.mean, patches.whitening, patches.dictionary)
    for image, row in zip(images, patches(images), strict=True):
        expected = plain.features(image.numpy(), *(p.double().numpy() for p in parts), 6, pairs)
        assert np.abs(row.numpy() - expected).max() < 1e-5


def test_an_image_and_its_mirror_image_have_the_same_features() -> None:
    images = smooth_noise(0, 3, 20, 20)
    patches = MirroredPatches(48).fit(images)
    assert torch.allclose(patches(images), patches(images.flip(3)), atol=1e-5)
    assert not torch.allclose(patches(images), patches(images.flip(2)), atol=1e-2)


def test_the_leading_components_are_white() -> None:
    images = smooth_noise(0, 200, 24, 24)
    patches = MirroredPatches(8, patch=4).fit(images)
    p = images.unfold(2, 4, 2).unfold(3, 4, 2).permute(0, 2, 3, 1, 4, 5).flatten(3)
    p = p.reshape(-1, 48).float()
    p = p - p.mean(1, keepdim=True)
    p = p / (p.square().mean(1, keepdim=True) + 10).sqrt() - patches.mean[0]
    variance = torch.cov((p @ patches.whitening[0].T).T, correction=0).diagonal()
    before = torch.linalg.eigvalsh(torch.cov(p.T, correction=0)).flip(0)
    # values / (values + 0.1): near 1 where there is far more variance than the floor
    assert torch.allclose(variance[:40], (before / (before + 0.1))[:40], rtol=0.2)
    assert before[0] / before[11] > 3


def test_filters_have_length_one() -> None:
    dictionary = MirroredPatches(64).fit(smooth_noise(0, 5, 16, 16)).dictionary
    assert torch.allclose(dictionary.norm(dim=2), torch.ones(8, 2), atol=1e-5)


@pytest.mark.parametrize("num_features", [8, 16, 1024])
def test_gives_the_number_of_features_asked_for(num_features: int) -> None:
    images = smooth_noise(0, 2, 16, 16)
    found = MirroredPatches(num_features).fit(images)(images)
    assert found.shape == (2, num_features)
    assert found.std(0).gt(0).float().mean() > 0.9  # none is left out


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth_noise(0, 7, 16, 16)
    patches = MirroredPatches(2048).fit(images)
    whole = patches(images)
    monkeypatch.setattr(module, "_PATCHES", 3 * 16 * 16)
    monkeypatch.setattr(module, "_RESPONSES_A_BLOCK", 2 * 100 * 121)
    assert torch.allclose(whole, patches(images), atol=1e-5)


def test_bfloat16_is_near_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth_noise(0, 7, 16, 16)
    patches = MirroredPatches(64).fit(images)
    exact = patches(images)
    monkeypatch.setattr(module, "resolve_precision", lambda *_: "bf16-mixed")
    assert not torch.equal(patches(images), exact)
    assert torch.allclose(patches(images), exact, atol=1e-2)


def test_the_seed_decides_the_dictionary() -> None:
    images = smooth_noise(0, 5, 16, 16)
    first, same, other = (
        MirroredPatches(48).fit(images, seed=seed).dictionary for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_a_smaller_dictionary_is_part_of_a_larger_one() -> None:
    images = smooth_noise(0, 5, 16, 16)
    small, large = (MirroredPatches(size).fit(images)(images) for size in (48, 96))
    assert torch.allclose(small[:, :32], large[:, :32], atol=1e-6)
    assert torch.allclose(small[:, 32:], large[:, 64:80], atol=1e-6)


def test_images_of_another_number_of_scales_are_refused() -> None:
    patches = MirroredPatches(48).fit(smooth_noise(0, 5, 8, 8))
    assert patches(smooth_noise(1, 2, 8, 8)).shape == (2, 48)
    with pytest.raises(DataError, match="fitted on images that were smaller"):
        patches(smooth_noise(1, 2, 16, 16))


@pytest.mark.parametrize("num_features", [0, 12, -8])
def test_a_number_of_features_that_cannot_be_made_is_refused(num_features: int) -> None:
    with pytest.raises(UsageError, match="give a multiple of 8"):
        MirroredPatches(num_features)


@pytest.mark.parametrize("size", [(0, 16, 16), (2, 6, 6)])
def test_images_without_room_for_patches_are_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="at least one image of 7 pixels a side"):
        MirroredPatches().fit(smooth_noise(0, *size))
