import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bad_images import encoded, make_bad_images, photo
from PIL import Image

from empssl.data import in_memory, open_images
from empssl.data.listing import list_images
from empssl.data.splits import held_out
from empssl.errors import DataError


def fill(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number, side=12))
    return root


def classes(root: Path, each: int = 40) -> Path:
    return fill(root, *(f"{c}/{k}.png" for c in ("cat", "dog") for k in range(each)))


def names(root: Path, split: str = "all") -> list[str]:
    images = open_images(str(root), split=split, side=8)  # type: ignore[arg-type]
    return [images.sample_name(i) for i in range(len(images))]


def test_flat_folder_has_no_labels_and_is_not_divided(tmp_path: Path) -> None:
    images = open_images(str(fill(tmp_path, "b.png", "a.png", "c.png")), split="train")
    assert (len(images), images.labels, images.split, images.side) == (3, None, "all", 64)
    assert [images.sample_name(i) for i in range(3)] == ["a.png", "b.png", "c.png"]


def test_flat_folder_has_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no test split: it has neither classes nor a 'train'"):
        open_images(str(fill(tmp_path, "a.png")), split="test")


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "Validation")])
def test_splits_are_known_by_several_names(train: str, test: str, tmp_path: Path) -> None:
    fill(tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{test}/a/3.png", f"{test}/b/4.png")
    assert names(tmp_path, "train") == [f"{train}/a/1.png", f"{train}/b/2.png"]
    images = open_images(str(tmp_path), split="test", side=8)
    assert images.class_names == ("a", "b")


def test_a_flat_test_folder_leaves_train_its_labels(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "test/3.png")
    train, test, every = (
        open_images(str(tmp_path), split=split, side=8) for split in ("train", "test", "all")
    )
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1]
    assert test.labels is None
    assert every.labels is not None
    assert every.labels.tolist() == [-1, 0, 1]


def test_of_two_test_folders_the_one_with_classes_is_taken(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "test/3.png", "val/a/4.png", "val/b/5.png")
    assert names(tmp_path, "test") == ["val/a/4.png", "val/b/5.png"]


def test_an_image_of_a_kind_that_is_not_read_is_told_as_bad(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{k}.png" for k in range(20)))
    (tmp_path / "x.heic").write_bytes(b"ftypheic")
    images = open_images(str(tmp_path), split="all", side=8)
    [bad] = images.read(list(range(len(images)))).bad
    assert (bad.name, bad.reason) == ("x.heic", "unreadable")


def test_folders_are_classes(tmp_path: Path) -> None:
    images = open_images(str(fill(tmp_path, "b/1.png", "a/x/2.png", "b/3.png")), split="all")
    assert images.class_names == ("a", "b")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("extra", ["top.png", "x.PNG"])
def test_image_beside_the_folders_makes_it_flat(tmp_path: Path, extra: str) -> None:
    images = open_images(str(fill(tmp_path, "a/1.png", "b/2.png", extra)), split="all")
    assert (images.labels, images.class_names) == (None, ())


def test_empty_class_folders_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "a0").mkdir()
    images = open_images(str(fill(tmp_path, "a/1.png", "b/2.png")), split="all")
    assert images.class_names == ("a", "b")


def test_single_folder_is_looked_through(tmp_path: Path) -> None:
    root = fill(tmp_path, "photos/all/a/1.png", "photos/all/b/2.png")
    assert open_images(str(root), split="all").class_names == ("a", "b")
    assert names(root) == ["photos/all/a/1.png", "photos/all/b/2.png"]


@pytest.mark.parametrize("folders", [("cat", "cat"), ("train/cat", "test/cat")])
def test_one_class_is_no_class(tmp_path: Path, folders: tuple[str, str]) -> None:
    root = fill(tmp_path, *(f"{folder}/{k}.png" for k, folder in enumerate(folders)))
    images = open_images(str(root), split="all")
    assert (len(images), images.labels, images.class_names) == (2, None, ())


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_given_splits_are_kept(tmp_path: Path, test: str) -> None:
    root = fill(tmp_path, "train/a/1.png", "train/b/2.png", f"{test}/b/3.png", "spare/4.png")
    assert names(root, "train") == ["train/a/1.png", "train/b/2.png"]
    assert names(root, "test") == [f"{test}/b/3.png"]
    assert sorted(names(root, "all")) == sorted(names(root, "train") + names(root, "test"))
    held_out = open_images(str(root), split="test")
    assert held_out.labels is not None
    assert (held_out.labels.tolist(), held_out.class_names) == ([1], ("a", "b"))


