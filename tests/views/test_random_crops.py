"""Random crops against Pillow, one at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from references import pillow_views as plain
from scipy import stats
from torch import Tensor

from empssl.config import complete
from empssl.rng import uniform
from empssl.views import POLICIES, RandomCrops, augmentation, crop
from empssl.views.random_crops import DRAWS

NOTHING = {"flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "solarize": 0.0}


def noise(count: int = 40, side: int = 32) -> Tensor:
    """Blocks of 4 x 4 pixels of a color, so that a resized crop has something to keep."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (count, 3, side // 4, side // 4), generator=generator)
    return blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).to(torch.uint8)


def numbers(batch: int, views: range = range(4), *, seed: int = 0) -> Tensor:
    samples = torch.arange(batch)
    return uniform(samples, seed=seed, epoch=0, views=views, draws=RandomCrops.draws)


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def levels(view: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(view)).permute(2, 0, 1).float()


def boxes(policy: RandomCrops, u: Tensor, whole: int) -> list[list[tuple[int, int, int, int]]]:
    """Top, left, height and width of each crop, one at a time, in plain floats."""
    found = []
    for view, rows in enumerate(u.tolist()):
        found.append([])
        for row in rows:
            draw = dict(zip(DRAWS, row, strict=True))
            is_global = policy.global_views is None or view < policy.global_views
            low, high = policy.scale if is_global else policy.local_scale
            share = low + (high - low) * draw["area"]
            least, most = max(share, policy.ratio[0]), min(1 / share, policy.ratio[1])
            ratio = least * (most / least) ** draw["ratio"]
            height, width = (
                min(whole, max(1, round(side))) for side in
                (whole * (share / ratio) ** 0.5, whole * (share * ratio) ** 0.5)
            )  # fmt: skip
            top, left = (int(draw[name] * (whole - side + 1))
                         for name, side in (("top", height), ("left", width)))  # fmt: skip
            found[-1].append((top, left, height, width))
    return found


# Pillow rounds to 8 bits after each of the two axes.
@pytest.mark.parametrize(
    "options",
    [{}, {"side": 16}, {"side": 48}, {"global_views": 2}, {"scale": (0.9, 1.0)}],
    ids=["default", "reduced", "enlarged", "multi-crop", "large"],
)
def test_crops_are_those_of_pillow(options: dict[str, Any]) -> None:
    policy, images, u = RandomCrops(**NOTHING, **options), noise(), numbers(40)
    views = policy(images, u) * 0.5 * 255 + 0.5 * 255
    side = policy.view_side(32)
    for view, row in enumerate(boxes(policy, u, 32)):
        for k, (top, left, height, width) in enumerate(row):
            cut = picture(images[k]).crop((left, top, left + width, top + height))
            assert (views[view, k] - levels(plain.resize(cut, side))).abs().max() < 1.01


@pytest.mark.parametrize("size", [5, 16, 31])
def test_square_crops_are_those_that_patches_cut_and_resize(size: int) -> None:
    images = noise(6)
    corner = torch.full((1, 6), 1)
    length = torch.full((1, 6), size)
    ours = crop.resized_crops(images, corner, corner, length, length, 12)
    theirs = crop.resize(crop.cut(images, corner, corner, size) / 255, 12)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_after_the_crop_all_is_as_for_patches() -> None:
    options = complete(POLICIES, {"name": "crops", "blur": 0.5, "solarize": 0.5})
    del options["name"]
    images, u = noise(), numbers(40)
    draw = dict(zip(DRAWS, u.flatten(0, 1).unbind(-1), strict=True))
    patches = (RandomCrops(**NOTHING)(images, u) * 0.5 + 0.5).flatten(0, 1)
    policy = RandomCrops(**options)
    expected = policy.augmentation(patches.clone(), draw, 32).unflatten(0, (4, 40))
    assert torch.allclose(policy(images, u), expected, atol=1e-5)
    assert (policy(images, u) - patches.view_as(expected)).abs().max() > 0.5


def test_areas_and_ratios_are_spread_over_their_ranges() -> None:
    policy, u = RandomCrops(scale=(0.2, 0.6)), numbers(2000, range(1))
    sides = [side.flatten().double() for side in policy._sides(u[..., 0], u[..., 1], 10**6)]
    area, ratio = sides[0] * sides[1] / 1e12, sides[1] / sides[0]
    assert stats.kstest(area.numpy(), stats.uniform(0.2, 0.4).cdf).pvalue > 0.001
    widest = np.log(4 / 3)
    assert stats.kstest(ratio.log().numpy(), stats.uniform(-widest, 2 * widest).cdf).pvalue > 0.001


