"""Views against Pillow, one patch at a time. Differences are in levels, 1/255 of the range."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from references import pillow_views as plain
from scipy import ndimage, stats
from tiny import start
from torch import Tensor

from empssl.config import complete
from empssl.rng import uniform
from empssl.views import POLICIES, Patches, RandomCrops, augmentation, color, crop
from empssl.views.patches import DRAWS

SHEET = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10" / "test_00.webp"
NOTHING = {"flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "solarize": 0.0}


def noise(count: int = 60, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def photos(count: int = 60) -> Tensor:
    """The first images of CIFAR-10's test split; a sheet has 25 rows of 40."""
    if not SHEET.exists():
        pytest.skip(f"no photographs: {SHEET} is not here")
    tiles = np.asarray(Image.open(SHEET)).reshape(25, 32, 40, 32, 3).swapaxes(1, 2)
    return torch.from_numpy(tiles.reshape(-1, 32, 32, 3)[:count].copy()).permute(0, 3, 1, 2)


IMAGES: dict[str, Callable[[], Tensor]] = {"noise": noise, "photos": photos}


@pytest.fixture(params=list(IMAGES))
def images(request: pytest.FixtureRequest) -> Tensor:
    return IMAGES[request.param]()


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def levels(pictures: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(p)) for p in pictures]).permute(0, 3, 1, 2)


def numbers(batch: int, views: range = range(4), *, seed: int = 0) -> Tensor:
    return uniform(torch.arange(batch), seed=seed, epoch=0, views=views, draws=Patches.draws)


def options(**changes: Any) -> dict[str, Any]:
    full = complete(POLICIES, {"name": "patches", **changes})
    del full["name"]
    return full


def distance(a: Tensor, b: Tensor) -> Tensor:
    """In levels, of views normalized with std 0.5."""
    return (a - b).abs() * 0.5 * 255


# Largest and mean difference allowed: on noise, then on photographs. Pillow's enhancements cut
# fractions off, which alone makes 0.46 on average; its hue has 255 steps, and six levels of a
# pure color lie between two of them; its blur is three boxes, poor below a sigma of one pixel.
PILLOW = {
    "brightness": ((0.6, 1.4), (1.01, 0.48), (1.01, 0.48)),
    "contrast": ((0.6, 1.4), (1.21, 0.49), (1.21, 0.49)),
    "saturation": ((0.6, 1.4), (1.21, 0.49), (1.21, 0.49)),
    "hue": ((-0.2, 0.2), (10, 0.7), (8, 0.25)),
    "blur": ((0.1, 2.0), (36, 2.8), (28, 0.75)),
}


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("kind", IMAGES)
def test_an_operation_is_that_of_pillow(name: str, kind: str) -> None:
    images = IMAGES[kind]()
    (low, high), *tolerances = PILLOW[name]
    parameter = low + (high - low) * torch.arange(len(images)) / (len(images) - 1)
    given = (images / 255, parameter) + ((2.0,) if name == "blur" else ())
    ours = getattr(color, name)(*given) * 255
    operation = getattr(plain, name)
    theirs = levels(
        [operation(picture(i), float(p)) for i, p in zip(images, parameter, strict=True)]
    )
    difference = (ours - theirs).abs()
    largest, mean = tolerances[list(IMAGES).index(kind)]
    assert difference.max() < largest
    assert difference.mean() < mean


def test_gray_is_that_of_pillow(images: Tensor) -> None:
    theirs = levels([plain.gray(picture(i)) for i in images])
    assert (color.gray(images / 255) * 255 - theirs).abs().max() < 0.501  # its rounding


def test_solarize_is_exactly_that_of_pillow(images: Tensor) -> None:
    theirs = levels([plain.solarize(picture(i)) for i in images])
    assert torch.equal((color.solarize(images / 255) * 255).round().byte(), theirs)


