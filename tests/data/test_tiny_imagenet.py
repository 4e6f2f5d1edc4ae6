"""Tiny ImageNet as published and from Parquet; a small set in its shape, and the real subset."""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
import torch
from bad_images import encoded, photo
from PIL import Image
from test_cifar import Response
from test_parquet import cell, write

from empssl.data import download, open_images, tiny_imagenet
from empssl.data.base import ImageSet
from empssl.errors import DataError
from empssl.evaluation.evaluate import evaluate
from empssl.runs.run import Run
from empssl.training.train import train

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tiny-imagenet"
FOLDER = "tiny-imagenet-200"
IDS = ["n01443537", "n02124075", "n07734744"]  # sorted, so label by label


def published(each: int = 2) -> dict[str, bytes]:
    """The files of a small set of three classes, laid out as the authors' archive."""
    files = {f"train/{wnid}/images/{wnid}_{k}.JPEG": photo(10 * label + k, side=64)
             for label, wnid in enumerate(IDS) for k in range(each)}  # fmt: skip
    files |= {f"train/{wnid}/{wnid}_boxes.txt": b"" for wnid in IDS}
    files |= {f"val/images/val_{k}.JPEG": photo(100 + k, side=64) for k in range(6)}
    rows = [f"val_{k}.JPEG\t{IDS[2 - k % 3]}\t0\t32\t44\t62\n" for k in range(6)]
    files["val/val_annotations.txt"] = "".join(rows).encode()
    files["test/images/test_0.JPEG"] = photo(200, side=64)
    files["wnids.txt"] = "\n".join([IDS[2], IDS[0], IDS[1]]).encode()  # not sorted there either
    files["words.txt"] = (
        b"n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\n"
        b"n07734744\tmushroom\nn00001740\tentity\n"
    )
    return files


def lay_out(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (root / FOLDER / name).write_bytes(content)
    return root


def opened(root: Path, split: Any = "all", **options: Any) -> ImageSet:
    return open_images("tiny-imagenet", split=split, data_dir=root, **options)


def names(images: ImageSet) -> list[str]:
    return [images.sample_name(index) for index in range(len(images))]


def labels(images: ImageSet) -> list[int]:
    assert images.labels is not None
    return images.labels.tolist()


def test_val_has_the_numbers_of_train(tmp_path: Path) -> None:
    root = lay_out(tmp_path, published())
    train_set, val = opened(root, "train"), opened(root, "test")
    assert labels(train_set) == [0, 0, 1, 1, 2, 2]
    assert [name.split("/")[1] for name in names(train_set)] == [w for w in IDS for _ in range(2)]
    assert names(val) == [f"val/images/val_{k}.JPEG" for k in range(6)]
    assert labels(val) == [2, 1, 0, 2, 1, 0]


def test_all_is_train_then_val_without_the_unlabelled_test(tmp_path: Path) -> None:
    root = lay_out(tmp_path, published())
    parts = [opened(root, split) for split in ("train", "test", "all")]
    assert names(parts[2]) == names(parts[0]) + names(parts[1])
    assert labels(parts[2]) == labels(parts[0]) + labels(parts[1])
    assert len({part.fingerprint for part in parts}) == 3


def test_images_are_64_pixels_and_unchanged(tmp_path: Path) -> None:
    images = opened(lay_out(tmp_path, published()), "test")
    plain = np.asarray(Image.open(io.BytesIO(photo(103, side=64)))).transpose(2, 0, 1)
    assert np.array_equal(images.read([3]).pixels[0], plain)
    assert (images.name, images.side) == ("tiny-imagenet", 64)


def test_the_folder_may_be_given_itself(tmp_path: Path) -> None:
    root = lay_out(tmp_path, published())
    assert names(opened(root / FOLDER)) == names(opened(root))


def test_gray_images_have_three_equal_channels(tmp_path: Path) -> None:
    gray = encoded(Image.fromarray(np.arange(64 * 64).reshape(64, 64).astype(np.uint8)), "JPEG")
    name = f"train/{IDS[1]}/images/{IDS[1]}_0.JPEG"
    images = opened(lay_out(tmp_path, published() | {name: gray}), "train")
    pixels = images.read([names(images).index(name)]).pixels[0]
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[1], pixels[2])
    assert pixels.float().std() > 10