def test_train_and_test_are_disjoint_and_whole(tmp_path: Path) -> None:
    root = classes(tmp_path, each=50)
    train, test = set(names(root, "train")), set(names(root, "test"))
    assert not train & test
    assert train | test == set(names(root, "all"))
    assert 8 <= len(test) <= 32  # 20 expected, 3 standard deviations
    assert Counter(name[0] for name in test).keys() == {"c", "d"}


def test_new_images_move_no_other(tmp_path: Path) -> None:
    before = {split: set(names(classes(tmp_path / "a"), split)) for split in ("train", "test")}
    after = classes(tmp_path / "a", each=60)
    for split, old in before.items():
        assert old < set(names(after, split))


@pytest.mark.parametrize("inside", ["", "photos/", "photos/all/"])
def test_the_split_is_that_of_the_pictures_wherever_their_folder_lies(
    inside: str, tmp_path: Path
) -> None:
    plain = classes(tmp_path / "plain")
    other = classes(tmp_path / "moved" / inside)
    for split in ("train", "test"):
        assert names(other, split) == names(plain, split)
        if inside:
            around = names(tmp_path / "moved", split)
            assert around == [f"{inside}{name}" for name in names(plain, split)]


def test_the_split_of_versions_before_can_be_had(tmp_path: Path) -> None:
    root = classes(tmp_path / "around" / "photos")
    for opened in (root, root.parent):
        every = names(opened)
        images = open_images(str(opened), split="test", side=8, division="by_name")
        found = [images.sample_name(i) for i in range(len(images))]
        assert found == [name for name in every if held_out(name)]
    assert found != names(root.parent, "test")


def test_a_class_that_only_test_would_have_goes_to_train(tmp_path: Path) -> None:
    alone = [f"{c}/{k}.png" for c in "abcdefghij" for k in range(3)]
    held = {name for name in alone if held_out(name)}
    few = {name.partition("/")[0] for name in held}
    others = [name for name in alone if name[0] not in few] + [f"z/{k}.png" for k in range(20)]
    root = fill(tmp_path, *held, *others)
    train, test = names(root, "train"), names(root, "test")
    assert held <= set(train)
    assert {name[0] for name in test} <= {name[0] for name in train}
    assert sorted(train + test) == sorted(names(root))
    assert test


