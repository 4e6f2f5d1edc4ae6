"""Broken and odd images: every one is used, or counted and named, by whatever verb meets it."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encoded, make_bad_images, photo
from PIL import Image
from tiny import command

import empssl
from empssl.cli import main
from empssl.data import BadSample, ImageSet
from empssl.data.base import ImageBatch
from empssl.data.decode import UndecodableError, decode
from empssl.data.sampler import Sampler
from empssl.data.value_range import Decoding
from empssl.errors import DataError
from empssl.runs.run import Run

GOOD = 240  # as many as make the bad ones fit in the budget
BLANK = 30
MUTANTS = 5_000  # of each format
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SIDE = 16


@dataclass(frozen=True)
class Trained:
    """A run on a folder that holds the odd files, and what each of them must come to."""

    run: Path
    data: Path
    verdicts: dict[str, str]

    @property
    def bad(self) -> dict[str, str]:
        return {name: verdict for name, verdict in self.verdicts.items() if verdict != "ok"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("odd")
    data = folder / "photos"
    odd = make_bad_images(data / "odd")
    (data / "even").mkdir()
    for number in range(GOOD):
        (data / "even" / f"{number:03d}.png").write_bytes(photo(number, side=SIDE))
    for number in range(BLANK):
        blank = Image.new("RGB", (SIDE, SIDE), (number, 0, 0))
        (data / "even" / f"blank-{number}.png").write_bytes(encoded(blank, "PNG"))
    options = command(folder / "run", "--split", "all", "--image-side", str(SIDE), steps=1)
    assert main([options[0], str(data), *options[2:]]) == 0
    return Trained(folder / "run", data, {f"odd/{name}": v for name, v in odd.items()})


def ledger(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row["reason"] for row in rows}


def test_the_set_of_odd_files_has_not_shrunk(trained: Trained) -> None:
    assert len(trained.verdicts) >= 53
    assert len(trained.bad) >= 31
    assert set(trained.bad.values()) == {
        "unreadable", "truncated", "too-large", "ambiguous-range", "not-a-file"
    }  # fmt: skip


def test_training_names_every_bad_file_and_uses_all_others(trained: Trained) -> None:
    assert ledger(Run(trained.run).bad_samples_path) == trained.bad
    plan = Run(trained.run).plan
    assert plan["samples"] == len(trained.verdicts) + GOOD + BLANK
    assert plan["usable_samples"] == plan["samples"] - len(trained.bad)


def test_embedding_names_every_bad_file_and_keeps_its_row(trained: Trained, tmp_path: Path) -> None:
    out = empssl.embed(trained.run, str(trained.data), out=tmp_path / "z.parquet", crops="whole")
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == len(trained.verdicts) + GOOD + BLANK
    assert {row["name"] for row in rows if not row["valid"]} == trained.bad.keys()
    assert all((row["embedding"] is None) != row["valid"] for row in rows)
    assert ledger(tmp_path / "z.bad_samples.jsonl") == trained.bad


def test_evaluating_names_every_bad_file_and_counts_all_others(trained: Trained) -> None:
    options = {"probes": ["knn"], "crops": ["whole"], "layers": ["head"], "baselines": False}
    found = empssl.evaluate(trained.run, str(trained.data), **options)
    tallies = found.images.values()
    assert {bad.name: bad.reason for tally in tallies for bad in tally.bad} == trained.bad
    assert sum(tally.listed for tally in tallies) == len(trained.verdicts) + GOOD + BLANK
    for split, tally in found.images.items():
        assert tally.listed == tally.used + len(tally.bad)
        assert f"{len(tally.bad)} of {tally.listed} {split} images cannot be used" in found.table()
    assert json.loads(found.to_json()) in Run(trained.run).evaluations()


def test_evaluating_stops_where_too_many_images_are_bad(trained: Trained, tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(photo(number)[: 60 if number > 11 else None])
    with pytest.raises(DataError, match=r"(?s)of \d+ images cannot be used.*truncated"):
        empssl.evaluate(trained.run, str(tmp_path), probes=["knn"], baselines=False)


def test_images_of_one_color_are_counted(trained: Trained) -> None:
    found = empssl.evaluate(
        trained.run, str(trained.data), probes=["knn"], crops=["whole"], baselines=False
    )
    # of the odd files, one is blank, one is a single pixel, one a red line
    assert sum(tally.near_constant for tally in found.images.values()) == BLANK + 3
    assert Run(trained.run).plan["near_constant"] == {
        "found": BLANK + 3, "of": len(trained.verdicts) - len(trained.bad) + GOOD + BLANK
    }  # fmt: skip


def test_many_images_of_one_color_are_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(blank: int) -> str:
        data = tmp_path / f"{blank}"
        data.mkdir()
        for number in range(40):
            image = Image.new("RGB", (SIDE, SIDE)) if number < blank else None
            (data / f"{number}.png").write_bytes(
                encoded(image, "PNG") if image else photo(number, side=SIDE)
            )
        options = command(tmp_path / f"run-{blank}", "--image-side", str(SIDE), steps=1)
        assert main([options[0], str(data), *options[2:]]) == 0
        return capfd.readouterr().err

    assert "nearly of one color" not in train(2)
    assert "3 of 40 images looked at are nearly of one color" in train(3)


def test_a_picture_in_train_and_in_test_is_counted(trained: Trained, tmp_path: Path) -> None:
    for number in range(40):
        split = "test" if number % 4 == 0 else "train"
        folder = tmp_path / split / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(photo(number, side=SIDE))
    again = encoded(Image.open(tmp_path / "train" / "1" / "1.png"), "BMP")
    (tmp_path / "test" / "0" / "copy.bmp").write_bytes(again)
    (tmp_path / "test" / "1").mkdir()
    (tmp_path / "test" / "1" / "other.png").write_bytes(photo(99, side=SIDE))
    found = empssl.evaluate(
        trained.run, str(tmp_path), probes=["knn"], crops=["whole"], baselines=False
    )
    assert found.images["test"].in_train == 1
    assert "1 of 12 test images are in train too" in found.table()


class _Streamed(ImageSet):
    """Images that are their own number; some turn out unreadable when they are read."""

    name, split, side, labels, class_names, fingerprint = "numbers", "all", 1, None, (), ""

    def __init__(self, total: int, bad: set[int]) -> None:
        self.total, self.bad = total, bad

    def __len__(self) -> int:
        return self.total

    def sample_name(self, index: int) -> str:
        return str(index)

    def read(self, indices: Sequence[int]) -> ImageBatch:
        pixels = torch.tensor([i % 256 for i in indices], dtype=torch.uint8)
        valid = torch.tensor([i not in self.bad for i in indices])
        bad = tuple(BadSample(i, str(i), "truncated") for i in indices if i in self.bad)
        return ImageBatch(pixels.view(-1, 1, 1, 1).repeat(1, 3, 1, 1), valid, bad)


@pytest.mark.parametrize("seed", range(8))
def test_what_takes_the_place_of_a_bad_image_is_in_no_batch_twice(seed: int) -> None:
    images = _Streamed(200, {7, 60, 133, 134})
    sampler = Sampler(images, batch=20, seed=seed, rank=0, world=1)
    named = set()
    for step in range(sampler.steps_per_epoch):
        drawn = sampler.draw(step)
        named |= {bad.index for bad in drawn.bad}
        assert len(drawn.samples.unique()) == 20
        assert drawn.pixels[:, 0, 0, 0].tolist() == drawn.samples.tolist()
        assert not images.bad & set(drawn.samples.tolist())
    sampler.close()
    assert named == images.bad


def mutants(form: str, count: int, seed: str = "") -> list[bytes]:
    """A good file with a few bytes changed, most of them near its start, or with its end cut."""
    rng = random.Random(form + seed)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    color = Image.fromarray(noise)
    seeds = [encoded(image, form) for image in (color, color.convert("L"), color.convert("1"))
             if form != "WEBP" or image.mode == "RGB"]  # fmt: skip
    found = []
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 4, 16))):
            place = rng.randrange(rng.choice((len(data), min(len(data), 120))))
            data[place] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        cut = rng.randrange(1, len(data)) if rng.random() < 0.1 else len(data)
        found.append(bytes(data[:cut]))
    return found


def verdict(data: bytes) -> str:
    try:
        image = decode(data, Decoding(max_pixels=250_000))
    except UndecodableError as error:
        return error.reason
    assert image.mode == "RGB"
    assert image.width * image.height <= 250_000
    return "ok"


@pytest.mark.parametrize("form", FORMATS)
def test_mutants_are_decoded_or_refused_with_our_error(
    form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    verdicts = [verdict(data) for data in mutants(form, MUTANTS)]
    assert len(verdicts) == MUTANTS
    assert {"ok", "unreadable", "truncated"} <= set(verdicts) or form == "WEBP"
    assert [verdict(data) for data in mutants(form, 200)] == verdicts[:200]
    assert capfd.readouterr() == ("", "")


def test_the_mutants_are_35_000() -> None:
    assert MUTANTS * len(FORMATS) == 35_000
