"""Files of others are data: whatever they hold, nothing in them runs."""

import ast
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from bad_images import photo
from lives import OPTIONS, train_command
from payloads import payloads

import empssl
from empssl.cli import main
from empssl.data import BadSamples
from empssl.data.cifar import CIFARS
from empssl.data.parquet_batches import bounded_batches
from empssl.errors import CheckpointError, DataError
from empssl.evaluation import encoder as encoder_module
from empssl.runs import checkpoint
from empssl.training.train import train

NAMES = list(payloads(Path("canary")))


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    return train(str(images), out=out, **OPTIONS | {"epochs": 0.1})


# Doors: where a file of another may come in. Each puts it there and gives the command that meets it


def model(content: bytes, run: Path, images: Path) -> list[str]:
    reseal(run / "model", "model.safetensors", content)
    return ["embed", str(run), str(images), "--out", str(run / "out.parquet")]


def optimizer(content: bytes, run: Path, images: Path) -> list[str]:
    shutil.rmtree(run / "model")
    reseal(next((run / "checkpoints").iterdir()), "optimizer.safetensors", content)
    return ["train", str(images), "--out", str(run), "--resume"]


def state(content: bytes, run: Path, images: Path) -> list[str]:
    reseal(run / "model", "state.json", content)
    return ["evaluate", str(run), str(images)]


def manifest(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "model" / "manifest.json").write_bytes(content)
    return ["evaluate", str(run), str(images)]


def configuration(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "config.yaml").write_bytes(content)
    return ["train", str(images), "--out", str(run), "--resume"]


def options(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "options.yaml").write_bytes(content)
    return [*train_command(images, run / "new"), "--config", str(run / "options.yaml")]


def evaluations(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "evaluations").mkdir()
    (run / "evaluations" / "knn.json").write_bytes(content)
    return ["compare", str(run)]


def whole_run(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "checkpoint.pt").write_bytes(content)
    return ["evaluate", str(run / "checkpoint.pt"), str(images)]


def image(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "images").mkdir()
    (run / "images" / "0.png").write_bytes(content)
    return train_command(run / "images", run / "new")


def parquet(content: bytes, run: Path, images: Path) -> list[str]:
    (run / "images.parquet").write_bytes(content)
    return train_command(run / "images.parquet", run / "new")


def cifar(content: bytes, run: Path, images: Path) -> list[str]:
    for name in CIFARS["cifar10"].train | CIFARS["cifar10"].test | CIFARS["cifar10"].meta:
        (run / name).write_bytes(content)
    return [*train_command(Path("cifar10"), run / "new"), "--data-dir", str(run)]


DOORS = (
    model, optimizer, state, manifest, configuration, options, evaluations, whole_run, image,
    parquet, cifar,
)  # fmt: skip