@pytest.mark.parametrize(("whole", "rounding"), [(32, 0.04), (64, 0.02), (224, 0.005)])
def test_the_authors_crops_of_imagenet_have_a_quarter_of_the_area(
    whole: int, rounding: float
) -> None:
    height, width = RandomCrops(scale=(0.25, 0.25))._sides(*numbers(500)[..., :2].unbind(-1), whole)
    assert (height * width / whole**2 - 0.25).abs().max() < rounding / 2
    assert (width / height).log().abs().max() < np.log(4 / 3) + 2 / whole
    assert RandomCrops(scale=(0.25, 0.25)).patch_side(whole) == whole // 2


@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 1.0), (1e-6, 1e-6)])
def test_crops_lie_within_their_image(scale: tuple[float, float]) -> None:
    policy, u = RandomCrops(scale=scale, ratio=(0.1, 10.0)), numbers(500)
    height, width = policy._sides(u[..., 0], u[..., 1], 32)
    assert min(int(height.min()), int(width.min())) >= 1
    assert max(int(height.max()), int(width.max())) <= 32
    if scale == (1.0, 1.0):
        assert (height == 32).all()
        assert (width == 32).all()


def test_with_multi_crop_only_the_leading_views_are_large() -> None:
    policy, u = RandomCrops(scale=(0.5, 1.0), local_scale=(0.1, 0.2), global_views=2), numbers(50)
    height, width = policy._sides(u[..., 0], u[..., 1], 1000)
    area = (height * width).float() / 1e6
    assert area[:2].min() > 0.49
    assert area[2:].max() < 0.21


def test_with_multi_crop_a_view_does_not_depend_on_the_views_before_it() -> None:
    """Which another process may hold."""
    policy, images = RandomCrops(global_views=3), noise()
    whole = policy(images, numbers(40))
    for part in (range(2), range(2, 4), range(3, 4)):
        assert torch.equal(policy(images, numbers(40, part), part.start), whole[list(part)])


def test_a_view_does_not_depend_on_the_other_images() -> None:
    policy, images, u = RandomCrops(), noise(), numbers(40)
    whole = policy(images, u)
    for part in (torch.tensor([7]), torch.tensor([30, 2, 9])):
        assert torch.allclose(policy(images[part], u[:, part]), whole[:, part], atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_weak_views_are_the_same_cropped_and_mirrored_only(name: str) -> None:
    policy = POLICIES[name](blur=0.5, solarize=0.5)
    images = noise()
    u = uniform(torch.arange(40), seed=0, epoch=0, views=range(4), draws=policy.draws)
    plainly = POLICIES[name](**NOTHING | {"flip": 0.5})
    assert torch.equal(policy.weak()(images, u), plainly(images, u))
    assert not torch.allclose(policy(images, u), plainly(images, u))  # and itself stays as it is


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_says_what_its_views_look_like(name: str) -> None:
    for options in ({}, {"side": 24}):
        policy = POLICIES[name](**options)
        images = noise(3)
        u = uniform(torch.arange(3), seed=0, epoch=0, views=range(2), draws=policy.draws)
        side = policy.view_side(32)
        assert policy(images, u).shape == policy.weak()(images, u).shape == (2, 3, 3, side, side)
        corner = torch.zeros(1, dtype=torch.long)
        assert policy.clean(images, corner, corner, mirror=True).shape == (2, 3, 3, side, side)


def test_views_of_fixed_shape_are_those_of_selected_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, u = RandomCrops(blur=0.5, solarize=0.3), numbers(40)
    selected = policy(noise(), u)
    monkeypatch.setattr(augmentation, "_selects_rows", lambda device: False)
    assert torch.allclose(policy(noise(), u), selected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale is .*, expected a range of shares"),
        ({"scale": (0.5, 1.1)}, "scale is"),
        ({"local_scale": (0.5, 0.1)}, "local_scale is"),
        ({"ratio": (1.1, 1.3)}, "ratio is"),
        ({"ratio": (0.75,)}, "ratio is"),
        ({"global_views": 0}, "global_views is 0"),
        ({"gray": 2.0}, "gray is 2.0, expected a probability"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomCrops(**changes)
