"""Embedding many images: killed and made again it gives the same bytes; memory stays as it is."""

import random
from pathlib import Path

import lives
import pyarrow as pa
import pytest
from lives import OPTIONS
from victim import Death, Victim

from empssl.errors import RunInUseError
from empssl.evaluation.embedding_files import Shards
from empssl.runs.files import hold
from empssl.training.train import train

PLACES = (
    Death("empssl.evaluation.embedding_files:Shards.held"),
    Death("empssl.evaluation.encoder:Encoder.embed", 3),
    Death("empssl.evaluation.embedding_files:Shards.add", 1, "after"),
    Death("pathlib:Path.replace", 1),
    Death("empssl.evaluation.embedding_files:sync", 2),
    Death("empssl.data.checks:BadSamples.add", 1),
    Death("empssl.data.checks:BadSamples.add", 1, "after"),
    Death("empssl.evaluation.embedding_files:Shards.join"),
    Death("pathlib:Path.replace", 7),
    Death("pathlib:Path.replace", 7, "after"),
)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    return train(str(images), out=out, **OPTIONS | {"epochs": 0.1})


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert Victim(lives.embedding, run, images, folder / "out.parquet").end().code == 0
    found = results(folder)
    assert set(found) == {"out.parquet", "out.bad_samples.jsonl"}
    return found


def test_killed_30_times_it_gives_the_same_bytes(
    run: Path, images: Path, whole: dict[str, bytes], quick: Path
) -> None:
    first = Victim(lives.embedding, run, images, quick / "counted.parquet", counted=True).end()
    assert first.calls
    draw = random.Random(0)
    for number in range(30):
        folder = quick / str(number)
        folder.mkdir()
        words = (run, images, folder / "out.parquet")
        if number < len(PLACES):
            assert Victim(lives.embedding, *words, death=PLACES[number]).end().code == -9
        else:
            instant, later = (draw.randrange(1, int(0.99 * first.calls)) for _ in range(2))
            assert Victim(lives.embedding, *words, calls=instant).end().code == -9
            Victim(lives.embedding, *words, calls=later).end()  # or it ends before
        end = Victim(lives.embedding, *words).end()
        assert end.code == 0, end.error
        assert results(folder) == whole


def test_what_is_finished_is_not_computed_again(
    run: Path, images: Path, whole: dict[str, bytes], quick: Path
) -> None:
    words = (run, images, quick / "out.parquet")
    embedded = "empssl.evaluation.encoder:Encoder.embed"
    assert Victim(lives.embedding, *words, death=Death(embedded, 5)).end().code == -9
    assert Victim(lives.embedding, *words, death=Death(embedded, 2)).end().code == 0
    assert results(quick) == whole
    assert not (quick / ".out.parquet.shards").exists()


def test_shards_of_another_job_or_damaged_ones_are_made_again(
    run: Path, images: Path, whole: dict[str, bytes], quick: Path
) -> None:
    out = quick / "out.parquet"
    killed = Death("empssl.evaluation.embedding_files:Shards.join")
    assert Victim(lives.embedding, run, images, out, death=killed).end().code == -9
    shards = sorted((quick / ".out.parquet.shards").glob("*.parquet"))
    assert len(shards) == 7
    content = bytearray(shards[1].read_bytes())
    content[len(content) // 3] ^= 1
    shards[1].write_bytes(content)
    shards[2].write_bytes(shards[3].read_bytes()[:-1])
    shards[4].write_bytes(b"")
    assert Victim(lives.embedding, run, images, out).end().code == 0
    assert results(quick) == whole
    out.unlink()
    assert Victim(lives.embedding, run, images, out, death=killed).end().code == -9
    end = Victim(lives.with_small_files, 2**30, embed_words(run, images, out, "backbone")).end()
    assert end.code == 0, end.error
    assert results(quick) != whole


def test_no_flipped_bit_of_a_shard_changes_an_embedding(tmp_path: Path) -> None:
    schema = pa.schema([("embedding", pa.list_(pa.float32(), 64))], {b"made": b"by this job"})
    draw, rows = random.Random(0), range(16)
    values = [[draw.gauss(0, 1) for _ in range(64)] for _ in rows]
    table = pa.table({"embedding": pa.array(values, schema.field(0).type)}, schema)
    shards = Shards(tmp_path / "out.parquet", schema)
    with shards.held():
        shards.add(rows, table, [])
        (file,) = shards.folder.glob("*.parquet")
        whole = file.read_bytes()
        refused = 0
        for _ in range(200):
            content = bytearray(whole)
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
            again = Shards(shards.out, schema)
            if again.notes(rows) is None:
                refused += 1
            else:  # what the bit stood for is not read
                assert next(again._tables()).equals(table)
        assert refused > 100  # most of the file is embeddings


def embed_words(run: Path, images: Path, out: Path, layer: str) -> list[str]:
    return ["embed", str(run), str(images), "--out", str(out), "--layer", layer]


@pytest.mark.parametrize("size", [1_500, 2_500, 5_000, 9_000])
def test_a_disk_that_takes_no_more_ends_it_with_4_and_it_goes_on_when_there_is_room(
    size: int, run: Path, images: Path, whole: dict[str, bytes], quick: Path
) -> None:
    out = quick / "out.parquet"
    limit = min(size, len(whole["out.parquet"]) - 1)
    end = Victim(lives.with_small_files, limit, embed_words(run, images, out, "head")).end()
    assert end.code == 4, end.error
    assert "out" in end.error.splitlines()[-1]
    assert "too large" in end.error.splitlines()[-1]
    assert "Traceback" not in end.error
    assert not out.exists()
    assert Victim(lives.embedding, run, images, out).end().code == 0
    assert results(quick) == whole


def test_ten_times_the_images_take_no_more_memory(run: Path, quick: Path) -> None:
    peaks = []
    for count in (20_000, 200_000):
        peak = quick / f"{count}"
        end = Victim(lives.embed_many, run, count, quick / f"{count}.parquet", peak).end()
        assert end.code == 0, end.error
        peaks.append(int(peak.read_text()) / 1024)
    assert peaks[1] <= peaks[0] + 64  # MiB; all embeddings are 98


def test_a_second_process_is_told(run: Path, images: Path, quick: Path) -> None:
    out = quick / "out.parquet"
    shards = Shards(out, pa.schema([]))
    refused = pytest.raises(RunInUseError, match="in use by process")
    with shards.held(), refused, hold(shards.folder / ".lock", out):
        pass