def test_an_image_that_val_does_not_annotate_has_no_label(tmp_path: Path) -> None:
    images = opened(lay_out(tmp_path, published() | {"val/images/other.JPEG": photo(7)}), "test")
    assert dict(zip(names(images), labels(images), strict=True))["val/images/other.JPEG"] == -1


def test_a_class_is_called_by_its_first_word_unless_two_begin_alike(tmp_path: Path) -> None:
    root = lay_out(tmp_path, published())
    assert opened(root).class_names == ("goldfish", "Egyptian cat", "mushroom")
    words = b"n01443537\tcrane, bird\nn02124075\tcrane, machine\nn07734744\tmushroom, food\n"
    lay_out(tmp_path, {"words.txt": words})
    assert opened(root).class_names == ("crane, bird", "crane, machine", "mushroom")
    (root / FOLDER / "words.txt").unlink()
    assert opened(root).class_names == tuple(IDS)


@pytest.mark.parametrize(
    ("gone", "split", "said"),
    [
        ("wnids.txt", "all", r"tiny-imagenet-200' has no wnids\.txt"),
        (
            "train/n02124075/",
            "train",
            r"1 of 3 classes .* none in train/n02124075/images\.",
        ),
        (
            "train/",
            "train",
            r"3 of 3 classes .*n01443537/images, .*n07734744/images",
        ),
        ("val/val_annotations.txt", "test", r"no val/val_annotations\.txt in"),
        ("val/images/", "test", r"no val/images in"),
        ("val/images/val_4.JPEG", "test", r"1 of the 6 images .*, such as val_4\.JPEG"),
    ],
)
def test_what_is_missing_of_a_half_unpacked_set_is_named(
    gone: str, split: str, said: str, tmp_path: Path
) -> None:
    files = {name: data for name, data in published().items() if not name.startswith(gone)}
    root = lay_out(tmp_path, files)
    with pytest.raises(DataError, match=said) as caught:
        opened(root, split)
    assert "Delete tiny-imagenet-200 and unpack https://cs231n.stanford.edu/" in str(caught.value)


def test_without_val_it_can_be_trained_on(tmp_path: Path) -> None:
    files = {name: data for name, data in published().items() if not name.startswith("val/")}
    assert len(opened(lay_out(tmp_path, files), "train")) == 6


def test_an_annotation_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    files = published()
    files["val/val_annotations.txt"] += b"val_5.JPEG\tn99999999\t0\t0\t9\t9\n"
    with pytest.raises(DataError, match=r"line 7: expected .* 3 ids .*found 'val_5\.JPEG\\tn9999"):
        opened(lay_out(tmp_path, files), "test")


def test_where_there_is_nothing_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no wnids\.txt .* no train\*\.parquet\. Unpack https://"):
        opened(tmp_path, "train")


def parquet(root: Path, *, classes: int = 200) -> Path:
    ids = [f"n{k:08d}" for k in range(classes)]
    for part, count in (("train", 5), ("val", 3)):
        write(root / f"{part}.parquet", [cell(k) for k in range(count)],
              labels=list(range(count)), class_names=ids)  # fmt: skip
    return root


@pytest.mark.parametrize("inner", ["", "data", "tiny-imagenet", "tiny-imagenet/data"])
def test_parquet_files_are_found_with_val_as_the_test_split(inner: str, tmp_path: Path) -> None:
    parquet(tmp_path / inner)
    sets = [opened(tmp_path, split) for split in ("train", "test", "all")]
    assert [len(images) for images in sets] == [5, 3, 8]
    assert labels(sets[1]) == [0, 1, 2]
    assert (sets[0].name, sets[0].side) == ("tiny-imagenet", 64)


@pytest.mark.parametrize(("gone", "split"), [("val", "train"), ("train", "test")])
def test_one_parquet_file_is_not_divided(gone: str, split: str, tmp_path: Path) -> None:
    (parquet(tmp_path) / f"{gone}.parquet").unlink()
    with pytest.raises(DataError, match=rf"has no {gone}\*\.parquet.*Put both there"):
        opened(tmp_path, split)


def test_parquet_of_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 10 classes, and Tiny ImageNet 200; .* give its path"):
        opened(parquet(tmp_path, classes=10), "train")


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            packed.writestr(f"{FOLDER}/{name}", content)
        packed.writestr("../evil.txt", "no")
        packed.writestr("elsewhere.txt", "no")
    return buffer.getvalue()


