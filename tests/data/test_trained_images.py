"""Scores that cannot be leaked into: which test images an encoder was trained on is always said."""

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encoded, photo
from PIL import Image
from tiny import train_tiny

import empssl
from empssl.data import MemoryImages, open_images
from empssl.data.base import ImageSet
from empssl.data.duplicates import (
    NEAR_BITS,
    contents,
    digests,
    listed,
    near,
    nearly_listed,
    perceptual_hashes,
)
from empssl.errors import CheckpointError, DataError
from empssl.evaluation.results import Evaluation
from empssl.reports.run_report import report
from empssl.rng import permutation
from empssl.runs.run import Run
from empssl.runs.trained_images import TrainedImages
from empssl.training import train as train_module
from empssl.training import trained_images_log, trainer
from empssl.training.trained_images_log import hashes_of

EACH, SIDE = 20, 16
CHEAP: dict[str, Any] = {"probes": ["knn"], "crops": ["grid1"], "layers": ["head"],
                         "baselines": False}  # fmt: skip


def fill(root: Path, kinds: Sequence[str] = "abc", *, first: int = 0) -> Path:
    """Twenty images of each class, those of other numbers being others."""
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for k in range(EACH):
            number = first + 1000 * ord(kind[0]) + k
            (root / kind / f"{k:02d}.png").write_bytes(photo(number, side=SIDE))
    return root


def short(out: Path, data: Path | str, **changes: Any) -> Path:
    return train_tiny(out, data=str(data), **({"epochs": 0.2, "image_side": SIDE} | changes))


