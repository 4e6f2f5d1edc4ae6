import numpy as np
import pytest
import torch
from references import whitened_patches as plain
from torch import Tensor

import empssl.models.whitened_patches as module
from empssl.errors import DataError, UsageError
from empssl.evaluation.probes.ridge import ridge_probe
from empssl.models.whitened_patches import WhitenedPatches


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUM_SAMPLES", 2_000)


def noise(seed: int, count: int, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def stripes(seed: int, count: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """Noise over stripes, across where the label is 1; the mean image says nothing of it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    phase = torch.randint(4, (count, 1, 1, 1), generator=generator)
    wave = 40.0 * ((torch.arange(side) + phase) % 4 < 2)
    image = wave.expand(count, 3, side, side).clone()
    image[labels == 1] = image[labels == 1].mT
    image = image + 100 + 10 * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 255).to(torch.uint8), labels


@pytest.mark.parametrize(
    ("size", "stride"), [((16, 16), 1), ((13, 9), 1), ((37, 37), 1), ((64, 48), 2)]
)
def test_features_are_those_of_the_reference(size: tuple[int, int], stride: int) -> None:
    images = noise(0, 3, *size)
    images[1] = 0  # flat: contrast must stay finite
    whitened = WhitenedPatches(32).fit(images)
    parts = (whitened.mean, whitened.whitening, whitened.dictionary)
    for image, row in zip(images, whitened(images), strict=True):
        expected = plain.features(image.numpy(), *(p.double().numpy() for p in parts), 6, stride)
        assert np.allclose(row, expected, atol=2e-4)


def test_whitening_makes_patches_white() -> None:
    images = torch.nn.functional.avg_pool2d(noise(0, 50, 24, 24).float(), 3, 1).to(torch.uint8)
    whitened = WhitenedPatches(8, patch=4).fit(images)
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
    patches = patches.reshape(-1, 48).float()
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / (patches.square().mean(1, keepdim=True) + 10).sqrt() - whitened.mean
    before = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    after = torch.linalg.eigvalsh(torch.cov((patches @ whitened.whitening).T, correction=0))
    top = slice(-12, None)  # directions with far more variance than the floor of 0.1
    assert before[top].max() / before[top].min() > 3
    assert after[top].max() / after[top].min() < 1.6


def test_dictionary_entries_have_length_one() -> None:
    dictionary = WhitenedPatches(64).fit(noise(0, 5, 16, 16)).dictionary
    assert torch.allclose(dictionary.norm(dim=1), torch.ones(8), atol=1e-5)


def test_ridge_reads_the_direction_of_stripes() -> None:
    train, train_labels = stripes(0, 80)
    test, test_labels = stripes(1, 80)
    whitened = WhitenedPatches(256).fit(train)
    score = ridge_probe(whitened(train), train_labels, whitened(test), test_labels)
    assert score.accuracy == 100.0


def test_brightness_and_gentle_contrast_hardly_matter() -> None:
    image, _ = stripes(0, 4)
    whitened = WhitenedPatches(32).fit(image)
    brighter = whitened(image // 2 + 100)
    assert torch.nn.functional.cosine_similarity(brighter, whitened(image)).min() > 0.99


@pytest.mark.parametrize("num_features", [8, 1024])
def test_gives_the_number_of_features_asked_for(num_features: int) -> None:
    images = noise(0, 2, 16, 16)
    whitened = WhitenedPatches(num_features).fit(images)
    assert whitened(images).shape == (2, num_features)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(0, 7, 16, 16)
    whitened = WhitenedPatches(32).fit(images)
    whole = whitened(images)
    monkeypatch.setattr(module, "_RESPONSES", 2 * 4 * 11 * 11)
    assert torch.allclose(whole, whitened(images), atol=1e-5)


def test_the_seed_decides_the_dictionary() -> None:
    images = noise(0, 5, 16, 16)
    first, same, other = (
        WhitenedPatches(32).fit(images, seed=seed).dictionary for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("num_features", [0, 12, -8])
def test_a_number_of_features_that_cannot_be_made_is_refused(num_features: int) -> None:
    with pytest.raises(UsageError, match="give a multiple of 8"):
        WhitenedPatches(num_features).fit(noise(0, 2, 16, 16))


@pytest.mark.parametrize("size", [(0, 16, 16), (2, 6, 6)])
def test_images_without_room_for_patches_are_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="at least one image of 7 pixels a side"):
        WhitenedPatches().fit(noise(0, *size))
