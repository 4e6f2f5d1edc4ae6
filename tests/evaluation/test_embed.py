import csv
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import make_bad_images, photo

from empssl.data import BadSamples
from empssl.data.base import ImageBatch, ImageSet
from empssl.errors import CheckpointError, UsageError
from empssl.evaluation import embed as embed_module
from empssl.evaluation import encoder as encoder_module
from empssl.evaluation.embed import embed
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import embed_bags
from empssl.runs.checkpoint import identity

NAMES = ["line\nbreak.png", "-leading.png", "quote'\".png", "comma,tab\t.png", "русский.png"]
# Of numbers up to 60 that differ by 1.5 between images: bfloat16 may round a batch of another size
# otherwise on some processors.
ROUNDING = 0.05
NOT_TEXT = b"not \xff\xfe text.png"


def numbers(table: pa.Table) -> np.ndarray:
    return np.array(table["embedding"].drop_null().combine_chunks().flatten()).reshape(
        -1, table["embedding"].type.list_size
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 good images, and bad ones between them."""
    path = tmp_path_factory.mktemp("embedding") / "images"
    verdicts = make_bad_images(path)
    for name, verdict in verdicts.items():
        if verdict == "ok":
            (path / name).unlink()
    bad = sorted(path.iterdir())
    for i, item in enumerate(bad):
        item.rename(path / f"{i * 6:03d}-{item.name}")
    for i in range(200):
        (path / f"{i:03d}.png").write_bytes(photo(i, side=16))
    for i in range(40 - len(bad)):
        (path / f"{i * 9:03d}-text.jpg").write_text("no picture")
    return path


@pytest.fixture(scope="module")
def table(folder: Path, tiny_run: Path) -> pa.Table:
    return pq.read_table(embed(tiny_run, str(folder), out=folder.parent / "all.parquet"))


def test_row_i_is_image_i_with_bad_ones_in_between(
    table: pa.Table, folder: Path, tiny_run: Path
) -> None:
    names = table["name"].to_pylist()
    assert table["index"].to_pylist() == list(range(240))
    assert names == sorted(path.name for path in folder.iterdir())
    good = [i for i, name in enumerate(names) if len(name) == len("000.png")]
    assert len(good) == 200
    assert [i for i, valid in enumerate(table["valid"].to_pylist()) if valid] == good
    expected = Encoder.from_pretrained(tiny_run).encode([folder / names[i] for i in good])
    np.testing.assert_allclose(numbers(table), expected.numpy(), atol=ROUNDING)


def test_bad_images_have_no_embedding(table: pa.Table) -> None:
    rows = table.select(["valid", "embedding"]).to_pylist()
    assert all((row["embedding"] is None) == (not row["valid"]) for row in rows)


def test_bad_images_are_listed_beside_the_output(table: pa.Table, folder: Path) -> None:
    lines = (folder.parent / "all.bad_samples.jsonl").read_text().splitlines()
    assert len(lines) == 40
    reasons = {json.loads(line)["reason"] for line in lines}
    assert {"unreadable", "truncated", "too-large", "not-a-file"} <= reasons


def test_the_file_says_what_made_it(table: pa.Table, folder: Path, tiny_run: Path) -> None:
    protocol = json.loads(table.schema.metadata[b"empssl"])
    assert protocol["model_sha256"] == identity(tiny_run / "model")
    asked = {"layer": "head", "crops": "grid3", "split": "all", "seed": 0, "image_side": 16}
    assert asked.items() <= protocol.items()
    assert protocol["data"] == str(folder)


@pytest.mark.parametrize("size", [7, 1000])
def test_the_size_of_chunks_does_not_matter(
    size: int, table: pa.Table, folder: Path, tiny_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def batches(self: Encoder, count: int) -> Iterator[range]:
        return (range(i, min(i + size, count)) for i in range(0, count, size))

    monkeypatch.setattr(Encoder, "batches", batches)
    again = pq.read_table(embed(tiny_run, str(folder), out=tmp_path / "again.parquet"))
    assert again.drop_columns("embedding") == table.drop_columns("embedding")
    np.testing.assert_allclose(numbers(again), numbers(table), atol=ROUNDING)


def test_a_chunk_without_a_good_image_is_all_null(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(60):
        bad = 8 <= i < 16
        (folder / f"{i:02d}.png").write_bytes(b"no picture" if bad else photo(i, side=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Encoder, "batches",
            lambda self, count: (range(i, min(i + 4, count)) for i in range(0, count, 4)),
        )  # fmt: skip
        found = pq.read_table(embed(tiny_run, str(folder), out=tmp_path / "out.parquet"))
    assert found["embedding"].null_count == 8


def test_labels_are_written_where_there_are_any(tiny_run: Path, tmp_path: Path) -> None:
    out = embed(tiny_run, "digits", out=tmp_path / "d.parquet", split="test", crops="whole",
                layer="backbone")  # fmt: skip
    found = pq.read_table(out)
    assert found.num_rows == 360
    assert found["embedding"].type.list_size == 32
    assert set(found["label"].to_pylist()) == set(range(10))


def test_random_crops_depend_on_the_seed_alone(tiny_run: Path, tmp_path: Path) -> None:
    one, same, other = (
        numbers(pq.read_table(embed(
            tiny_run, "digits", out=tmp_path / f"{i}.parquet", split="test", crops="random2",
            seed=seed,
        ))) for i, seed in enumerate((0, 0, 1))
    )  # fmt: skip
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_an_existing_file_is_refused_and_replaced_when_told(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        embed(tiny_run, "digits", out=out, split="test", crops="whole")
    assert out.read_text() == "precious"
    embed(tiny_run, "digits", out=out, split="test", crops="whole", overwrite=True)
    assert pq.read_table(out).num_rows == 360


def test_a_failure_leaves_the_old_file_and_what_is_finished_of_the_new(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("precious")
    monkeypatch.setattr(embed_module, "_nullable", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(tiny_run, "digits", out=out, split="test", crops="whole", overwrite=True)
    assert out.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"out.parquet", ".out.parquet.shards"}
    monkeypatch.undo()
    embed(tiny_run, "digits", out=out, split="test", crops="whole", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_names_that_are_not_text_survive(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate([*map(os.fsencode, NAMES), NOT_TEXT]):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(photo(i, side=16))
    broken = Path(os.fsdecode(os.fsencode(folder) + b"/broken \xff\n.png"))
    broken.write_text("no picture")
    out = embed(tiny_run, str(folder), out=tmp_path / "out.parquet")
    found = pq.read_table(out)["name"].to_pylist()
    assert {*NAMES, "not \\udcff\\udcfe text.png"} <= set(found)
    (line,) = (tmp_path / "out.bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "broken \udcff\n.png"


def test_memory_does_not_grow_with_the_number_of_images(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Many(ImageSet):
        name, split, side, labels, class_names, fingerprint = "x", "all", 16, None, (), "x"

        def __len__(self) -> int:
            return 5000

        def sample_name(self, index: int) -> str:
            return str(index)

        def read(self, indices: Sequence[int]) -> ImageBatch:
            alive.append(sum(ref() is not None for ref in made))
            pixels = torch.zeros(len(indices), 3, 16, 16, dtype=torch.uint8)
            made.append(weakref.ref(pixels))
            return ImageBatch(pixels, torch.ones(len(indices), dtype=torch.bool))

    def embedded(*arguments: Any) -> dict[str, torch.Tensor]:
        bags = embed_bags(*arguments)
        made.extend(weakref.ref(bag) for bag in bags.values())
        return bags

    monkeypatch.setattr(embed_module, "open_images", lambda *_, **__: Many())
    monkeypatch.setattr(encoder_module, "embed_bags", embedded)
    out = embed(tiny_run, "many", out=tmp_path / "out.parquet", crops="whole")
    assert len(made) == 2 * len(alive) == 20
    assert max(alive) <= 2  # the batch before and its embeddings
    assert pq.ParquetFile(out).metadata.num_row_groups == 10


def test_too_many_bad_images_stop_the_work(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02d}.png").write_bytes(photo(i, side=16) if i % 2 else b"no picture")
    budget = BadSamples(None, total=20).budget
    with pytest.raises(Exception, match=f"at most {budget} may be bad") as stopped:
        embed(tiny_run, str(folder), out=tmp_path / "out.parquet")
    assert stopped.value.exit_code == 3  # type: ignore[attr-defined]
    assert not (tmp_path / "out.parquet").exists()


# Formats


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in two classes, with names that CSV has to quote; the fourth is broken."""
    folder = tmp_path_factory.mktemp("formats") / "classes"
    for number in range(12):
        path = folder / ("cat", "dog")[number % 2] / f'{number:02d},"{number}"\nя.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture" if number == 3 else photo(number, side=16))
    return folder


def in_fives(self: Encoder, count: int) -> Iterator[range]:
    return (range(i, min(i + 5, count)) for i in range(0, count, 5))


@pytest.fixture(scope="module")
def formats(classes: Path, tiny_run: Path) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "batches", in_fives)  # so that there are several shards
        return {
            suffix: embed(tiny_run, str(classes), out=classes.parent / f"out.{suffix}")
            for suffix in ("parquet", "csv", "npy")
        }