def score(run: Path, data: Path | str, **changes: Any) -> Evaluation:
    return empssl.evaluate(run, str(data), **(CHEAP | changes))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def blind(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that left the test images out."""
    return short(tmp_path_factory.mktemp("blind") / "run", photos, split="train")


@pytest.fixture(scope="module")
def seen(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on all images."""
    return short(tmp_path_factory.mktemp("seen") / "run", photos)


def packed(photos: Path, out: Path) -> Path:
    """The same files in Parquet, in another order and without their names."""
    files = sorted(photos.glob("*/*.png"), key=lambda path: path.name)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": path.read_bytes(), "path": None} for path in files]
    labels = ["abc".index(path.parent.name) for path in files]
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": pa.array(labels)}), out)
    return out


def moved(photos: Path, out: Path) -> Path:
    return Path(shutil.copytree(photos, out / "elsewhere"))


def renamed(photos: Path, out: Path) -> Path:
    for k, path in enumerate(sorted(photos.glob("*/*"))):
        target = out / path.parent.name / f"picture-{k}.png"
        target.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(path, target)
    return out


def higher(photos: Path, out: Path) -> Path:
    shutil.copytree(photos, out / "around" / "photos")
    return out / "around"


def parted(photos: Path, out: Path) -> Path:
    """Split again, by hand."""
    for k, path in enumerate(sorted(photos.glob("*/*"))):
        target = out / ("test" if k % 3 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(path, target)
    return out


def bitmaps(photos: Path, out: Path) -> Path:
    for path in sorted(photos.glob("*/*")):
        target = out / path.parent.name / f"{path.stem}.bmp"
        target.parent.mkdir(exist_ok=True, parents=True)
        target.write_bytes(encoded(Image.open(path), "BMP"))
    return out


def in_parquet(photos: Path, out: Path) -> Path:
    return packed(photos, out / "x.parquet")


WAYS = [moved, renamed, higher, parted, bitmaps, in_parquet]


@pytest.mark.parametrize("way", WAYS)
def test_images_that_were_trained_on_are_known_wherever_they_lie(
    way: Callable[[Path, Path], Path], photos: Path, seen: Path, tmp_path: Path
) -> None:
    found = score(seen, way(photos, tmp_path))
    test = found.images["test"]
    assert (test.trained_on, found.images["train"].trained_on) == (test.used, 60 - test.used)
    assert found.protocol["transfer"] is False
    assert found.protocol["saw_test"] is True
    last = found.table().splitlines()[-1]
    assert f"trained on {test.used} of {test.used} test images too, without their labels" in last
    assert "transfer" not in found.table()


@pytest.mark.parametrize("way", WAYS)
def test_the_count_is_that_of_the_images_and_not_of_the_data_set(
    way: Callable[[Path, Path], Path], photos: Path, blind: Path, tmp_path: Path
) -> None:
    data = str(way(photos, tmp_path))
    learned = open_images(str(photos), split="train", side=SIDE)
    test = open_images(data, split="test", side=SIDE)
    pixels = [images.read(range(len(images))).pixels for images in (learned, test)]
    both = sum(any(torch.equal(x, y) for y in pixels[0]) for x in pixels[1])
    found = score(blind, data)
    assert found.images["test"].trained_on == both
    assert f"trained on {both} of {len(test)} test images" in found.table().splitlines()[-1]
    assert both == 0 or way not in (moved, higher)
    assert both > 0 or way not in (renamed, parted, in_parquet)


def test_a_part_of_the_images_counts_as_a_part(seen: Path, photos: Path, tmp_path: Path) -> None:
    data = fill(tmp_path / "mixed", first=500)
    for kind in "abc":
        shutil.copy(photos / kind / "03.png", data / kind / "zz-known.png")
    (data / "test").mkdir()
    for kind in "abc":
        (data / "test" / kind).mkdir()
        for name in ("00.png", "zz-known.png"):
            shutil.move(data / kind / name, data / "test" / kind / name)
        shutil.move(data / kind, data / "train" / kind)
    found = score(seen, data)
    assert (found.images["test"].trained_on, found.images["test"].used) == (3, 6)
    assert found.protocol["transfer"] is False
    assert "trained on 3 of 6 test images too, without their labels" in found.table()
    assert "a transfer" not in found.table()


def test_other_images_are_a_transfer_even_under_the_name_of_those_of_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, first in (("one", 0), ("two", 500)):
        fill(tmp_path / name / "photos", first=first)
    monkeypatch.chdir(tmp_path / "one")
    run = short(tmp_path / "run", "photos")
    monkeypatch.chdir(tmp_path / "two")
    found = score(run, "photos")
    assert found.images["test"].trained_on == 0
    assert found.protocol["transfer"] is True
    assert found.table().splitlines()[-1] == "a transfer: the encoder was trained on photos"


def test_labels_that_trained_are_told_with_every_score(photos: Path, tmp_path: Path) -> None:
    run = short(tmp_path / "run", photos, objective="supcon")
    own, other = score(run, photos), score(run, fill(tmp_path / "other", first=500))
    assert "test images too, with their labels" in own.table()
    assert "a transfer" in other.table()
    for found in (own, other):
        assert json.loads(found.to_json())["trained_with_labels"] is True
        assert "the encoder was trained with labels" in found.table()
        assert "without" not in found.table()
    page = report(run).read_text()
    assert "of the test images too, with their labels" in page
    assert "without labels ·" not in page
    assert "they took no part in training" not in page


def test_a_run_of_a_version_before_says_that_it_cannot_tell(
    photos: Path, seen: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(seen, tmp_path / "old"))
    (old / "trained_images.safetensors").unlink()
    plan = Run(old).plan
    Run(old).plan = {k: plan[k] for k in plan.keys() - {"division", "trained_with_labels"}}
    found, now = score(old, photos), score(seen, photos)
    assert found.results == now.results
    assert found.images["test"].trained_on is None
    last = found.table().splitlines()[-2:]
    assert last[0] == "the encoder was trained on the test images too, without their labels"
    assert "cannot be told" in last[1]
    there = score(old, moved(photos, tmp_path))
    assert there.protocol["saw_test"] is True
    assert "a transfer" not in there.table()
    other = score(old, fill(tmp_path / "other", "xyz")).table().splitlines()
    assert other[-2].startswith("a transfer")
    assert "cannot be told" in other[-1]


def test_a_run_of_a_version_before_keeps_its_split(photos: Path, tmp_path: Path) -> None:
    data = str(packed(photos, tmp_path / "x.parquet"))
    run = short(tmp_path / "run", data, split="train")
    plan = Run(run).plan
    Run(run).plan = {k: plan[k] for k in plan.keys() - {"division"}}
    before = open_images(data, split="test", division="by_name")
    assert score(run, data).images["test"].listed == len(before)
    assert len(before) != len(open_images(data, split="test"))


def test_files_that_another_decoder_reads_otherwise_are_not_called_unseen(
    photos: Path, blind: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(blind, tmp_path / "run"))
    known = Run(run).trained_images
    assert known is not None
    Run(run).trained_images = TrainedImages(known.rows + 1, whole=True)
    found = score(run, photos)
    assert found.images["test"].trained_on is None
    assert "cannot be told" in found.table()
    assert found.protocol["transfer"] is False


def test_a_damaged_list_is_an_error_and_not_another_count(
    photos: Path, seen: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(seen, tmp_path / "run"))
    file = run / "trained_images.safetensors"
    whole = file.read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"trained_images.safetensors: .* damaged"):
            score(run, photos)
    file.write_bytes(whole[:-9])
    with pytest.raises(CheckpointError, match="damaged"):
        score(run, photos)
    file.unlink()
    empssl.train(str(photos), out=run, resume=True)
    assert file.read_bytes() == whole


def test_the_list_takes_sixteen_bytes_an_image() -> None:
    rows = torch.randint(-(2**62), 2**62, (50_000, 2), generator=torch.Generator().manual_seed(0))
    data = TrainedImages(rows, whole=True).to_bytes()
    assert len(data) < 1_000_000
    again = TrainedImages.from_bytes(data)
    assert (len(again.rows), again.whole) == (50_000, True)


@pytest.mark.parametrize("at", [(0, 0, 0), (1, 7, 8), (2, 15, 15)])
def test_one_pixel_makes_another_image(at: tuple[int, int, int]) -> None:
    pixels = torch.randint(
        0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0)
    ).byte()
    other = pixels.clone()
    other[0][at] ^= 1
    assert listed(torch.cat([pixels, other]), contents(pixels)).tolist() == [True, False]
    assert nearly_listed(other, contents(pixels)).all()


