import hashlib
import importlib.util
import io
import os
import pickle
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from bad_images import encoded
from PIL import Image
from test_parquet import write

from empssl.data import cifar, download, open_images
from empssl.errors import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"

Files = dict[str, bytes]


def pickled(content: object) -> bytes:
    """As the authors' files were written: protocol 2, numpy's old module names."""
    return pickle.dumps(content, protocol=2).replace(b"numpy._core.", b"numpy.core.")


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def batch(seed: int, key: str, num: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (num, 3072), dtype=np.uint8)
    return {"data": data, key: rng.integers(0, 3, num).tolist(), "filenames": ["x.png"] * num}


def small(name: str) -> Files:
    kind = cifar.CIFARS[name]
    batches = {file: batch(k, kind.labels) for k, file in enumerate(kind.train | kind.test)}
    meta = {file: {kind.class_names: ["ape", "bat", "cow"]} for file in kind.meta}
    return {file: pickled(content) for file, content in (batches | meta).items()}


def with_sums(kind: cifar.Cifar, files: Files) -> cifar.Cifar:
    def sums(names: dict[str, str]) -> dict[str, str]:
        return {name: md5(files[name]) if name in files else names[name] for name in names}

    return replace(kind, train=sums(kind.train), test=sums(kind.test), meta=sums(kind.meta))


def install(monkeypatch: pytest.MonkeyPatch, root: Path, name: str, files: Files) -> None:
    """Put the files in place, and make their sums the expected ones."""
    kind = with_sums(cifar.CIFARS[name], files)
    monkeypatch.setitem(cifar.CIFARS, name, kind)
    (root / kind.folder).mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (root / kind.folder / file).write_bytes(data)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_files_round_trip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, name, small(name))
    kind = cifar.CIFARS[name]
    expected = [batch(k, kind.labels) for k in range(len(kind.train))]
    images = open_images(name, split="train", data_dir=tmp_path)
    pixels = np.concatenate([b["data"] for b in expected]).reshape(-1, 3, 32, 32)
    assert np.array_equal(images.read(range(len(images))).pixels, pixels)
    assert images.labels is not None
    assert images.labels.tolist() == [y for b in expected for y in b[kind.labels]]
    assert images.class_names == ("ape", "bat", "cow")
    assert images.sample_name(2) == "train/00002"


def test_all_is_train_then_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "cifar10", small("cifar10"))
    sets = [open_images("cifar10", split=s, data_dir=tmp_path) for s in ("train", "test", "all")]
    assert [len(s) for s in sets] == [20, 4, 24]
    assert np.array_equal(sets[2].read(range(20, 24)).pixels, sets[1].read(range(4)).pixels)
    assert len({s.fingerprint for s in sets}) == 3


def test_data_dir_may_be_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "cifar10", small("cifar10"))
    inside = open_images("cifar10", split="test", data_dir=tmp_path / "cifar-10-batches-py")
    assert len(inside) == 4


def test_other_sides_are_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "cifar10", small("cifar10"))
    images = open_images("cifar10", split="test", data_dir=tmp_path, side=16)
    whole = open_images("cifar10", split="test", data_dir=tmp_path).read([1]).pixels.double()
    assert images.read([1]).pixels.shape == (1, 3, 16, 16)
    assert abs(images.read([1]).pixels.double().mean() - whole.mean()) < 2


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data_batch_1, .*batches\.meta there or in"):
        open_images("cifar10", split="train", data_dir=tmp_path)


def test_cifar100_without_its_train_file_has_a_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "cifar100", small("cifar100"))
    (tmp_path / "cifar-100-python" / "train").unlink()
    assert len(open_images("cifar100", split="test", data_dir=tmp_path)) == 4
    with pytest.raises(DataError, match="no train there"):
        open_images("cifar100", split="train", data_dir=tmp_path)


def test_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "cifar10", small("cifar10"))
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError, match="test_batch' is damaged or another file"):
        open_images("cifar10", split="test", data_dir=tmp_path)