def test_a_csv_has_a_row_an_image_and_a_column_a_number(formats: dict[str, Path]) -> None:
    expected = pq.read_table(formats["parquet"])
    with open(formats["csv"], encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    dim = expected["embedding"].type.list_size
    assert head == ["name", "label", *(f"embedding_{i}" for i in range(dim))]
    assert [row[0] for row in rows] == expected["name"].to_pylist()
    assert [int(row[1]) for row in rows] == expected["label"].to_pylist()
    broken = expected["valid"].to_pylist().index(False)
    assert rows[broken][2:] == [""] * dim
    found = np.array([row[2:] for i, row in enumerate(rows) if i != broken], np.float32)
    assert np.array_equal(found, numbers(expected))  # to the last bit


def test_a_npy_is_a_float32_matrix_whose_rows_are_named_beside_it(
    formats: dict[str, Path],
) -> None:
    expected, found = pq.read_table(formats["parquet"]), np.load(formats["npy"])
    valid = expected["valid"].to_numpy()
    assert (found.dtype, len(found)) == (np.float32, 12)
    assert np.array_equal(found[valid], numbers(expected))
    assert np.isnan(found[~valid]).all()
    with open(formats["npy"].with_name("out.names.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == expected["name"].to_pylist()
    assert [int(row["label"]) for row in rows] == expected["label"].to_pylist()
    assert [row["valid"] == "True" for row in rows] == valid.tolist()


def test_formats_leave_nothing_else_behind(formats: dict[str, Path]) -> None:
    names = {path.name for path in formats["csv"].parent.iterdir()}
    assert names == {
        "classes", "out.parquet", "out.csv", "out.npy", "out.names.csv", "out.bad_samples.jsonl"
    }  # fmt: skip


def test_a_csv_goes_on_where_it_was(
    tiny_run: Path, classes: Path, formats: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    embedded: list[int] = []
    original = Encoder.embed

    def failing(self: Encoder, images: Any, samples: Any, *rest: Any) -> Any:
        embedded.append(len(samples))
        if len(embedded) == 3:
            raise KeyboardInterrupt
        return original(self, images, samples, *rest)

    monkeypatch.setattr(Encoder, "batches", in_fives)
    monkeypatch.setattr(Encoder, "embed", failing)
    with pytest.raises(KeyboardInterrupt):
        embed(tiny_run, str(classes), out=tmp_path / "out.csv")
    embed(tiny_run, str(classes), out=tmp_path / "out.csv")
    assert len(embedded) == 4
    assert (tmp_path / "out.csv").read_bytes() == formats["csv"].read_bytes()


@pytest.mark.parametrize(
    ("name", "overwrite", "said"),
    [
        ("folder", False, r"is a folder; give --out the name of a file"),
        ("folder", True, r"is a folder; give --out the name of a file"),
        ("folder.csv", True, r"is a folder; give --out the name of a file"),
        ("out.pt", False, r"out.pt; end its name in .parquet, .csv, .npy"),
        ("out", True, r"end its name in .parquet, .csv, .npy"),
        ("file.csv/out.csv", True, r"file.csv is a file"),
        ("file.csv", False, "exists; replace it with --overwrite"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_anything_is_read(
    name: str, overwrite: bool, said: str, tiny_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.csv").touch()
    monkeypatch.setattr(Encoder, "from_pretrained", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UsageError, match=said):
        embed(tiny_run, "digits", out=tmp_path / name, overwrite=overwrite)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no such folder")
def test_a_folder_that_takes_no_files_is_told_before_anything_is_read(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "from_pretrained", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match="no file can be made in /proc"):
        embed(tiny_run, "digits", out="/proc/out.csv")


def test_what_is_no_file_is_not_replaced(tiny_run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.parquet"
    mine.write_text("years of work")
    (tmp_path / "link.parquet").symlink_to(mine)
    os.mkfifo(tmp_path / "pipe.parquet")
    for name in ("link.parquet", "pipe.parquet"):
        with pytest.raises(UsageError, match="is not replaced"):
            embed(tiny_run, "digits", out=tmp_path / name, overwrite=True)
    assert mine.read_text() == "years of work"