def test_there_is_something_to_test_on_as_long_as_a_class_has_two(tmp_path: Path) -> None:
    root = fill(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    assert [name[0] for name in names(root, "test")] == ["b"]
    assert {name[0] for name in names(root, "train")} == {"a", "b"}
    alone = fill(tmp_path / "alone", "a/1.png", "b/1.png")
    with pytest.raises(DataError, match=r"none of the 2 images in .* is in the test split"):
        open_images(str(alone), split="test")


GIVEN = [
    ("train", "dev"), ("training", "eval"), ("Train", "Evaluation"), ("TRAIN", "holdout"),
    ("train_images", "test_images"), ("images_train", "images_val"), ("train-set", "dev-set"),
    ("train2017", "val2017"), ("trainset", "testset"), ("TrainImages", "TestImages"),
    ("pets.train", "pets.valid"), ("training data", "validation data"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), GIVEN)
def test_folders_of_splits_are_known_by_the_words_in_their_names(
    train: str, test: str, tmp_path: Path
) -> None:
    fill(tmp_path, *(f"{part}/{c}/{k}.png" for part in (train, test) for c in "ab" for k in "12"))
    parts = [open_images(str(tmp_path), split=split, side=8) for split in ("auto", "test", "all")]
    assert [(images.part, len(images)) for images in parts] == [(train, 4), (test, 4), ("", 8)]
    assert {images.class_names for images in parts} == {("a", "b")}


CLASSES = [
    ("trainers", "testudo"), ("valley", "training"), ("train", "car", "bus"), ("dev", "ops"),
    ("train_station", "test_tube"), ("training", "dev", "cooking"), ("train_a", "bus", "test_a"),
    ("train_cats", "train_dogs", "test_birds"), ("contest", "strain"), ("evaluate", "trained"),
]  # fmt: skip


@pytest.mark.parametrize("folders", CLASSES)
def test_classes_that_only_sound_like_splits_stay_classes(
    folders: tuple[str, ...], tmp_path: Path
) -> None:
    fill(tmp_path, *(f"{folder}/{k}.png" for folder in folders for k in range(3)))
    images = open_images(str(tmp_path), split="auto", side=8)
    assert images.class_names == tuple(sorted(folders))
    assert (images.split, len(images), images.part) == ("all", 3 * len(folders), "")


def test_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", "1.png", "2.png"), fill(tmp_path / "b", "2.png", "1.png")
    assert names(a) == names(b)


def test_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    root = fill(tmp_path / "a", "1.png", "2.png")
    first = open_images(str(root), split="all").fingerprint
    assert (
        open_images(str(fill(tmp_path / "b", "1.png", "2.png")), split="all").fingerprint == first
    )
    (root / "2.png").write_bytes(photo(1, side=13))
    second = open_images(str(root), split="all").fingerprint
    (root / "2.png").rename(root / "3.png")
    third = open_images(str(root), split="all").fingerprint
    assert len({first, second, third}) == 3


def test_link_loops_end_and_a_file_is_one_sample(tmp_path: Path) -> None:
    root = fill(tmp_path, "a/1.png", "b/2.png")
    (root / "a/up").symlink_to(root)
    (root / "b/other").symlink_to(root / "a")
    (root / "0-link.png").symlink_to(root / "a/1.png")
    os.link(root / "b/2.png", root / "b/2-again.png")
    assert list(list_images(root).sizes) == ["a/1.png", "b/2-again.png"]


def test_links_to_elsewhere_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "store", "1.png", "2.png")
    root = fill(tmp_path / "root", "0.png")
    (root / "linked").symlink_to(tmp_path / "store")
    assert names(root) == ["0.png", "linked/1.png", "linked/2.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    assert names(fill(tmp_path, "1.png", ".2.png", ".git/3.png")) == ["1.png"]


STRANGE = [
    b"new\nline.png",
    b"not \xff\xfe text.png",
    "\u202efdp.png".encode(),
    b"-rf.png",
    b"a" * 251 + b".png",
    "caf\u00e9.png".encode(),
    "cafe\u0301.png".encode(),
    b"tab\tquote\"'<b>.png",
]


def test_strange_names_are_read(tmp_path: Path) -> None:
    for name in STRANGE:
        (tmp_path / os.fsdecode(name)).write_bytes(photo(0))
    images = open_images(str(tmp_path), split="all")
    assert {os.fsencode(images.sample_name(i)) for i in range(len(images))} == set(STRANGE)
    assert images.read(range(len(images))).valid.all()


# What the files are.


def test_the_content_says_what_is_an_image_whatever_it_is_called(tmp_path: Path) -> None:
    picture = Image.open(fill(tmp_path, "0.png") / "0.png")
    kinds = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    for kind in kinds:
        (tmp_path / f"{kind}.dat").write_bytes(encoded(picture, kind))
        (tmp_path / f"plain_{kind}").write_bytes(encoded(picture, kind))
    others = {"notes.txt": b"P6 is a format", "BM": b"BM is short for bitmap, and more", "x": b"",
              "raw.nef": encoded(picture, "TIFF"), "video.mp4": b"\0\0\0 ftypisom"}  # fmt: skip
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    images = open_images(str(tmp_path), split="all", side=8)
    assert len(images) == 15
    assert images.read(range(15)).valid.all()
    assert images.files == (
        "15 image files, 14 by their content (7 .dat, 7 no extension); "
        "left out: 2 no extension, 1 .mp4, 1 .nef, 1 .txt"
    )


def test_a_pipe_without_an_extension_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path, "1.png") / "pipe")
    assert open_images(str(tmp_path), split="all").files.endswith("left out: 1 no extension")


def test_every_file_is_used_or_counted_by_what_keeps_it_out(tmp_path: Path) -> None:
    root = fill(tmp_path, "1.png", ".2.png", ".git/3.png", "@eaDir/1.png/thumb.jpg", "sub/4.png")
    (root / "link.png").symlink_to(root / "1.png")
    (root / "sub" / "up").symlink_to(root)
    (root / "read.me").write_text("text")
    images = open_images(str(root), split="all", side=8)
    assert len(images) == 2
    assert images.files == (
        "2 image files; left out: 2 hidden, 1 .me, 1 folder of thumbnails, 1 link back to a "
        "folder, 1 link to a listed file"
    )
    assert open_images(str(fill(tmp_path / "clean", "1.png")), split="all").files == ""