class Canary:
    """Pickles as a call."""

    def __init__(self, call: Any, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("payload", ["system", "eval", "nested"])
def test_planted_pickle_does_not_run(
    payload: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    if payload == "eval":
        call = Canary(eval, f"open({str(canary)!r}, 'w')")
    else:
        call = Canary(os.system, f"touch {canary}")
    content = {"data": np.array([call], dtype=object)} if payload == "nested" else call
    files = small("cifar10") | {"test_batch": pickle.dumps(content, protocol=protocol)}
    install(monkeypatch, tmp_path, "cifar10", files)  # even where the sum is right
    with pytest.raises(DataError, match="wants to call"):
        open_images("cifar10", split="test", data_dir=tmp_path)
    assert not canary.exists()


class Response(requests.Response):
    """An answer with these bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.status_code, self.raw = 200, io.BytesIO(data)
        self.headers["Content-Length"] = str(len(data))


def archive(files: Files, folder: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in {f"{folder}/{n}": d for n, d in files.items()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def serve(
    monkeypatch: pytest.MonkeyPatch, packed: bytes, files: Files, archive_md5: str | None = None
) -> list[str]:
    """Answer with the archive; expect the sums of these files and of the archive, or another."""
    asked: list[str] = []

    def get(url: str, **options: Any) -> Response:
        asked.append(url)
        return Response(packed)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(download, "RETRIES", 0)
    kind = with_sums(cifar.CIFARS["cifar10"], files)
    kind = replace(kind, archive_md5=archive_md5 or md5(packed))
    monkeypatch.setitem(cifar.CIFARS, "cifar10", kind)
    return asked


def test_download_is_checked_unpacked_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = small("cifar10")
    packed = archive(files | {"../../evil": b"no", "readme.html": b"no"}, "cifar-10-batches-py")
    asked = serve(monkeypatch, packed, files)
    told: list[tuple[int, int]] = []
    for _ in range(2):
        images = open_images(
            "cifar10", split="test", data_dir=tmp_path / "new", download=True,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
        assert len(images) == 4
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert told[-1] == (len(packed), len(packed))
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert written == sorted(f"new/cifar-10-batches-py/{name}" for name in files)


def test_nothing_is_fetched_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, b"", small("cifar10"))
    with pytest.raises(DataError):
        open_images("cifar10", split="test", data_dir=tmp_path)
    assert asked == []


def test_other_archive_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small("cifar10")
    serve(monkeypatch, archive(files, "cifar-10-batches-py"), files, archive_md5="0" * 32)
    with pytest.raises(DataError, match="not the authors' archive"):
        open_images("cifar10", split="test", data_dir=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = small("cifar10")
    serve(monkeypatch, archive(files, "cifar-10-batches-py"), files)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot unpack .* to '.*file"):
        open_images("cifar10", split="test", data_dir=tmp_path / "file", download=True)


def without_network(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[str]:
    """The connection breaks off so many times; then the answer is what `serve` gives."""
    asked, answer = list[str](), requests.get

    def get(url: str, **options: Any) -> requests.Response:
        asked.append(url)
        if len(asked) <= times:
            raise requests.ConnectionError("no route")
        return answer(url, **options)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return asked


def test_no_network_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = without_network(monkeypatch, times=100)
    with pytest.raises(DataError, match=r"cannot fetch https://.*no route"):
        open_images("cifar10", split="test", data_dir=tmp_path, download=True)
    assert len(asked) == 1 + download.RETRIES
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_off_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = small("cifar10")
    serve(monkeypatch, archive(files, "cifar-10-batches-py"), files)
    monkeypatch.setattr(download, "RETRIES", 3)
    asked = without_network(monkeypatch, times=2)
    assert len(open_images("cifar10", split="test", data_dir=tmp_path, download=True)) == 4
    assert len(asked) == 3


def test_a_download_is_shown_while_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = small("cifar10")
    serve(monkeypatch, archive(files, "cifar-10-batches-py"), files)
    open_images("cifar10", split="test", data_dir=tmp_path, download=True)
    assert capsys.readouterr().err.startswith("fetching cifar-10-python.tar.gz: ")


@pytest.fixture(scope="module")
def unpack() -> ModuleType:
    if not (REAL / "unpack.py").is_file():
        pytest.skip(f"REAL CIFAR NOT CHECKED: no {REAL / 'unpack.py'}")
    spec = importlib.util.spec_from_file_location("unpack", REAL / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_authors_own_files_are_read(name: str, tmp_path: Path, unpack: ModuleType) -> None:
    kind = cifar.CIFARS[name]
    wanted = {f"{kind.folder}/{file}" for file in kind.test | kind.meta}
    monkey = pytest.MonkeyPatch()
    images_of = unpack.images
    nothing = np.empty((0, 32, 32, 3), np.uint8)
    monkey.setattr(unpack, "images", lambda n, s: images_of(n, s) if s == "test" else nothing)
    for path, data in {"cifar10": unpack.cifar10, "cifar100": unpack.cifar100}[name]():
        if path in wanted:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(data)
    monkey.undo()
    images = open_images(name, split="test", data_dir=tmp_path)
    label = "label" if name == "cifar10" else "fine"
    assert images.labels is not None
    assert images.labels.tolist() == [int(row[label]) for row in unpack.index(name, "test")]
    first_sheet = unpack.sheet(REAL / name / "test_00.webp").transpose(0, 3, 1, 2)
    assert np.array_equal(images.read(range(1000)).pixels, first_sheet)
    assert len(images.class_names) == {"cifar10": 10, "cifar100": 100}[name]
    assert len(images) == 10_000


def test_cifar100s_first_training_images_are_read_from_parquet(
    tmp_path: Path, unpack: ModuleType
) -> None:
    """Ten sheets are not the authors' file, which `cifar100` wants; a Parquet file may hold any."""
    sheets = [unpack.sheet(REAL / "cifar100" / f"train_{k:02d}.webp") for k in range(10)]
    pixels = np.concatenate(sheets)
    rows = list(unpack.index("cifar100", "train"))[: len(pixels)]
    cells = [{"bytes": encoded(Image.fromarray(p), "BMP"), "path": None} for p in pixels]
    fine = [int(row["fine"]) for row in rows]
    images = open_images(str(write(tmp_path / "train.parquet", cells, labels=fine)), split="all",
                         side=32)  # fmt: skip
    assert len(images) == 10_000
    assert images.labels is not None
    assert images.labels.tolist() == fine
    some = range(0, 10_000, 40)
    assert np.array_equal(images.read(some).pixels, pixels[some].transpose(0, 3, 1, 2))
