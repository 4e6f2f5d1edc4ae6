"""Each measure against a plain twin, at known values, under what must not matter; and the verb."""

import inspect
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from references import quality as plain
from torch import Tensor

from empssl.cli import main
from empssl.data import open_images
from empssl.errors import DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.examine import examine
from empssl.evaluation.label_free import (
    MEASURES,
    MeasureReading,
    Quality,
    embed_sample,
    read_sample,
    sample_rows,
)
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes.rotation import rotation, turned
from empssl.metrics.embeddings import (
    alignment,
    alpha_req,
    coding_rate_ratio,
    covariance_rank,
    lidar,
    rankme,
    separation,
    uniformity,
)
from empssl.metrics.projections import projection_metrics
from empssl.runs.run import Run

OF_ROWS = {name: m.function for name, m in MEASURES.items() if m.of == "bags"}
OF_VIEWS = {name: m.function for name, m in MEASURES.items() if m.of == "views"}
# None changes under a rotation of the space; these do not change with the length of all rows.
ALL = {**OF_ROWS, **OF_VIEWS}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(*shape: int) -> Tensor:
    """Images that differ in some directions more than in others, views about them, and a mean."""
    images = noise(*shape[-2:], seed=1) @ noise(shape[-1], shape[-1], seed=2)
    return images + 0.5 * noise(*shape, seed=3) + 2


def given(name: str) -> Tensor:
    return mixed(3, 40, 8) if name in OF_VIEWS else mixed(40, 8)


def with_spectrum(eigenvalues: Tensor, count: int) -> Tensor:
    """Rows whose covariance has exactly these eigenvalues, in directions of no axis."""
    dim = len(eigenvalues)
    rows = noise(count, dim)
    white = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[0] * count**0.5
    return white * eigenvalues.double().sqrt() @ torch.linalg.qr(noise(dim, dim, seed=1))[0]