def test_a_turn_of_the_hue_by_a_third_moves_red_to_green_and_back_to_blue() -> None:
    red, green, blue = torch.eye(3).view(3, 1, 3, 1, 1)
    third = torch.tensor([1 / 3])
    assert torch.allclose(color.hue(red, third), green, atol=1e-6)
    assert torch.allclose(color.hue(red, -third), blue, atol=1e-6)


def test_turning_the_hue_there_and_back_changes_nothing(images: Tensor) -> None:
    patches, turn = images / 255, torch.linspace(-0.5, 0.5, len(images))
    assert torch.allclose(color.hue(color.hue(patches, turn), -turn), patches, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 2.0])
def test_blur_is_a_gaussian_with_the_edges_repeated(sigma: float) -> None:
    patches = noise(2, 16) / 255
    ours = color.blur(patches, torch.full((2,), sigma), widest=2.0)
    exact = ndimage.gaussian_filter(
        patches.double().numpy(), sigma, axes=(2, 3), mode="nearest", radius=6
    )
    assert np.abs(ours.numpy() - exact).max() < 1e-6


@pytest.mark.parametrize("size", [7, 16, 24, 45, 64])
def test_resize_is_the_bilinear_one_of_pillow_up_and_down(images: Tensor, size: int) -> None:
    ours = crop.resize(images[:10].float(), size)
    channels = images[:10].flatten(0, 1).float().numpy()
    floats = [np.array(plain.resize(Image.fromarray(channel), size)) for channel in channels]
    assert np.abs(ours.flatten(0, 1).numpy() - np.stack(floats)).max() < 0.001
    rounded = levels([plain.resize(picture(i), size) for i in images[:10]])
    assert (ours - rounded).abs().max() < 1.001  # once along each axis


@pytest.mark.parametrize("size", [1, 5, 16, 32])
def test_a_patch_holds_exactly_the_pixels_at_its_corner(size: int) -> None:
    images, room = noise(6), 32 - size
    top = torch.randint(room + 1, (3, 6), generator=torch.Generator().manual_seed(1))
    left = torch.randint(room + 1, (3, 6), generator=torch.Generator().manual_seed(2))
    patches = crop.cut(images, top, left, size)
    for view in range(3):
        for k in range(6):
            expected = plain.cut(picture(images[k]), int(top[view, k]), int(left[view, k]), size)
            assert torch.equal(patches[view, k], levels([expected])[0])


def test_a_mirrored_view_is_the_flipped_view() -> None:
    images, u = noise(), numbers(60)
    straight = Patches(**{**NOTHING, "flip": 0.0})(images, u)
    mirrored = Patches(**{**NOTHING, "flip": 1.0})(images, u)
    assert torch.equal(mirrored, straight.flip(-1))


def test_a_view_with_nothing_done_to_it_is_its_pixels_normalized() -> None:
    images, u = noise(), numbers(60)
    views = Patches(**NOTHING, mean=0.4, std=0.2)(images, u)
    top = (u[..., DRAWS.index("top")] * 17).long()
    left = (u[..., DRAWS.index("left")] * 17).long()
    assert torch.allclose(views, (crop.cut(images, top, left, 16) / 255 - 0.4) / 0.2, atol=1e-5)


# The largest difference of any pixel, and the mean, after all operations. One level on average is
# what Pillow cuts off in two enhancements; the large ones are its blur.
@pytest.mark.parametrize(
    ("changes", "largest", "mean"),
    [
        ({}, 32, 1.3),
        ({"side": 32}, 22, 1.2),
        ({"hue": 0.0, "blur": 0.0}, 17, 1.2),
        ({"crop": 0.75, "side": 16, "hue": 0.5, "blur": 0.0}, 17, 1.3),
        ({"solarize": 1.0, "gray": 0.5, "flip": 1.0, "mean": 0.2, "sigma": (1.0, 1.5)}, 28, 1.3),
    ],
    ids=["default", "enlarged", "without-hue-and-blur", "reduced", "other-probabilities"],
)
def test_faithful_views_are_those_of_pillow(
    images: Tensor, changes: dict[str, Any], largest: float, mean: float
) -> None:
    full, u = options(**changes), numbers(60)
    ours = Patches(**full)(images, u)
    theirs = torch.stack([
        torch.stack([
            torch.from_numpy(plain.view(picture(image), dict(zip(DRAWS, draw, strict=True)), full))
            for image, draw in zip(images, row, strict=True)
        ])
        for row in u.tolist()
    ])  # fmt: skip
    difference = distance(ours, theirs)
    assert difference.mean() < mean
    assert difference.max() < largest