def test_images_beside_the_folders_of_the_splits_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png", "more/5.png")
    for split in ("train", "test", "all"):
        found = open_images(str(tmp_path), split=split, side=8).files  # type: ignore[arg-type]
        assert found == "4 image files; left out: 1 beside the folders of the splits"


# Links.


def links(root: Path, hard: bool, **folders: list[str]) -> Path:
    for folder, names in folders.items():
        for name in names:
            path = root / folder.replace("_", "/") / Path(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / name, path) if hard else path.symlink_to(root / name)
    return root


@pytest.mark.parametrize("hard", [True, False])
def test_splits_that_are_links_into_a_folder_are_not_lost(hard: bool, tmp_path: Path) -> None:
    stored = [f"images/{k}.png" for k in range(6)]
    root = links(fill(tmp_path, *stored), hard, train_a=stored[:2], train_b=stored[2:4],
                 val_a=stored[4:5], val_b=stored[5:])  # fmt: skip
    parts = [open_images(str(root), split=split, side=8) for split in ("train", "test")]
    assert [(len(images), images.class_names, images.part) for images in parts] == [
        (4, ("a", "b"), "train"), (2, ("a", "b"), "val"),
    ]  # fmt: skip


def test_a_split_that_is_a_link_to_another_keeps_its_images(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/a/1.png", "train/b/2.png")
    (root / "val").symlink_to(root / "train")
    assert names(root, "train") == ["train/a/1.png", "train/b/2.png"]
    assert names(root, "test") == ["val/a/1.png", "val/b/2.png"]


@pytest.mark.parametrize("hard", [True, False])
def test_a_file_in_two_classes_counts_in_both_and_once_in_each(hard: bool, tmp_path: Path) -> None:
    root = links(fill(tmp_path, "a/1.png", "b/2.png"), hard, b=["a/1.png"], a_again=["a/1.png"])
    images = open_images(str(root), split="all", side=8)
    assert names(root) == ["a/1.png", "b/1.png", "b/2.png"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    assert images.files.endswith("1 link to a listed file")


def test_links_to_folders_around_them_end_however_many_there_are(tmp_path: Path) -> None:
    root = fill(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    for one in "abc":
        for other in "abc":
            (root / one / f"to-{other}").symlink_to(root / other)
    assert len(list_images(root).sizes) == 3


# Labels in a table.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n1.png,ant\n2.png,bee\nsub/3.png,ant\n"),
        ("labels.csv", "\ufefffilename;Class\n1.png;ant\n2.png;bee\nsub\\3.png;ant\n"),
        ("metadata.jsonl", "".join(f'{{"file_name": "{n}", "label": "{c}", "x": []}}\n' for n, c in
                                   (("1.png", "ant"), ("2.png", "bee"), ("sub/3.png", "ant")))),
    ],
)  # fmt: skip
def test_a_table_beside_the_images_labels_them(name: str, text: str, tmp_path: Path) -> None:
    root = fill(tmp_path, "1.png", "2.png", "sub/3.png", "sub/4.png")
    (root / name).write_text(text, encoding="utf-8")
    images = open_images(str(root), split="all", side=8)
    assert images.class_names == ("ant", "bee")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0, -1]