def reseal(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its checksum with it, as an attacker would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_no_payload_runs_at_this_door(
    door: Callable[[bytes, Path, Path], list[str]], trained: Path, images: Path, quick: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    canary = quick / "canary"
    refused = 0
    for name, content in payloads(canary).items():
        run = quick / "run"
        shutil.copytree(trained, run)
        code = main(door(content, run, images))
        error = capsys.readouterr().err
        assert not canary.exists(), name
        assert code in (2, 3, 4), (name, code, error)
        assert "Traceback" not in error
        assert error.strip().splitlines()[-1].startswith("empssl"), (name, error)
        refused += 1
        shutil.rmtree(run)
    assert refused == len(NAMES) >= 14


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("os.system", lambda path: pickle.loads(path.read_bytes())),
        ("eval", lambda path: pickle.loads(path.read_bytes())),
        ("exec", lambda path: pickle.loads(path.read_bytes())),
        ("another name of the module", lambda path: pickle.loads(path.read_bytes())),
        ("distributed checkpoint", lambda path: pickle.loads(path.read_bytes())),
        ("torch", lambda path: torch.load(path, weights_only=False)),
        ("torch before 1.6", lambda path: torch.load(path, weights_only=False)),
        ("npy", lambda path: np.load(path, allow_pickle=True)),
        ("npz", lambda path: np.load(path, allow_pickle=True)["w"]),
        ("YAML", lambda path: yaml.unsafe_load(path.read_text())),
        ("YAML, newer tag", lambda path: yaml.unsafe_load(path.read_text())),
    ],
)
def test_a_reader_that_trusts_them_would_leave_the_canary(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(payloads(tmp_path / "canary")[name])
    with suppress(AttributeError, TypeError):  # one has run before it fails
        read(tmp_path / "file")
    assert (tmp_path / "canary").exists()


# Links, pipes and second names: a run is a folder of files, whoever made it

FILES = (".lock", "config.yaml", "plan.json", "environment.json", "metrics.jsonl",
         "bad_samples.jsonl", "trained_images.safetensors", "report.html")  # fmt: skip
FOLDERS = ("checkpoints", "model", "epochs", "evaluations", "quality")


# Those that write to a run directory, and those that read most of it.
VERBS: dict[str, Callable[[Path, Path], list[str]]] = {
    "resume": lambda run, images: ["train", str(images), "--out", str(run), "--resume"],
    "overwrite": lambda run, images: [*train_command(images, run), "--overwrite"],
    "report": lambda run, images: ["report", str(run), "--images", "8"],
    "examine": lambda run, images: ["examine", str(run), "--images", "8", "--no-random"],
}


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["link", "hard link"])
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_leads_to_one_of_the_users(
    name: str, make: Callable[..., None], trained: Path, images: Path, quick: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for verb in ("resume", "overwrite", "report"):
        run = quick / f"run-{verb}"
        shutil.copytree(trained, run)
        mine = quick / f"thesis-{verb}.tex"
        mine.write_text('{"step": 0}\nyears of work')
        (run / name).unlink(missing_ok=True)
        make(mine, run / name)
        assert main(VERBS[verb](run, images)) in (0, 2, 4)
        assert "Traceback" not in capsys.readouterr().err
        assert mine.read_text() == '{"step": 0}\nyears of work', verb


@pytest.mark.parametrize("name", FOLDERS)
def test_no_folder_of_a_run_leads_to_one_of_the_users(
    name: str, trained: Path, images: Path, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("resume", "report", "examine"):
        run, mine = quick / f"run-{verb}", quick / f"mine-{verb}"
        shutil.copytree(trained, run)
        mine.mkdir()
        for inner in ("step-000000001", ".x.partial-1", "1"):
            (mine / inner).mkdir()
        (mine / "x.json").write_text("{}")
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(mine)
        assert main(VERBS[verb](run, images)) in (0, 4)
        assert "Traceback" not in capsys.readouterr().err
        assert sorted(p.name for p in mine.iterdir()) == [
            ".x.partial-1", "1", "step-000000001", "x.json",
        ]  # fmt: skip


@pytest.mark.parametrize("name", [*FILES, "model/state.json", "model/model.safetensors"])
def test_no_pipe_in_a_run_is_waited_for(
    name: str, trained: Path, images: Path, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 0
    for verb in ("resume", "report"):
        run = quick / f"run-{verb}"
        shutil.copytree(trained, run)
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
        code = main(VERBS[verb](run, images))  # or it hangs
        assert code in (0, 4)
        assert "Traceback" not in capsys.readouterr().err
        refused += code != 0
    assert refused or name in ("report.html", "trained_images.safetensors") or "/" in name


@pytest.mark.parametrize("name", ["train.parquet", "0.png"])
def test_no_pipe_among_the_data_is_waited_for(
    name: str, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (quick / "data").mkdir()
    os.mkfifo(quick / "data" / name)
    assert main(train_command(quick / "data", quick / "run")) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_no_pipe_in_place_of_a_table_of_labels_is_waited_for(
    name: str, images: Path, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, quick / "data")
    os.mkfifo(quick / "data" / name)
    assert main(train_command(quick / "data", quick / "run")) == 3
    assert f"{name}' cannot be read" in capsys.readouterr().err


def test_no_lock_of_a_comparison_leads_to_a_file_of_the_users(
    trained: Path, images: Path, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = quick / "thesis.tex"
    mine.write_text("years of work")
    for name in ("lock", "failed", "map"):
        (quick / "out" / "cells").mkdir(parents=True, exist_ok=True)
        (quick / "out" / "cells" / f"{trained.name}.{name}").symlink_to(mine)
    words = ["compare", str(trained), "--data", str(images), "--out", str(quick / "out")]
    assert main(words) in (3, 4, 10)
    assert mine.read_text() == "years of work"
    assert "Traceback" not in capsys.readouterr().err


def test_a_ledger_that_is_not_understood_is_left_as_it_is(trained: Path, images: Path) -> None:
    ledger = trained / "bad_samples.jsonl"
    before = ledger.read_bytes() if ledger.exists() else None
    try:
        ledger.write_bytes(b"my notes, without an end")
        assert BadSamples(ledger, total=10).count == 0
        ledger.write_bytes(b'my notes\n{"torn')
        with pytest.raises(CheckpointError, match="line 1 is damaged"):
            BadSamples(ledger, total=10)
        assert ledger.read_bytes() == b'my notes\n{"torn'
    finally:
        ledger.unlink() if before is None else ledger.write_bytes(before)


# Work out of proportion


def parquet_bomb(path: Path, rows: int = 600) -> None:
    """A photo with a megabyte of zeros behind it, stored once and told to be in every row."""
    value = photo(0) + bytes(2**20)
    images = pa.StructArray.from_arrays(
        [pa.array([value] * rows), pa.nulls(rows, pa.string())], ["bytes", "path"]
    )
    pq.write_table(pa.table({"image": images}), path, compression="zstd")


def test_a_small_parquet_file_is_not_decoded_to_gigabytes(
    quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet_bomb(quick / "bomb.parquet")
    assert (quick / "bomb.parquet").stat().st_size < 10_000
    assert main(train_command(quick / "bomb.parquet", quick / "run")) == 3
    assert "holds more than 256 MiB" in capsys.readouterr().err
    rows = []
    with pytest.raises(DataError):
        rows += map(len, bounded_batches(quick / "bomb.parquet", ["image"]))
    assert max(rows) * 2**20 <= 2**26
    assert sum(rows) * 2**20 <= 2**28


def test_rows_that_take_no_room_in_a_file_are_counted(quick: Path) -> None:
    rows = 3_000_000
    images = pa.StructArray.from_arrays(
        [pa.nulls(rows, pa.binary()), pa.nulls(rows, pa.string())], ["bytes", "path"]
    )
    pq.write_table(pa.table({"image": images}), quick / "nulls.parquet")
    with pytest.raises(DataError, match="holds more than"):
        list(bounded_batches(quick / "nulls.parquet", ["image"]))


def test_repeated_values_within_the_limit_are_read(quick: Path) -> None:
    parquet_bomb(quick / "small.parquet", rows=20)
    batches = list(bounded_batches(quick / "small.parquet", ["image"]))
    assert sum(map(len, batches)) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"name": "resnet10", "width": 4000}},
        {"backbone": {"name": "resnet10", "width": 10**12}},
        {"projector": {"name": "official", "hidden": 10**6, "dim": 10**6}},
        {"whitened": 8 * 10**9},
        {"views": {"name": "patches", "side": 10**6}},
    ],
)  # fmt: skip
def test_a_network_that_a_checkpoint_does_not_hold_is_not_made(
    change: dict[str, object], trained: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick / "run"
    shutil.copytree(trained, run)
    found = json.loads((run / "model" / "state.json").read_text())
    found["network"] |= change
    reseal(run / "model", "state.json", json.dumps(found).encode())
    built: list[torch.device] = []
    build = encoder_module.build_network

    def noted(*arguments: object) -> object:
        built.append(torch.empty(0).device)
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder_module, "build_network", noted)
    with pytest.raises(CheckpointError):
        encoder_module.Encoder.from_pretrained(run)
    assert set(built) <= {torch.device("meta")}


def test_the_side_of_images_is_bounded(
    trained: Path, images: Path, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = quick / "run"
    shutil.copytree(trained, run)
    found = json.loads((run / "model" / "state.json").read_text()) | {"image_side": 20_000}
    reseal(run / "model", "state.json", json.dumps(found).encode())
    assert main(["embed", str(run), str(images), "--out", str(quick / "out.parquet")]) == 4
    assert "image_side is 20000, expected a whole number from 1 to 4,096" in capsys.readouterr().err


def test_tensors_are_counted_before_they_are_made(
    trained: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quick / "run"
    shutil.copytree(trained, run)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{k}": empty for k in range(checkpoint.MOST_TENSORS + 1)}).encode()
    reseal(run / "model", "model.safetensors", len(header).to_bytes(8, "little") + header)
    monkeypatch.setattr(checkpoint, "load_file", None)
    with pytest.raises(CheckpointError, match="20,001 tensors, at most 20,000 are read"):
        encoder_module.Encoder.from_pretrained(run)
    reseal(run / "model", "model.safetensors", (2**40).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match="header of"):
        encoder_module.Encoder.from_pretrained(run)


# Calls that could run what they read

UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "torch.jit.load", "dill.load",
    "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "compile", "os.system", "os.popen",
    "tarfile.TarFile.extractall", "zipfile.ZipFile.extractall", "runpy.run_path",
    "importlib.util.spec_from_file_location", "torch.hub.load", "ctypes.cdll.LoadLibrary",
}  # fmt: skip
UNSAFE_METHODS = {"extractall", "extract"}
UNSAFE_OPTIONS = {("allow_pickle", True), ("shell", True), ("trust_remote_code", True),
                  ("weights_only", False)}  # fmt: skip


def unsafe_calls(source: str) -> list[str]:
    """The names of unsafe functions that a module calls, inherits from or imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.ClassDef):
            found += [ast.unparse(base) for base in node.bases]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            method = name.rpartition(".")[2]
            found.append(name)
            for option in node.keywords:
                value = getattr(option.value, "value", None)
                loose = option.arg == "strict" and value is False and "state_dict" in method
                if (option.arg, value) in UNSAFE_OPTIONS or loose:
                    found.append(f"{option.arg}={value}")
    options = {f"{name}={value}" for name, value in UNSAFE_OPTIONS} | {"strict=False"}
    return [
        name for name in found
        if name in UNSAFE | options or name.rpartition(".")[2] in UNSAFE_METHODS
        or name.startswith("torch.distributed.checkpoint")
    ]  # fmt: skip


def test_no_source_file_calls_what_could_run_its_input() -> None:
    package = Path(empssl.__file__).parent
    sources = sorted(package.rglob("*.py"))
    found = {path.name: calls for path in sources if (calls := unsafe_calls(path.read_text()))}
    assert len(sources) > 100
    # CIFAR's own files are pickles: compared with the authors' sums, and read by an allow-list.
    # Tiny ImageNet's archive is compared with its sum, and `zipfile` leads nothing out of a folder.
    assert found == {"cifar.py": ["pickle.Unpickler"], "tiny_imagenet.py": ["members.extractall"]}


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(file)", "from pickle import loads", "torch.load(path)", "yaml.load(text)",
        "eval(text)", "tar.extractall(folder)", "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)", "net.load_state_dict(state, strict=False)",
        "class Reader(pickle.Unpickler): pass", "os.system(text)",
        "import torch.distributed.checkpoint\ntorch.distributed.checkpoint.load(state)",
    ],
)  # fmt: skip
def test_an_unsafe_call_would_be_found(source: str) -> None:
    assert unsafe_calls(source) != []