def test_fast_colors_are_exact_where_nothing_is_clipped_and_no_hue_turned() -> None:
    images = 100 + noise() // 8  # 100..131, which 0.3 and 0.3 and 0.3 cannot take to 0 or 255
    mild = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.0, "jitter": 1.0}
    u = numbers(60)
    fast, faithful = (Patches(**mild, colors=kind)(images, u) for kind in ("fast", "faithful"))
    assert torch.allclose(fast, faithful, atol=1e-5)


@pytest.mark.parametrize(("hue", "mean"), [(0.0, 0.19), (0.1, 4.0), (0.2, 5.6)])
def test_fast_colors_stay_near_the_faithful_ones_on_photographs(hue: float, mean: float) -> None:
    images, u = photos(), numbers(60)
    fast, faithful = (Patches(hue=hue, colors=kind)(images, u) for kind in ("fast", "faithful"))
    assert distance(fast, faithful).mean() < mean


@pytest.mark.parametrize("colors", ["faithful", "fast"])
def test_hue_turns_the_same_way_in_both_modes(colors: str) -> None:
    only = {**NOTHING, "jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    red = torch.tensor([200, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    u = torch.full((1, 1, Patches.draws), 0.99)
    turned = Patches(**only, hue=0.2, colors=colors)(red, u).mean((0, 1, 3, 4))
    assert turned[1] > turned[2] + 0.3  # from red towards green, not blue


@pytest.mark.parametrize("colors", ["faithful", "fast"])
@pytest.mark.parametrize(
    ("name", "probability", "changes"),
    [
        ("flip", 0.5, {}),
        ("jitter", 0.8, {}),
        ("gray", 0.2, {}),
        ("blur", 0.1, {"sigma": (1.0, 2.0)}),
        ("solarize", 0.1, {}),
    ],
)
def test_an_augmentation_comes_as_often_as_its_probability(
    name: str, probability: float, changes: dict[str, Any], colors: str
) -> None:
    images, u = noise(100, 8), numbers(100, range(40))
    plainly = Patches(**NOTHING, colors=colors)(images, u)
    views = Patches(**{**NOTHING, name: probability, **changes}, colors=colors)(images, u)
    changed = (views - plainly).abs().amax((2, 3, 4)) > 1e-4
    assert stats.binomtest(int(changed.sum()), 4000, probability).pvalue > 0.001


@pytest.mark.parametrize("axis", ["top", "left"])
def test_all_corners_come_equally_often(axis: str) -> None:
    u = numbers(1000)[..., DRAWS.index(axis)]
    counts = crop.corners(u, 16).flatten().bincount()
    assert len(counts) == 17
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


def test_corners_stay_inside_for_the_largest_draw() -> None:
    largest = torch.tensor([0.0, 1 - 2.0**-24])
    for room in (0, 1, 16, 1000, 2**20):
        assert crop.corners(largest, room).tolist() == [0, room]


def test_every_order_of_the_colors_comes_equally_often() -> None:
    order = Patches().augmentation._order({"order": torch.arange(2400) / 2400})
    _, counts = torch.unique(order.T, dim=0, return_counts=True)
    assert counts.tolist() == [100] * 24


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_reach_from_one_minus_to_one_plus_their_range(name: str) -> None:
    which = ["brightness", "contrast", "saturation"].index(name)
    draw = dict.fromkeys(DRAWS, torch.tensor([0.0, 0.5, 1.0]))
    for width, expected in ((0.4, [0.6, 1.0, 1.4]), (1.5, [0, 1.25, 2.5])):
        found = Patches(**{name: width}).augmentation._factors(draw)[which]
        assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("colors", ["faithful", "fast"])
def test_a_view_does_not_depend_on_the_other_images(colors: str) -> None:
    policy, images, u = Patches(colors=colors, side=24), noise(), numbers(60)
    whole = policy(images, u)
    for part in (torch.tensor([7]), torch.tensor([50, 2, 9]), torch.arange(30)):
        assert torch.allclose(policy(images[part], u[:, part]), whole[:, part], atol=1e-6)


@pytest.mark.parametrize("colors", ["faithful", "fast"])
def test_views_do_not_depend_on_how_they_are_split(colors: str) -> None:
    policy, images = Patches(colors=colors), noise()
    whole = policy(images, numbers(60, range(8)))
    parts = [policy(images, numbers(60, part)) for part in (range(4), range(4, 8))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


def test_blur_does_not_depend_on_the_other_sigmas() -> None:
    patches, sigma = noise() / 255, torch.linspace(0.1, 2.0, 60)
    together = color.blur(patches, sigma, 2.0)
    alone = [color.blur(patches[k : k + 1], sigma[k : k + 1], 2.0) for k in range(60)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-7, rtol=0)


def test_views_leave_the_images_and_the_draws_as_they_were() -> None:
    images, u = noise(), numbers(60)
    before = images.clone(), u.clone()
    Patches(crop=1.0)(images, u)
    assert torch.equal(images, before[0])
    assert torch.equal(u, before[1])


def test_another_seed_makes_other_views() -> None:
    images, policy = noise(), Patches()
    difference = policy(images, numbers(60)) - policy(images, numbers(60, seed=1))
    assert (difference.abs().amax((2, 3, 4)) > 0).all()


def test_clean_views_are_the_pixels_normalized_and_then_their_mirror_images() -> None:
    images, policy = noise(5), Patches()
    top, left = torch.tensor([0, 3]), torch.tensor([16, 5])
    views = policy.clean(images, top, left, mirror=True)
    expected = torch.stack([images[..., 0:16, 16:32], images[..., 3:19, 5:21]])
    expected = (expected / 255 - 0.5) / 0.5
    assert torch.allclose(views, torch.cat([expected, expected.flip(-1)]), atol=1e-6)


def test_a_grid_includes_the_edges_and_is_even() -> None:
    top, left = crop.grid(32, 16, 3)
    assert top.tolist() == [0, 0, 0, 8, 8, 8, 16, 16, 16]
    assert left.tolist() == [0, 8, 16] * 3


def test_a_grid_of_one_is_the_center() -> None:
    assert [mark.tolist() for mark in crop.grid(32, 16, 1)] == [[8], [8]]


@pytest.mark.parametrize(
    ("image_side", "changes", "patch", "view"),
    [(32, {}, 16, 16), (32, {"side": 32}, 16, 32), (224, {"crop": 0.25}, 56, 56),
     (16, {"crop": 0.01}, 1, 1), (32, {"side": "image"}, 16, 32), (64, {"side": "image"}, 32, 64),
     (224, {"side": "image"}, 112, 224)],
)  # fmt: skip
def test_sides_follow_from_the_image_and_the_options(
    image_side: int, changes: dict[str, Any], patch: int, view: int
) -> None:
    policy = Patches(**changes)
    assert (policy.patch_side(image_side), policy.view_side(image_side)) == (patch, view)
    shape = policy(noise(2, image_side), numbers(2)).shape
    assert shape == (4, 2, 3, view, view)


def test_a_patch_enlarged_to_its_image_is_that_computed_by_hand() -> None:
    values = torch.tensor([[0, 0, 80, 0], [0, 0, 160, 240], [0, 0, 0, 0], [0, 0, 0, 0]])
    images = values.to(torch.uint8).expand(1, 3, 4, 4)
    u = torch.tensor([0.0, 0.99] + [0.5] * len(augmentation.DRAWS))[None, None]  # the upper right
    view = Patches(side="image", **NOTHING)(images, u)[0, 0, 0]
    expected = torch.tensor([
        [80, 60, 20, 0],
        [100, 90, 70, 60],
        [140, 150, 170, 180],
        [160, 180, 220, 240],
    ])  # fmt: skip
    assert torch.allclose((view * 0.5 + 0.5) * 255, expected.float(), atol=1e-3)


@pytest.mark.parametrize("side", [32, 64, 224])
def test_square_crops_of_a_quarter_of_the_area_are_the_papers_patches(side: int) -> None:
    images = noise(4, side)
    u = uniform(torch.arange(4), seed=0, epoch=0, views=range(2), draws=RandomCrops.draws)
    crops = RandomCrops(scale=(0.25, 0.25), ratio=(1.0, 1.0), hue=0.2, blur=0.1, solarize=0.1)
    ours = crops(images, u)
    theirs = Patches(side="image")(images, u[..., 2:])  # without those of area and shape
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": 1.1}, "flip is 1.1, expected a probability"),
        ({"solarize": -0.1}, "solarize is -0.1"),
        ({"blur": float("nan")}, "blur is nan"),
        ({"crop": 0.0}, "crop is 0.0, expected a fraction"),
        ({"crop": 1.5}, "crop is 1.5"),
        ({"hue": 0.6}, "hue is 0.6, expected at most half a turn"),
        ({"contrast": -0.4}, "contrast is -0.4, expected 0 or more"),
        ({"sigma": (2.0, 1.0)}, "sigma is"),
        ({"sigma": (0.0, 1.0)}, "sigma is"),
        ({"sigma": (1.0,)}, "sigma is"),
        ({"side": 0}, "side is 0"),
        ({"std": 0.0}, "std is 0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Patches(**changes)


# What a GPU and a compiler get: every operation on every patch, without selecting rows.


@pytest.mark.parametrize("colors", ["faithful", "fast"])
def test_views_of_fixed_shape_are_those_of_selected_rows(
    colors: str, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, u = Patches(**options(colors=colors, side=24, solarize=0.3)), numbers(60)
    plain = policy(images, u)
    monkeypatch.setattr("empssl.views.augmentation._selects_rows", lambda device: False)
    assert torch.allclose(policy(images, u), plain, rtol=0, atol=1e-6)


def test_views_of_fixed_shape_select_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(self: Tensor) -> Tensor:
        raise AssertionError("nonzero makes the host wait")

    monkeypatch.setattr("empssl.views.augmentation._selects_rows", lambda device: False)
    monkeypatch.setattr(Tensor, "nonzero", wait)
    for colors in ("faithful", "fast"):
        assert Patches(**options(colors=colors))(noise(4), numbers(4)).isfinite().all()


def test_an_order_is_found_from_its_place_in_the_alphabet() -> None:
    u = (torch.arange(24) + 0.5) / 24
    assert Patches().augmentation._order({"order": u}).T.tolist() == [
        list(order) for order in itertools.permutations(range(4))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("colors", ["faithful", "fast"])
def test_compiled_views_are_the_plain_ones(colors: str) -> None:
    script = f"""
import torch
from empssl.draws import uniform
from empssl.views import Patches
generator = torch.Generator().manual_seed(0)
images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)
policy = Patches(colors={colors!r}, side=24, solarize=0.3)
u = uniform(torch.arange(6), seed=0, epoch=0, views=range(4), draws=policy.draws)
compiled = torch.compile(policy, fullgraph=True, dynamic=False)
print(float((compiled(images, u) - policy(images, u)).abs().max()))
"""
    process = start(script=script)  # the compiler cannot trace the checks of shapes
    out, problems = process.communicate(timeout=600)
    assert process.returncode == 0, problems
    assert float(out) < 2e-6