def serve(monkeypatch: pytest.MonkeyPatch, packed: bytes, *, md5: str | None = None) -> list[str]:
    """Answer with these bytes, and expect their sum or another."""
    asked: list[str] = []

    def get(url: str, **options: Any) -> Response:
        asked.append(url)
        return Response(packed)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(download, "RETRIES", 0)
    sum_of = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE_MD5", md5 or sum_of)
    return asked


def test_download_is_checked_unpacked_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = published()
    asked = serve(monkeypatch, archive(files))
    for _ in range(2):
        assert len(opened(tmp_path / "new", "train", download=True)) == 6
    assert asked == ["https://cs231n.stanford.edu/tiny-imagenet-200.zip"]
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {f"new/{FOLDER}/{name}" for name in files}


def test_nothing_is_fetched_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, archive(published()))
    with pytest.raises(DataError, match="allow the download"):
        opened(tmp_path, "train")
    assert asked == []


def test_another_archive_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, archive(published()), md5="0" * 32)
    with pytest.raises(DataError, match="not the authors' archive"):
        opened(tmp_path, "train", download=True)
    assert list(tmp_path.iterdir()) == []


def test_half_a_set_is_not_overwritten_by_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, archive(published()))
    lay_out(tmp_path, {"train/mine.txt": b"kept"})
    with pytest.raises(DataError, match=r"no wnids\.txt.*Delete"):
        opened(tmp_path, "train", download=True)
    assert asked == []
    assert (tmp_path / FOLDER / "train/mine.txt").read_bytes() == b"kept"


def test_training_and_evaluation_take_it_by_name(tmp_path: Path) -> None:
    root = lay_out(tmp_path, published(each=4))
    run = train(
        "tiny-imagenet", data_dir=root, out=tmp_path / "run", recipe="paper", patches=2, batch=6,
        backbone={"name": "resnet10", "width": 16}, projector={"hidden": 16, "dim": 8},
        precision="32-true",
    )  # fmt: skip
    plan = Run(run).plan
    assert [plan[f"{what}_side"] for what in ("image", "patch", "view")] == [64, 32, 64]
    assert plan["samples"] == 12
    found = evaluate(
        run, "tiny-imagenet", data_dir=root, probes=["knn"], layers=["backbone"], baselines=False
    )
    assert (found.results[0].train_size, found.results[0].test_size) == (12, 6)


@pytest.fixture(scope="module")
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip(f"REAL TINY IMAGENET NOT CHECKED: no {REAL}")
    return REAL


def test_the_real_subset_has_50_and_10_images_of_each_class(real: Path) -> None:
    for split, each in (("train", 50), ("test", 10)):
        images = opened(real, split)
        assert images.labels is not None
        assert images.labels.bincount().tolist() == [each] * 200
        assert list(images.class_names) == sorted(images.class_names)
        assert images.read(range(0, len(images), 40)).valid.all()
    assert names(opened(real.parent, "test")) == names(images)


def test_the_real_images_are_the_same_in_both_forms(real: Path, tmp_path: Path) -> None:
    """One a class, written out as published with val in reverse, and found again by label."""
    files: dict[str, bytes] = {}
    annotations = []
    ids: list[str] = []
    for part, split in (("train", "train"), ("val", "test")):
        rows = pq.read_table(real / f"{part}.parquet")["image"]
        stored = opened(real, split)
        ids = list(stored.class_names)
        for index in range(0, len(stored), 50 if part == "train" else 10):
            wnid, content = ids[labels(stored)[index]], rows[index]["bytes"].as_py()
            if part == "train":
                files[f"train/{wnid}/images/{wnid}_{index:05d}.JPEG"] = content
            else:
                name = f"val_{9999 - index:04d}.JPEG"
                files[f"val/images/{name}"] = content
                annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    files["wnids.txt"] = "\n".join(reversed(ids)).encode()
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    root = lay_out(tmp_path, files)
    for split, step in (("train", 50), ("test", 10)):
        folder, stored = opened(root, split), opened(real, split)
        order = range(0, len(stored), step)
        rows = list(order if split == "train" else reversed(order))
        assert labels(folder) == [labels(stored)[row] for row in rows]
        assert torch.equal(folder.read(range(200)).pixels, stored.read(rows).pixels)
