"""ImageNet-100 from a folder of ImageNet: a small one in its shape."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encoded, photo
from PIL import Image

from empssl.data import open_images
from empssl.data.base import ImageSet
from empssl.data.imagenet100 import CLASSES, read_ids
from empssl.errors import DataError
from empssl.evaluation.evaluate import evaluate
from empssl.runs.run import Run
from empssl.training.train import train

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenette160"
IDS = read_ids(CLASSES)
OWN = "# three classes\nn02500000 third\n\nn01440764\ttench\nn02102040\n"
OWN_IDS = ["n01440764", "n02102040", "n02500000"]


def lay_out(root: Path, ids: list[str], *, each: int = 1, side: int = 12) -> Path:
    """`each` images a class in train, one in val, and a class that nobody asks for."""
    for label, wnid in enumerate([*ids, "n00000001"]):
        for part, count in (("train", each), ("val", 1)):
            (root / part / wnid).mkdir(parents=True)
            for k in range(count):
                name = f"{wnid}_{k}.JPEG" if part == "train" else f"ILSVRC2012_val_{label}.JPEG"
                (root / part / wnid / name).write_bytes(photo(1000 * label + k, side=side))
    return root


def own(tmp_path: Path, **options: Any) -> tuple[str, Path]:
    """A data set of three classes, and its name."""
    (tmp_path / "mine.txt").write_text(OWN)
    return f"imagenet100:{tmp_path / 'mine.txt'}", lay_out(tmp_path / "in", OWN_IDS, **options)


def opened(name: str, root: Path, split: Any = "all", **options: Any) -> ImageSet:
    return open_images(name, split=split, data_dir=root, **options)


def labels(images: ImageSet) -> list[int]:
    assert images.labels is not None
    return images.labels.tolist()


def test_the_list_is_the_published_one() -> None:
    """The sum is that of the sorted ids of CMC's imagenet100.txt, with spaces between."""
    found = hashlib.sha256(" ".join(IDS).encode()).hexdigest()
    assert found == "469d277522bc36e827b1bc5121a8d837f7c0fe14737e8326ce34c6e5553f75af"
    assert len(IDS) == 100


def test_exactly_the_100_classes_are_taken_in_the_order_of_their_ids(tmp_path: Path) -> None:
    root = lay_out(tmp_path, IDS)
    for split in ("train", "test"):
        images = opened("imagenet100", root, split, side=8)
        assert images.class_names == tuple(IDS)
        assert labels(images) == list(range(100))
        folder = "train" if split == "train" else "val"
        assert images.sample_name(99).startswith(f"{folder}/{IDS[99]}/")
    assert len(opened("imagenet100", root, "all", side=8)) == 200


def test_images_are_scaled_to_224_and_cut_square(tmp_path: Path) -> None:
    name, root = own(tmp_path)
    left = np.zeros((100, 150, 3), np.uint8)
    left[:, :24] = 255  # beside the central square
    (root / f"train/{OWN_IDS[0]}/{OWN_IDS[0]}_0.JPEG").write_bytes(
        encoded(Image.fromarray(left), "PNG")
    )
    images = opened(name, root, "train")
    pixels = images.read([0]).pixels
    assert pixels.shape == (1, 3, 224, 224)
    assert int(pixels.max()) == 0


def test_another_list_of_classes_may_be_given(tmp_path: Path) -> None:
    name, root = own(tmp_path, each=2)
    images = opened(name, root, "train")
    assert images.class_names == tuple(OWN_IDS)
    assert labels(images) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("inner", ["imagenet", "imagenet100"])
def test_the_folder_around_it_may_be_given(inner: str, tmp_path: Path) -> None:
    name, root = own(tmp_path)
    root.rename(tmp_path / inner)
    assert len(opened(name, tmp_path, "train")) == 3


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    name, root = own(tmp_path)
    for wnid in OWN_IDS:
        (tmp_path / "linked/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "linked/train" / wnid).symlink_to(root / "train" / wnid)
    assert labels(opened(name, tmp_path / "linked", "train")) == [0, 1, 2]


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    name, root = own(tmp_path)
    (root / f"val/{OWN_IDS[1]}/ILSVRC2012_val_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 of 3 classes .* none in val/n02102040\. Unpack what"):
        opened(name, root, "test")
    assert len(opened(name, root, "train")) == 3


def test_classes_that_are_still_packed_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for wnid in IDS:
        (tmp_path / "train" / f"{wnid}.tar").touch()
    with pytest.raises(DataError, match=r"100 of 100 classes .*\.tar files in train: unpack each"):
        opened("imagenet100", tmp_path, "train")


def test_a_val_that_is_not_sorted_into_classes_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(photo(0))
    with pytest.raises(DataError, match=r"lie in val itself: move each into the folder of its"):
        opened("imagenet100", tmp_path, "test")


def test_where_there_is_nothing_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folders train and val .* Say with data_dir where"):
        opened("imagenet100", tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n01440764\ntench\n", "line 2: 'tench' is no WordNet id"),
        ("n01440764\n\nn01440764\n", "line 3: n01440764 is listed twice"),
        ("n01440764\n", "lists 1 classes, expected two or more"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        opened(f"imagenet100:{tmp_path / 'mine.txt'}", tmp_path, "train")


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list of classes 'no\.txt': No such file"):
        opened("imagenet100:no.txt", tmp_path, "train")


def tiny_run(name: str, out: Path, **options: Any) -> Path:
    return train(
        name, out=out, patches=2, batch=6, epochs=0.0001, precision="32-true",
        backbone={"name": "resnet10", "width": 16, "stem": "imagenet"},
        projector={"hidden": 16, "dim": 8}, **options,
    )  # fmt: skip


@pytest.mark.parametrize("recipe", ["paper_imagenet100", "official_imagenet100"])
def test_training_and_evaluation_take_it_by_name(recipe: str, tmp_path: Path) -> None:
    name, root = own(tmp_path, each=2)
    run = tiny_run(name, tmp_path / "run", data_dir=root, recipe=recipe)
    plan = Run(run).plan
    assert [plan[f"{what}_side"] for what in ("image", "patch", "view")] == [224, 112, 224]
    found = evaluate(
        run, name, data_dir=root, probes=["knn"], layers=["backbone"], crops=["whole"],
        baselines=False,
    )  # fmt: skip
    assert (found.results[0].train_size, found.results[0].test_size) == (6, 3)


def test_real_photographs_train_at_224_pixels(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"REAL 224-PIXEL PATH NOT CHECKED: no {REAL}")
    rows = pq.read_table(REAL / "val.parquet")["image"]
    for part in ("train", "val"):
        for label, wnid in enumerate(OWN_IDS):
            (tmp_path / "in" / part / wnid).mkdir(parents=True)
            for k in range(3):
                content = rows[50 * label + k]["bytes"].as_py()
                (tmp_path / "in" / part / wnid / f"{k}.webp").write_bytes(content)
    (tmp_path / "mine.txt").write_text(OWN)
    name = f"imagenet100:{tmp_path / 'mine.txt'}"
    run = tiny_run(name, tmp_path / "run", data_dir=tmp_path / "in", recipe="paper_imagenet100")
    assert Run(run).plan["view_side"] == 224
    direct = open_images(str(REAL), split="test", side=224).read([51]).pixels
    assert torch.equal(opened(name, tmp_path / "in", "train").read([4]).pixels, direct)