def test_images_that_cannot_be_read_were_not_trained_on(tmp_path: Path) -> None:
    data = fill(tmp_path / "photos")
    (data / "a" / "zz.png").write_bytes(b"no picture")
    run = short(tmp_path / "run", data)
    known = Run(run).trained_images
    assert known is not None
    assert len(known.rows) == 60


def test_embeddings_in_files_keep_what_was_trained_on(
    photos: Path, seen: Path, blind: Path, tmp_path: Path
) -> None:
    for run, expected in ((seen, 8), (blind, 0)):
        files = [
            empssl.embed(run, str(photos), out=tmp_path / f"{run.parent.name}-{part}.parquet",
                         split=part, crops="grid1")  # type: ignore[arg-type]
            for part in ("train", "test")
        ]  # fmt: skip
        assert pq.read_table(files[0])["trained_on"].to_pylist() == [True] * 52
        found = empssl.evaluate(files[0], str(files[1]), probes=["knn"])
        assert found.images["test"].trained_on == expected
        assert f"trained on {expected} of 8 test images" in found.table()
    old = pq.read_table(files[1]).drop_columns("trained_on")
    pq.write_table(old, files[1])
    assert "cannot be told" in empssl.evaluate(files[0], str(files[1]), probes=["knn"]).table()


# Sets that do not fit in memory.


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "in_memory", lambda images, progress: images)


def numbers(run: Path, images: ImageSet) -> set[int]:
    """Which images of a set a run lists."""
    known = Run(run).trained_images
    assert known is not None
    assert known.whole is False
    return set(listed(images.read(range(len(images))).pixels, known.rows).nonzero()[:, 0].tolist())


def drawn(images: ImageSet, steps: int) -> set[int]:
    from empssl.data.sampler import Sampler

    sampler = Sampler(images, batch=8, seed=0, rank=0, world=1)
    found = {i for step in range(steps) for i in sampler.draw(step).samples.tolist()}
    sampler.close()
    return found


@pytest.mark.usefixtures("stream")
def test_of_a_set_that_is_not_kept_in_memory_those_that_steps_drew_are_listed(
    photos: Path, tmp_path: Path
) -> None:
    run = short(tmp_path / "run", photos, epochs=3 / 7)
    images = open_images(str(photos), split="all", side=SIDE)
    assert numbers(run, images) == drawn(images, 3)
    found = score(run, photos)
    assert 0 < (found.images["test"].trained_on or 0) < found.images["test"].used
    assert found.protocol["transfer"] is False


@pytest.mark.usefixtures("stream")
def test_images_that_whitening_was_measured_on_are_listed_too(photos: Path, tmp_path: Path) -> None:
    run = short(tmp_path / "run", photos, epochs=1 / 7, whitened=16)
    assert len(numbers(run, open_images(str(photos), split="all", side=SIDE))) == 60