@pytest.mark.parametrize("name", ALL)
def test_a_measure_is_that_of_its_plain_twin(name: str) -> None:
    x = given(name)
    assert ALL[name](x) == pytest.approx(getattr(plain, name)(x.numpy()), rel=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_single_precision_gives_the_same_measure(name: str) -> None:
    x = given(name)
    assert ALL[name](x.float()) == pytest.approx(ALL[name](x), rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_rotation_of_the_space_and_a_longer_scale_change_nothing(name: str) -> None:
    x = given(name)
    rotated = 7 * x @ torch.linalg.qr(noise(8, 8, seed=9))[0]
    assert ALL[name](rotated) == pytest.approx(ALL[name](x), rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_images_does_not_matter(name: str) -> None:
    x = given(name)
    order = torch.randperm(x.shape[-2], generator=torch.Generator().manual_seed(0))
    assert ALL[name](x[..., order, :]) == pytest.approx(ALL[name](x), rel=1e-8)


@pytest.mark.parametrize("name", ["coding_rate_ratio", "uniformity"])
def test_what_training_logs_is_the_same_measure(name: str) -> None:
    x = mixed(40, 8)
    assert ALL[name](x) == pytest.approx(float(projection_metrics(x[None])[name]), rel=1e-8)


def test_alignment_is_what_training_logs() -> None:
    x = mixed(3, 40, 8)
    assert alignment(x) == pytest.approx(float(projection_metrics(x)["alignment"]), rel=1e-8)


@pytest.mark.parametrize("measure", [rankme, covariance_rank])
def test_an_isotropic_gaussian_uses_nearly_all_directions(measure: Callable[..., float]) -> None:
    assert 15.5 < measure(noise(2000, 16)) <= 16


@pytest.mark.parametrize("measure", [rankme, covariance_rank])
def test_rows_along_one_line_use_one_direction(measure: Callable[..., float]) -> None:
    assert measure(noise(50, 1) * noise(1, 8, seed=1)) == pytest.approx(1, abs=1e-4)


def test_a_common_mean_counts_for_rankme_alone() -> None:
    x = with_spectrum(torch.ones(8), 60)
    assert covariance_rank(x + 100) == pytest.approx(covariance_rank(x), rel=1e-6)
    assert rankme(x + 100) < 0.5 * rankme(x)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_of_a_planted_power_law_is_found(alpha: float) -> None:
    k = torch.arange(1, 33)
    assert alpha_req(with_spectrum(k**-alpha, 100)) == pytest.approx(alpha, rel=1e-6)


def test_alpha_is_near_1_of_a_sample_of_its_power_law() -> None:
    x = noise(2000, 64) * torch.arange(1, 65).double() ** -0.5
    assert alpha_req(x) == pytest.approx(1, abs=0.08)


def test_lidar_is_the_number_of_planted_discriminants() -> None:
    """Three directions tell images apart; in the other five, however long, views differ."""
    images = torch.cat([10 * with_spectrum(torch.ones(3), 200), torch.zeros(200, 5)], 1)
    views = images + noise(10, 200, 8) * torch.tensor([1.0] * 3 + [50.0] * 5)
    assert lidar(views) == pytest.approx(3, abs=0.05 * 3)
    assert rankme(views.mean(0)) > 5


def test_lidar_weighs_directions_by_how_far_views_differ() -> None:
    """One direction in which images differ 100 times the views' width, one in which 1 time."""
    images = torch.stack([100 * noise(5000), noise(5000, seed=1)], 1)
    views = images + noise(4, 5000, 2, seed=2)
    # Means over 4 views still hold a quarter of the views' variance.
    shares = torch.tensor([1e4 + 0.25, 1 + 0.25], dtype=torch.float64)
    expected = float(torch.special.entr(shares / shares.sum()).sum().exp())
    assert lidar(views) - 1 == pytest.approx(expected - 1, rel=0.1)


def test_lidar_of_views_that_agree_is_the_rank_of_their_images() -> None:
    x = mixed(40, 8)
    assert lidar(x.expand(3, -1, -1)) == pytest.approx(covariance_rank(x), rel=1e-6)


def test_separation_is_the_ratio_of_planted_variances() -> None:
    """Means over 5 views hold 4 times the views' variance of each, and a fifth of it besides."""
    views = 2 * noise(4000, 3) + noise(5, 4000, 3, seed=1)
    unbiased = 4 / 5  # of the views' variance, about the means of 5
    assert separation(views) == pytest.approx((4 + 1 / 5) / unbiased, rel=0.05)


def test_separation_of_views_with_nothing_in_common_is_its_floor() -> None:
    assert separation(noise(5, 4000, 3)) == pytest.approx(1 / 4, rel=0.05)


def test_lidar_is_blind_to_how_far_images_stand_apart_and_separation_is_not() -> None:
    images, within = noise(4000, 8), noise(6, 4000, 8, seed=1)
    near, far = 0.5 * images + within, 5 * images + within
    assert lidar(far) == pytest.approx(lidar(near), rel=0.01)
    assert separation(far) > 20 * separation(near)


COLLAPSED = {
    "rankme": 1, "covariance_rank": 1, "coding_rate_ratio": 0, "uniformity": 0, "alignment": 0,
    "lidar": 1, "separation": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", COLLAPSED)
@pytest.mark.parametrize("noisy", [False, True])
def test_collapse_is_the_end_of_the_scale(name: str, noisy: bool) -> None:
    x = torch.full_like(given(name), 3.0).float()
    if noisy:  # by the last bit
        x = torch.where(noise(*x.shape) > 0, x, x.nextafter(torch.tensor(4.0)))
    assert ALL[name](x) == pytest.approx(COLLAPSED[name], abs=1e-4)


@pytest.mark.parametrize("name", ["rankme", "covariance_rank", "alpha_req", "coding_rate_ratio"])
def test_the_fewer_directions_the_less_healthy(name: str) -> None:
    """From variances that fall as 1 / k to ever fewer of them."""
    fall = 1 / torch.arange(1, 33)
    rows = [with_spectrum(fall ** (1 + steeper), 100) for steeper in (0, 0.5, 1, 2)]
    healths = [MEASURES[name].larger_is_better(ALL[name](x)) for x in [*rows, torch.ones(100, 32)]]
    assert healths == sorted(healths, reverse=True)
    assert len(set(healths)) == 5


def test_the_nearer_all_images_lie_the_less_uniform() -> None:
    values = [uniformity(noise(50, 8) + common) for common in (0, 1, 3, 10)]
    assert values == sorted(values)


def test_uniformity_does_not_depend_on_how_many_rows_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = mixed(40, 8)
    whole = uniformity(x)
    monkeypatch.setattr("empssl.metrics.embeddings._PAIR_ROWS", 7)
    assert uniformity(x) == pytest.approx(whole, rel=1e-12)


def test_a_simplex_is_full() -> None:
    assert coding_rate_ratio(torch.eye(8) - 1 / 8) == pytest.approx(1, abs=1e-6)


def test_the_rotation_probe_reads_turns_that_are_there() -> None:
    turns = noise(4, 100, 8)
    assert rotation(turns) < 40
    for turn in range(4):
        turns[turn, :, turn] += 10
    assert rotation(turns) > 98


def test_the_rotation_probe_never_sees_an_image_of_its_test_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Tensor] = {}

    def probe(train: Tensor, turns: Tensor, test: Tensor, *_: object, **__: object) -> object:
        seen.update(train=train, turns=turns, test=test)
        return SimpleNamespace(accuracy=25.0)

    monkeypatch.setattr("empssl.evaluation.probes.rotation.ridge_probe", probe)
    images, turns = torch.arange(10.0)[None, :, None], torch.arange(4.0)[:, None, None]
    rotation(images + 100 * turns)
    train, test = (set((seen[part].flatten() % 100).tolist()) for part in ("train", "test"))
    assert len(train) == len(test) == 5
    assert not train & test
    assert torch.equal(seen["train"].flatten() // 100, seen["turns"].float())


def test_images_are_turned_by_quarters_to_the_left() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    assert [x[0, 0].tolist() for x in turned(image)] == [
        [[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]],
    ]  # fmt: skip


@pytest.mark.parametrize("name", MEASURES)
def test_embeddings_that_are_not_finite_are_refused(name: str) -> None:
    x = mixed(40, 8) if MEASURES[name].of == "bags" else mixed(4, 40, 8)
    x[..., 7, 2] = math.nan
    with pytest.raises(DataError, match=r"1 of 40 embeddings hold NaN or infinity .* row 7"):
        MEASURES[name].function(x)


@pytest.mark.parametrize("name", MEASURES)
def test_one_image_is_too_few(name: str) -> None:
    x = mixed(40, 8)[:1] if MEASURES[name].of == "bags" else mixed(4, 40, 8)[:, :1]
    with pytest.raises(DataError, match="embeddings of 1 images were given, expected"):
        MEASURES[name].function(x)


@pytest.mark.parametrize("name", OF_VIEWS)
def test_one_view_is_too_few(name: str) -> None:
    with pytest.raises(DataError, match="1 view of each image was given, expected 2"):
        OF_VIEWS[name](mixed(1, 40, 8))


def test_a_slope_takes_four_features() -> None:
    with pytest.raises(DataError, match="3 features, expected 4"):
        alpha_req(mixed(40, 3))


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_in_one_sentence_what_it_is_and_who_published_it(name: str) -> None:
    measure = MEASURES[name]
    first = measure.source.partition(";")[0]
    author, year = first.split()[0], first.split()[-1]
    doc = inspect.getdoc(measure.function) or ""
    assert author in doc
    assert year in doc
    assert "healthy" in doc or "healthier" in doc
    assert len(measure.meaning) < 90
    assert "." not in measure.meaning


def test_health_grows_towards_the_healthy_end() -> None:
    assert MEASURES["rankme"].larger_is_better(5.0) > MEASURES["rankme"].larger_is_better(4.0)
    assert MEASURES["alignment"].larger_is_better(0.1) > MEASURES["alignment"].larger_is_better(0.2)
    healths = [MEASURES["alpha_req"].larger_is_better(alpha) for alpha in (1.0, 0.8, 1.5, 3.0)]
    assert healths == sorted(healths, reverse=True)


@pytest.mark.parametrize(("total", "count"), [(10, 3), (10, 9), (7, 7), (5, 9), (50000, 2000)])
def test_a_sample_is_evenly_spread_and_never_takes_an_image_twice(total: int, count: int) -> None:
    for seed in range(5):
        rows = sample_rows(total, count, seed=seed)
        apart = rows.diff()
        assert len(rows) == min(total, count)
        assert rows.min() >= 0
        assert rows.max() < total
        assert apart.min() >= max(1, total // count)
        assert apart.max() <= max(1, math.ceil(total / count))


def test_another_seed_is_another_sample() -> None:
    assert sample_rows(1000, 10, seed=0).tolist() != sample_rows(1000, 10, seed=1).tolist()


def test_bags_are_those_that_are_probed_and_views_and_turns_those_of_single_patches(
    tiny_run: Path,
) -> None:
    encoder = Encoder.from_pretrained(tiny_run, device="cpu")
    images = open_images("digits", split="train", side=encoder.image_side)
    pixels, rows = read_sample(images, sample_rows(len(images), 6, seed=3))
    grid = Crops.parse("grid3")
    found = embed_sample(encoder, pixels, rows, ["head"], crops=grid, views=2, seed=3)["head"]
    alone = encoder.embed(images.pixels[rows], rows, grid, ["head"])["head"]
    assert torch.allclose(found.bags, alone, atol=1e-6)
    assert found.views.shape == (2, 6, alone.shape[1])
    assert not torch.allclose(found.views[0], found.views[1], atol=1e-3)
    upside_down = encoder.embed(images.pixels[rows].flip(2, 3), rows, Crops("whole"), ["head"])
    assert torch.allclose(found.turns[2], upside_down["head"], atol=1e-6)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_run_is_examined_at_each_layer_beside_random_weights(run: Path) -> None:
    quality = examine(run, images=30, views=2, device="cpu")
    assert [(r.measure, r.layer) for r in quality.readings] == [
        (name, layer) for name in MEASURES for layer in ("backbone", "head")
    ]
    assert all(r.random is not None for r in quality.readings)
    # Of a few turned images, both may tell as many.
    assert all(r.random != r.value for r in quality.readings if r.measure != "rotation")
    assert quality.protocol["images"] == 30
    assert quality.protocol["model"] == Run(run).identity
    [file] = (run / "quality").glob("digits-*.json")
    assert json.loads(file.read_text()) == json.loads(quality.to_json())


def test_another_question_leaves_the_first_answer(run: Path) -> None:
    for views in (2, 3, 2):
        examine(run, images=20, views=views, random=False, device="cpu")
    assert sorted(q["protocol"]["views"] for q in Run(run).qualities()) == [2, 3]


def test_a_seed_makes_an_examination_repeatable(run: Path) -> None:
    a, b, other = (
        examine(run, images=20, views=2, random=False, seed=seed, device="cpu").readings
        for seed in (0, 0, 1)
    )
    assert a == b
    assert a != other
    assert all(r.random is None for r in a)


def test_a_folder_without_classes_is_examined_on_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(6):
        pixels = (noise(16, 16, 3, seed=i) * 50 + 128).clamp(0, 255).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i}.png")
    words = ["examine", str(run), "--data", str(tmp_path / "photos"), "--views", "2"]
    assert main([*words, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"(Not collapsed|Collapsed|Little learned): ", lines[0])
    assert all(len(line) <= 80 for line in lines)
    ranks = [line for line in lines if line.startswith("rankme ")]
    assert [line.split()[1] for line in ranks] == ["backbone", "head"]
    assert all("  higher" in line for line in ranks)
    [meaning] = [line for line in lines if line.startswith("rankme: ")]
    assert meaning == "rankme: directions that embeddings use; 1 is collapse (Garrido et al. 2023)"
    assert len(list((run / "quality").glob("photos-*.json"))) == 1


def quality(random: dict[str, float] | None = None, **values: float) -> Quality:
    readings = [
        MeasureReading(name, "head", value, (random or {}).get(name), MEASURES[name].direction,
                       MEASURES[name].meaning, MEASURES[name].source)
        for name, value in values.items()
    ]  # fmt: skip
    protocol = {"images": 20, "crops": "grid3", "views": 2, "widths": {"head": 64}}
    return Quality("photos", "runs/x", protocol, readings)


HEALTHY = {"covariance_rank": 12.3, "uniformity": -2.0, "separation": 1.5}


@pytest.mark.parametrize(
    ("changed", "random", "verdict"),
    [
        ({}, {}, "Not collapsed: images differ in about 12 of 64 directions at layer head."),
        ({}, HEALTHY | {"separation": 0.2, "uniformity": -0.1},
         "Not collapsed: images differ in about 12 of 64 directions at layer head, and 2 of 3 "
         "measures are healthier than with random weights."),
        ({"separation": 0.1}, HEALTHY,
         "Little learned: images stand no further apart from patches of one than with random "
         "weights: images differ in about 12 of 64 directions at layer head, and 0 of 3 measures "
         "are healthier than with random weights."),
        ({"uniformity": -0.001}, HEALTHY,
         "Collapsed: all images have nearly the same embedding at layer head (uniformity -0.00)."),
        ({"covariance_rank": 1.2}, {},
         "Collapsed: images differ in one direction only at layer head (covariance_rank 1.20)."),
    ],
)  # fmt: skip
def test_a_verdict_says_in_a_sentence_whether_embeddings_are_healthy(
    changed: dict[str, float], random: dict[str, float], verdict: str
) -> None:
    found = quality(random, **HEALTHY | changed)
    assert found.verdict == verdict
    assert " ".join(found.table().split()).startswith(verdict)
    assert repr(found) == f"<Quality of runs/x on photos: {verdict}>"
    assert found._repr_html_().startswith("<pre>")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": 3}, "images is 3, expected 4 or more"),
        ({"views": 1}, "views is 1, expected 2 or more"),
        ({"layers": ["joint"]}, "no layer 'joint'"),
        ({"crops": "grid"}, "no crops 'grid'"),
    ],
)
def test_what_cannot_be_examined_is_refused(tiny_run: Path, options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        examine(tiny_run, device="cpu", **options)
