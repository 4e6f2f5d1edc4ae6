"""Files of others are data: whatever they hold, nothing in them runs."""

import ast
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lives import OPTIONS, train_command
from payloads import payloads

import empssl
from empssl.cli import main
from empssl.data.cifar import CIFARS
from empssl.training import train

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
