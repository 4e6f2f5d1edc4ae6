import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import photo
from PIL import Image

from empssl.data import open_images
from empssl.data.parquet import open_parquet, parquet_splits
from empssl.data.splits import held_out
from empssl.errors import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenette160"

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def cell(number: int) -> dict[str, Any]:
    return {"bytes": photo(number, side=12), "path": f"{number}.png"}


def write(
    path: Path,
    cells: list[dict[str, Any] | None],
    *,
    labels: list[int | None] | None = None,
    class_names: list[str] | None = None,
    image: str = "image",
    kind: pa.DataType = IMAGE,
) -> Path:
    columns: dict[str, pa.Array] = {image: pa.array(cells, kind)}
    features: dict[str, object] = {image: {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    if class_names is not None:
        features["label"] = {"_type": "ClassLabel", "names": class_names}
    table = pa.table(columns)
    if class_names is not None or image != "image":
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, path)
    return path


def test_files_in_folders_of_splits_are_not_mixed(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        cells: list[dict[str, Any] | None] = [cell(k) for k in range(count)]
        write(
            tmp_path / "default" / split / "0000.parquet",
            cells,
            labels=[k % 2 for k in range(count)],
        )
    train, test = (open_images(str(tmp_path), split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2)
    assert test.sample_name(1) == "default/test/0000.parquet[1]"


def test_a_name_outweighs_the_folder_that_it_is_in(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(0)]
    for name in ("train-0.parquet", "test-0.parquet"):
        write(tmp_path / "train-and-test" / name, cells, labels=[0])
    assert parquet_splits(tmp_path) == {
        split: [tmp_path / "train-and-test" / f"{split}-0.parquet"] for split in ("train", "test")
    }


@pytest.mark.parametrize("name", ["e.parquet", ".e.parquet.shards/0.parquet"])
def test_embeddings_beside_images_do_not_hide_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(photo(1, side=12))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"embedding": [[0.0, 1.0]]}), tmp_path / name)
    images = open_images(str(tmp_path), split="all", side=12)
    assert [images.sample_name(k) for k in range(len(images))] == ["1.png"]


def test_rows_come_in_order_with_their_labels(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(k) for k in range(5)]
    file = write(tmp_path / "x.parquet", cells, labels=[2, 0, 1, None, 2], class_names=list("abc"))
    images = open_images(str(file), split="all", side=12)
    assert images.labels is not None
    assert images.labels.tolist() == [2, 0, 1, -1, 2]
    assert images.class_names == ("a", "b", "c")
    assert images.sample_name(3) == "x.parquet[3]"
    for k in range(5):
        plain = np.asarray(Image.open(io.BytesIO(photo(k, side=12)))).transpose(2, 0, 1)
        assert np.array_equal(images.read([k]).pixels[0], plain)


def test_image_column_is_found_by_declaration_or_by_type(tmp_path: Path) -> None:
    declared = write(tmp_path / "a.parquet", [cell(0)], image="picture")
    typed = write(tmp_path / "b.parquet", [cell(0)])
    assert len(open_images(str(declared), split="all")) == 1
    assert len(open_images(str(typed), split="all")) == 1


def test_missing_image_column_names_those_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "number": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no image column.*text \(string\), number \(int64\)"):
        open_images(str(tmp_path / "x.parquet"), split="all")


@pytest.mark.parametrize(
    "column",
    [["x"] * 8, list(range(8)), [0.5] * 8, [[1]] * 8, [{"path": "x"}] * 8, [{"bytes": "x"}] * 8],
)
def test_what_is_declared_an_image_and_is_none_is_refused(
    column: list[Any], tmp_path: Path
) -> None:
    features = {"info": {"features": {"x": {"_type": "Image"}}}}
    table = pa.table({"x": column}).replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "odd.parquet")
    with pytest.raises(DataError, match=r"'x' of .* is declared an image and holds .*, expected"):
        open_images(str(tmp_path / "odd.parquet"), split="all")


def test_images_that_are_stored_once_are_read(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(
        pa.array([1, 0, 1], pa.int32()), pa.array([photo(0), photo(1)], pa.binary())
    )
    images = pa.StructArray.from_arrays([column, pa.nulls(3, pa.string())], ["bytes", "path"])
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    opened = open_images(str(tmp_path / "a.parquet"), split="all")
    pixels = opened.read([0, 1, 2]).pixels
    assert opened.read([0, 1, 2]).valid.all()
    assert (pixels[0] == pixels[2]).all()
    assert (pixels[0] != pixels[1]).any()


def test_two_image_columns_are_not_guessed(tmp_path: Path) -> None:
    table = pa.table({name: pa.array([cell(0)], IMAGE) for name in ("before", "after")})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="several image columns"):
        open_images(str(tmp_path / "x.parquet"), split="all")