def test_each_split_may_have_a_table_of_its_own(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (fill(tmp_path, f"{part}/1.png", f"{part}/2.png") / part / "metadata.csv").write_text(
            "file_name,label\n1.png,10\n2.png,9\n"
        )
    images = open_images(str(tmp_path), split="test", side=8)
    assert (images.class_names, images.part) == (("9", "10"), "test")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\nother.png,a\n", r"labels.csv in .* names none of its 2 images"),
        ("file_name,label\n1.png,a\n1.png,b\n", r"gives '1.png' the labels 'a' and 'b'"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    (fill(tmp_path, "1.png", "2.png") / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_images(str(tmp_path), split="all")


def test_a_table_that_is_nested_too_deep_is_an_error(tmp_path: Path) -> None:
    (fill(tmp_path, "1.png", "2.png") / "metadata.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"metadata.jsonl' cannot be read"):
        open_images(str(tmp_path), split="all")


def test_a_table_without_labels_changes_nothing(tmp_path: Path) -> None:
    (fill(tmp_path, "a/1.png", "b/2.png") / "metadata.csv").write_text("file_name,text\nx,y\n")
    assert open_images(str(tmp_path), split="all").class_names == ("a", "b")


def test_missing_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder") as caught:
        open_images(str(tmp_path / "nowhere"), split="all")
    assert caught.value.exit_code == 3


def test_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for .*\.jpg.* and found no files"):
        open_images(str(tmp_path), split="all")


def test_long_path_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no file or folder"):
        open_images("x" * 5000, split="all")


@pytest.fixture
def closed_b(monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse_b(path: Path) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_b)


@pytest.mark.usefixtures("closed_b")
def test_a_folder_that_cannot_be_listed_is_told_and_passed_over(tmp_path: Path) -> None:
    images = open_images(str(fill(tmp_path, "a/1.png", "b/2.png", "c/3.png")), split="all")
    assert images.class_names == ("a", "c")
    assert re.search(r"2 image files; left out: none; cannot list '.*/b': Permission", images.files)


@pytest.mark.usefixtures("closed_b")
def test_where_nothing_else_is_left_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match=r"found no files; cannot list .*/b': Permission denied"):
        open_images(str(fill(tmp_path, "b/2.png")), split="all")


def test_folder_of_others_says_what_was_found(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MP4", "c.txt", "README", ".hidden.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"found 2 \.mp4, 1 \.txt, 1 hidden, 1 no extension"):
        open_images(str(tmp_path), split="all")


def test_folder_of_bad_images_says_why(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no usable image.*all bad, such as '0.jpg' unreadable"):
        open_images(str(tmp_path), split="all")


def test_pixels_are_square_rgb_of_the_side(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (30, 20), (1, 2, 3)), "PNG"))
    (tmp_path / "b.png").write_bytes(encoded(Image.new("L", (3, 9), 7), "PNG"))
    pixels = open_images(str(tmp_path), split="all", side=10).read([1, 0]).pixels
    assert pixels.shape == (2, 3, 10, 10)
    assert pixels[0].unique().tolist() == [7]
    assert [pixels[1, c].unique().tolist() for c in range(3)] == [[1], [2], [3]]


def test_bad_files_keep_their_row(tmp_path: Path) -> None:
    verdicts = make_bad_images(tmp_path)
    for number in range(5):
        (tmp_path / f"good-{number}.png").write_bytes(photo(number))
    images = open_images(str(tmp_path), split="all", side=16)
    assert len(images) == len(verdicts) + 5
    batch = images.read(range(len(images)))
    expected = {name: verdict for name, verdict in verdicts.items() if verdict != "ok"}
    assert {bad.name: bad.reason for bad in batch.bad} == expected
    assert [bad.index for bad in batch.bad] == (~batch.valid).nonzero()[:, 0].tolist()
    assert int(batch.pixels[~batch.valid].sum()) == 0
    assert {images.sample_name(bad.index) for bad in batch.bad} == set(expected)
    half = next(bad for bad in batch.bad if bad.name == "half.bmp")
    assert (half.bytes, half.error.partition(":")[0]) == (2000, "OSError")


def test_a_file_that_vanishes_is_one_bad_row(tmp_path: Path) -> None:
    images = open_images(str(fill(tmp_path, "1.png", "2.png")), split="all")
    (tmp_path / "1.png").unlink()
    batch = images.read([1, 0, 0])
    assert batch.valid.tolist() == [True, False, False]
    assert [(bad.index, bad.reason) for bad in batch.bad] == [(0, "vanished")] * 2


def test_memory_holds_the_same_rows(tmp_path: Path) -> None:
    root = fill(tmp_path, *(f"{'ab'[k % 2]}/{k}.png" for k in range(7)))
    (root / "a/bad.png").write_bytes(b"")
    read = open_images(str(root), split="all", side=9)
    told: list[int] = []
    held = in_memory(read, progress=told.append, chunk=3)
    assert told == [3, 6, 8]
    rows = [7, 4, 4, 0]
    a, b = read.read(rows), held.read(rows)
    assert np.array_equal(a.pixels, b.pixels)
    assert a.bad == b.bad
    assert a.bad != ()
    for field in ("name", "split", "side", "class_names", "fingerprint"):
        assert getattr(read, field) == getattr(held, field)
    assert read.labels is not None
    assert held.labels is not None
    assert read.labels.tolist() == held.labels.tolist()
    assert [read.sample_name(i) for i in range(8)] == [held.sample_name(i) for i in range(8)]


def test_sets_that_do_not_fit_stay_encoded(tmp_path: Path) -> None:
    images = open_images(str(fill(tmp_path, "1.png", "2.png")), split="all", side=10)
    assert in_memory(images, limit_bytes=599) is images
    assert in_memory(images, limit_bytes=600) is not images
    held = in_memory(images)
    assert in_memory(held) is held