@pytest.mark.usefixtures("stream")
def test_a_resumed_run_lists_what_it_drew_before_and_after(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = trainer.Trainer.train_step

    def stopping(self: trainer.Trainer, step: int, *rest: Any, **more: Any) -> Any:
        if step == 2 and self.step == 2:
            self._save()
            raise KeyboardInterrupt
        return taken(self, step, *rest, **more)

    monkeypatch.setattr(trainer.Trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        short(tmp_path / "run", photos, epochs=4 / 7)
    images = open_images(str(photos), split="all", side=SIDE)
    assert numbers(tmp_path / "run", images) == drawn(images, 2)
    monkeypatch.setattr(trainer.Trainer, "train_step", taken)
    empssl.train(str(photos), out=tmp_path / "run", resume=True)
    assert numbers(tmp_path / "run", images) == drawn(images, 4)


@pytest.mark.usefixtures("stream")
def test_what_other_processes_drew_is_listed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(str(photos), split="all", side=SIDE)
    other = contents(images.read([59]).pixels)
    plain = trained_images_log.all_gather_object
    monkeypatch.setattr(
        trained_images_log,
        "all_gather_object",
        lambda v: [v, [other]] if v and v[0] is not v else plain(v),
    )
    run = short(tmp_path / "run", photos, epochs=1 / 7)
    assert numbers(run, images) == drawn(images, 1) | {59}


@pytest.mark.usefixtures("stream")
def test_a_list_that_would_have_gaps_is_not_made(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = short(tmp_path / "run", photos, epochs=1.0)
    (run / "trained_images.safetensors").unlink()
    empssl.train(str(photos), out=run, resume=True)
    assert Run(run).trained_images is None


# Near copies.


@pytest.fixture(scope="module")
def scenes() -> torch.Tensor:
    """Smooth pictures, as photographs are, of 48 pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 3, 16, 16, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic")
    return (255 * smooth).clamp(0, 255).byte()


def as_jpeg(image: torch.Tensor, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_an_image_that_was_compressed_anew_or_scaled_is_near(scenes: torch.Tensor) -> None:
    def again(image: torch.Tensor, quality: int, side: int) -> torch.Tensor:
        small = (
            Image.open(io.BytesIO(as_jpeg(image, quality))).resize((side, side)).resize((48, 48))
        )
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    hashes = perceptual_hashes(scenes)
    for quality, side in ((90, 48), (60, 48), (95, 24), (80, 36)):
        copies = torch.stack([again(image, quality, side) for image in scenes])
        assert near(copies, hashes).float().mean() > 0.95
        assert not torch.isin(digests(copies), digests(scenes)).any()
    assert not near(scenes[:30], hashes[30:]).any()
    assert not near(scenes.flip(3), hashes).any()


def test_hashes_are_near_up_to_four_bits(scenes: torch.Tensor) -> None:
    known = perceptual_hashes(scenes[:1])
    flipped = [known ^ sum(1 << (7 * k) for k in range(count)) for count in (0, 4, 5)]
    assert NEAR_BITS == 4
    assert [bool(near(scenes[:1], bits)) for bits in flipped] == [True, True, False]


def test_images_of_one_color_are_near_to_none() -> None:
    black, white = torch.zeros(1, 3, 20, 20).byte(), torch.full((1, 3, 20, 20), 255).byte()
    assert not near(white, perceptual_hashes(black)).any()


def test_near_copies_are_counted_where_that_is_asked_for(
    scenes: torch.Tensor, tmp_path: Path
) -> None:
    train, test = tmp_path / "train", tmp_path / "other"
    for k, image in enumerate(scenes):
        for root, data in ((train, encoded(Image.fromarray(image.permute(1, 2, 0).numpy()), "PNG")),
                           (test, as_jpeg(image, 85))):  # fmt: skip
            part = root if root is train else root / ("test" if k % 3 else "train")
            (part / f"{k % 2}").mkdir(parents=True, exist_ok=True)
            (part / f"{k % 2}" / f"{k:02d}.img.png").write_bytes(data)
    run = short(tmp_path / "run", train, image_side=48)
    asked, plain = (score(run, test, near_copies=near) for near in (True, False))
    assert asked.images["test"].near_trained_on == asked.images["test"].used == 40
    assert "40 of 40 test images are near copies of images that the encoder was" in asked.table()
    assert plain.images["test"].near_trained_on is None
    assert "near copies" not in plain.table()
    assert asked.name == plain.name


# What is said.


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err


def replace_content(path: Path) -> None:
    """Another picture in a file of the same name and size, whose times are those from before."""
    picture = Image.open(io.BytesIO(photo(99_999, side=SIDE)))
    before, content = path.stat(), encoded(picture, "BMP")
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("streamed", [False, True])
def test_resuming_says_how_many_images_show_something_else_than_before(
    streamed: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], str],
) -> None:  # fmt: skip
    if streamed:
        monkeypatch.setattr(train_module, "in_memory", lambda images, progress: images)
    data = bitmaps(photos, tmp_path / "data")
    run = short(tmp_path / "run", data, epochs=1.0, patches=2)
    told()
    empssl.train(str(data), out=run, resume=True)
    assert "something else" not in told()
    names = [open_images(str(data), split="all", side=SIDE).sample_name(i) for i in range(60)]
    order = permutation(60, seed=0, epoch=0)[:56].tolist()  # those that a pass of 7 steps has drawn
    for k in order[:2]:
        replace_content(data / names[k])
    empssl.train(str(data), out=run, resume=True)
    [line] = [line for line in told().splitlines() if "something else" in line]
    seen = "56 images looked at" if streamed else "60 images"
    assert f"2 of {seen} show something else than when {run} learned from them, such as" in line
    known = Run(run).trained_images
    assert known is not None
    assert len(known.rows) == (56 if streamed else 61)  # both replaced ones show one picture


def test_images_that_were_never_drawn_are_not_called_changed(
    photos: Path, tmp_path: Path, stream: None, told: Callable[[], str]
) -> None:
    data = bitmaps(photos, tmp_path / "data")
    run = short(tmp_path / "run", data, epochs=1 / 7, patches=2)
    names = [open_images(str(data), split="all", side=SIDE).sample_name(i) for i in range(60)]
    for k in permutation(60, seed=0, epoch=0)[8:].tolist():
        replace_content(data / names[k])
    empssl.train(str(data), out=run, resume=True)
    assert "something else" not in told()


# What is left out, and what classes there are.


def test_nothing_is_left_out_of_training_that_nobody_asked_to_leave_out(
    photos: Path, tmp_path: Path, told: Callable[[], str]
) -> None:
    run = short(tmp_path / "all", photos)
    assert "60 of 60 images can be used (all split)" in told()
    assert Run(run).config["split"] == "all"
    left = short(tmp_path / "left", photos, split="train")
    assert Run(left).plan["samples"] == len(open_images(str(photos), split="train")) < 60
    assert "; train with --split train to leave them out" in score(run, photos).table()
    assert "--split train" not in score(left, photos).table()


def test_test_images_that_the_data_name_are_left_out_unasked(photos: Path, tmp_path: Path) -> None:
    data = parted(photos, tmp_path / "data")
    run = short(tmp_path / "run", data)
    assert (Run(run).config["split"], Run(run).plan["samples"]) == ("train", 40)
    assert Run(train_tiny(tmp_path / "digits", steps=1)).config["split"] == "train"


def test_classes_are_named_before_anything_else(
    photos: Path, tmp_path: Path, told: Callable[[], str]
) -> None:
    run = short(tmp_path / "run", photos)
    assert told().splitlines()[0] == "empssl: 3 classes in 60 images: a 20, b 20, c 20"
    score(run, photos)
    lines = told().splitlines()
    assert re.fullmatch(r"empssl: 3 classes in \d+ train images: a \d+, b \d+, c \d+", lines[0])
    assert re.fullmatch(r"empssl: 2 classes in 8 test images: a 3, b 5", lines[1])


def test_the_parts_that_the_data_name_are_told(photos: Path, tmp_path: Path) -> None:
    data = parted(photos, tmp_path / "data")
    (data / "test").rename(data / "dev")
    found = score(short(tmp_path / "run", data), data)
    assert f"{data}: 40 train (train), 20 test (dev) images" in found.table()


def test_a_set_in_memory_is_listed_whole_but_for_what_cannot_be_read() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).byte()
    valid = torch.tensor([False, True])
    images = MemoryImages(pixels, name="x", split="all", fingerprint="", valid=valid)
    known = hashes_of(images, images.valid.nonzero()[:, 0])
    assert listed(pixels, known).tolist() == [False, True]


def test_classes_that_only_the_given_test_part_has_are_named(
    seen: Path, photos: Path, tmp_path: Path
) -> None:
    data = parted(photos, tmp_path / "data")
    fill(data / "test", ("d\x1b[31m", "e"))
    with pytest.raises(DataError) as caught:
        score(seen, data)
    assert r"have classes d\x1b[31m, e, of which train has no image" in str(caught.value)
    assert "add train images of them, or take them out of test" in str(caught.value)