def test_rows_without_bytes_are_bad_rows(tmp_path: Path) -> None:
    cells = [cell(0), None, {"bytes": None, "path": "there.jpg"}, {"bytes": b"no", "path": None}]
    batch = open_images(str(write(tmp_path / "x.parquet", cells)), split="all").read(range(4))
    assert batch.valid.tolist() == [True, False, False, False]
    assert [(bad.index, bad.reason) for bad in batch.bad] == [
        *[(1, "not-embedded"), (2, "not-embedded"), (3, "unreadable")]
    ]
    assert "there.jpg" in batch.bad[1].error


def test_label_outside_the_classes_names_the_row(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", [cell(0), cell(1)], labels=[0, 7], class_names=["a", "b"])
    with pytest.raises(DataError, match=r"label 7 in x\.parquet\[1\] is not one of the 2 classes"):
        open_images(str(file), split="all")


def test_folder_of_files_has_the_splits_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", [cell(0), cell(1)], labels=[0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", [cell(2)], labels=[1])
    write(tmp_path / "data/validation-00000-of-00001.parquet", [cell(3)], labels=[0])
    sets = [open_images(str(tmp_path), split=s, side=12) for s in ("train", "test", "all")]
    assert [len(s) for s in sets] == [3, 1, 4]
    assert np.array_equal(sets[2].read([3]).pixels, sets[1].read([0]).pixels)
    assert len({s.fingerprint for s in sets}) == 3


def test_labelled_file_is_divided_and_whole(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(k % 3) for k in range(60)]
    file = write(tmp_path / "x.parquet", cells, labels=[k % 2 for k in range(60)])
    train, test = (open_images(str(file), split=s, side=12) for s in ("train", "test"))
    names = [{s.sample_name(i) for i in range(len(s))} for s in (train, test)]
    assert len(names[0] | names[1]) == len(train) + len(test) == 60
    assert 3 <= len(test) <= 21  # 12 expected
    rows = [int(train.sample_name(i)[10:-1]) for i in range(len(train))]
    assert train.labels is not None
    assert train.labels.tolist() == [row % 2 for row in rows]
    whole = open_images(str(file), split="all", side=12)
    assert np.array_equal(train.read(range(len(train))).pixels, whole.read(rows).pixels)


def sides(path: Path) -> dict[bytes, str]:
    """The split of every picture."""
    found = {}
    for split in ("train", "test"):
        images = open_images(str(path), split=split, side=12)  # type: ignore[arg-type]
        for image in images.read(range(len(images))).pixels:
            found[image.numpy().tobytes()] = split
    return found


def test_a_picture_stays_on_its_side_in_another_file_row_or_folder(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(k) for k in range(60)]
    labels = [k % 2 for k in range(60)]
    plain = sides(write(tmp_path / "photos.parquet", cells, labels=labels))
    assert 3 <= list(plain.values()).count("test") <= 21
    assert sides(write(tmp_path / "v2.parquet", cells, labels=labels)) == plain
    back = [{"bytes": c["bytes"], "path": None} for c in reversed(cells) if c]
    assert sides(write(tmp_path / "back.parquet", [*back], labels=labels[::-1])) == plain
    for k in range(3):
        write(tmp_path / "sharded" / f"{k}.parquet", cells[k::3], labels=labels[k::3])
    assert sides(tmp_path / "sharded") == plain


def test_the_split_of_versions_before_can_be_had(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(k) for k in range(60)]
    file = write(tmp_path / "x.parquet", cells, labels=[k % 2 for k in range(60)])
    images = open_images(str(file), split="test", side=12, division="by_name")
    found = [images.sample_name(i) for i in range(len(images))]
    assert found == [name for name in (f"x.parquet[{k}]" for k in range(60)) if held_out(name)]


def test_a_class_that_only_test_would_have_goes_to_train(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(k) for k in range(40)]
    file = write(tmp_path / "x.parquet", cells, labels=[k // 2 for k in range(40)])
    train, test = (open_images(str(file), split=split) for split in ("train", "test"))
    assert train.labels is not None
    assert test.labels is not None
    assert set(train.labels.tolist()) == set(range(20)) > set(test.labels.tolist())
    assert len(train) + len(test) == 40


def test_everything_is_used_unless_the_files_say_which_are_for_testing(tmp_path: Path) -> None:
    cells: list[dict[str, Any] | None] = [cell(k) for k in range(20)]
    labels = [k % 2 for k in range(20)]
    assert (
        len(open_images(str(write(tmp_path / "x.parquet", cells, labels=labels)), split="auto"))
        == 20
    )
    for name in ("images_train", "images_dev"):
        write(tmp_path / "given" / f"{name}-00000-of-00001.parquet", cells, labels=labels)
    parts = [open_images(str(tmp_path / "given"), split=split) for split in ("auto", "test")]
    assert [(len(images), images.part) for images in parts] == [
        (20, "images_train-00000-of-00001.parquet"), (20, "images_dev-00000-of-00001.parquet"),
    ]  # fmt: skip


def test_file_without_labels_is_not_divided(tmp_path: Path) -> None:
    file = str(write(tmp_path / "x.parquet", [cell(0), cell(1)]))
    assert len(open_images(file, split="train")) == 2
    with pytest.raises(DataError, match="no test split"):
        open_images(file, split="test")


def test_fingerprint_changes_with_a_pixel(tmp_path: Path) -> None:
    one, other = (write(tmp_path / f"{k}.parquet", [cell(k)]) for k in (1, 2))
    copy = Path(shutil.copy(one, tmp_path / "copy.parquet"))
    prints = [open_images(str(f), split="all").fingerprint for f in (one, copy, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_damaged_file_is_a_data_error(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path / "x.parquet", [cell(0)])
    file.write_bytes(b"not parquet" if damage == "text" else file.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_images(str(file), split="all")


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [cell(0)], labels=[0])
    write(tmp_path / "b.parquet", [cell(0)])
    with pytest.raises(DataError, match="columns of the files before it"):
        open_images(str(tmp_path), split="all")


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", [cell(0)])
    with pytest.raises(DataError, match="read into memory"):
        open_parquet(file, split="all", limit_bytes=100)


KINDS = [
    (pa.string(), ["bee", "ant", None, "bee"], ("ant", "bee"), [1, 0, -1, 1]),
    (pa.large_string(), ["bee", "ant", None, "bee"], ("ant", "bee"), [1, 0, -1, 1]),
    (pa.string(), ["10", "9", None, "10"], ("9", "10"), [1, 0, -1, 1]),
    (pa.bool_(), [True, False, None, True], ("False", "True"), [1, 0, -1, 1]),
    (pa.float64(), [3.0, 0.0, None, 3.0], (), [3, 0, -1, 3]),
    (pa.uint8(), [3, 0, None, 3], (), [3, 0, -1, 3]),
]


def labelled(path: Path, labels: Any, first: int = 0) -> Path:
    images = pa.array([cell(first + k) for k in range(len(labels))], IMAGE)
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


@pytest.mark.parametrize("as_dictionary", [True, False])
@pytest.mark.parametrize(("kind", "values", "names", "numbers"), KINDS)
def test_labels_of_every_type_are_classes(
    kind: pa.DataType, values: list[Any], names: tuple[str, ...], numbers: list[int],
    as_dictionary: bool, tmp_path: Path,
) -> None:  # fmt: skip
    column = pa.array(values, kind)
    file = labelled(tmp_path / "x.parquet", column.dictionary_encode() if as_dictionary else column)
    images = open_images(str(file), split="all", side=12)
    assert images.class_names == names
    assert images.labels is not None
    assert images.labels.tolist() == numbers


def test_text_means_the_same_class_in_every_part(tmp_path: Path) -> None:
    labelled(tmp_path / "train.parquet", pa.array(["b", "c", "b"]))
    labelled(tmp_path / "test.parquet", pa.array(["c", "a"]), first=9)
    parts = [open_images(str(tmp_path), split=split, side=12) for split in ("train", "test")]
    assert {images.class_names for images in parts} == {("a", "b", "c")}
    assert [images.labels.tolist() for images in parts if images.labels is not None] == [
        [1, 2, 1], [2, 0],
    ]  # fmt: skip


def test_measured_values_are_no_classes(tmp_path: Path) -> None:
    file = labelled(tmp_path / "x.parquet", pa.array([0.5, 1.0]))
    assert open_images(str(file), split="all").labels is None


def test_a_test_part_may_be_without_labels(tmp_path: Path) -> None:
    labelled(tmp_path / "train.parquet", pa.array([0, 1, 1]))
    write(tmp_path / "test.parquet", [cell(7), cell(8)])
    parts = [open_images(str(tmp_path), split=split, side=12) for split in ("train", "test", "all")]
    assert [images.labels.tolist() for images in parts if images.labels is not None] == [
        [0, 1, 1], [-1, -1], [0, 1, 1, -1, -1],
    ]  # fmt: skip


def test_a_file_without_rows_is_a_data_error(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [], labels=[])
    for split in ("train", "test", "all", "auto"):
        with pytest.raises(DataError, match=r"x.parquet' has no rows"):
            open_images(str(tmp_path / "x.parquet"), split=split)  # type: ignore[arg-type]


def test_files_of_neither_split_are_counted(tmp_path: Path) -> None:
    for name in ("train", "test", "valley"):
        write(tmp_path / f"{name}.parquet", [cell(0), cell(1)], labels=[0, 1])
    images = open_images(str(tmp_path), split="train", side=12)
    assert images.files == "2 parquet files; left out: 1 of neither train nor test"


def test_imagenette_is_read() -> None:
    if not REAL.is_dir():
        pytest.skip(f"REAL PARQUET NOT CHECKED: no {REAL}")
    images = open_images(str(REAL), split="test", side=160)
    assert (len(images), len(images.class_names)) == (500, 10)
    assert images.class_names[0] == "tench"
    assert images.labels is not None
    assert images.labels.bincount().tolist() == [50] * 10
    row = pq.read_table(REAL / "val.parquet")["image"][499].as_py()
    plain = np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(images.read([499]).pixels[0], plain)
    assert images.read(range(0, 500, 10)).valid.all()
