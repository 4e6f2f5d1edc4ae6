import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import same
from torch import nn

from empssl.errors import CheckpointError
from empssl.runs import checkpoint, files
from empssl.runs.checkpoint import Checkpoint, load_strictly, read, write
from empssl.runs.files import sweep
from empssl.runs.run import Run


def example(number: int = 0) -> Checkpoint:
    generator = torch.Generator().manual_seed(number)
    tensors = {
        "weight": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "exact": torch.randn(2, generator=generator, dtype=torch.float64),
        "num_batches_tracked": torch.tensor(2**53 + number),
        "filters": torch.randn(2, 3, 2, 2, generator=generator).to(
            memory_format=torch.channels_last
        ),
        "none": torch.empty(0, 4),
    }
    return Checkpoint({"model": tensors, "optimizer": {"0.1.m": -tensors["weight"]}},
                      {"step": number, "third": 1 / 3})  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "step-000000001"
    write(path, example())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"recipe": "demo", "objective": {}})


def resealed(folder: Path) -> Path:
    """With the checksums that its files now have, as an attacker would write them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {
        path.name: checkpoint._digest(path) for path in folder.iterdir()
        if path.name != "manifest.json"
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# Round trips


def test_every_number_and_type_comes_back(folder: Path) -> None:
    assert same(read(folder), example())


def test_only_the_groups_asked_for_are_loaded(folder: Path) -> None:
    assert read(folder, files=("model",)).tensors.keys() == {"model"}


def test_a_checkpoint_is_written_once(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be written"):
        write(folder, example(1))
    assert same(read(folder), example())


# Damage


def test_no_flipped_byte_is_ever_loaded(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for at in torch.randperm(len(whole), generator=generator)[:100].tolist():
            flip = 1 << int(torch.randint(8, (), generator=generator))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                assert same(read(folder), example()), f"byte {at} of {path.name}"
            except CheckpointError:
                continue
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_file_cut_at_any_length_is_refused(name: str, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 30)), len(whole) - 1]:
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f"{folder.name}.*damaged"):
            read(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no complete checkpoint: {name} is missing"):
        read(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_without_waiting(
    make: Callable[[Path], None], name: str, folder: Path
) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(CheckpointError, match="damaged"):
        read(folder)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "7", '"text"', "[" * 100_000, "\\udcff", "{}",
        '{"format": "empssl-checkpoint", "schema": "1", "sha256": {}}',
        '{"format": "empssl-checkpoint", "schema": 1, "sha256": []}',
        '{"format": "empssl-checkpoint", "schema": 1, "sha256": {}}',
        '{"format": "another", "schema": 1, "sha256": {}}',
    ],
)  # fmt: skip
def test_a_manifest_of_another_kind_is_refused(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=folder.name):
        read(folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "..", ".", "", "a/b", "a\0b", "sub/../state.json"]
)
def test_a_manifest_cannot_name_files_elsewhere(name: str, folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = checkpoint._digest(secret)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="damaged"):
        read(folder)


def test_a_newer_schema_says_what_to_do(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(CheckpointError, match=r"newer empssl \(schema 2.*pip install -U"):
        read(folder)


# Files that want to run code


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def plain_pickle(payload: Payload, path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": payload}))


def zipped_pickle(payload: Payload, path: Path) -> None:
    torch.save({"weight": payload}, path)


def old_pickle(payload: Payload, path: Path) -> None:
    torch.save({"weight": payload}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [plain_pickle, zipped_pickle, old_pickle])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_pickle_never_runs(
    save: Callable[[Payload, Path], None], name: str, folder: Path, tmp_path: Path
) -> None:
    save(Payload(tmp_path / "canary"), folder / name)
    with pytest.raises(CheckpointError, match="damaged"):
        read(resealed(folder))
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_tell(tmp_path: Path) -> None:
    plain_pickle(Payload(tmp_path / "canary"), tmp_path / "bait")
    pickle.loads((tmp_path / "bait").read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("header", [b"", b"{", b"{}" * 9, b'{"a": {"dtype": "F32"}}',
    b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}'])  # fmt: skip
@pytest.mark.parametrize("claimed", [None, 0, 2**40, 2**64 - 1])
def test_malformed_tensors_are_refused(header: bytes, claimed: int | None, folder: Path) -> None:
    size = len(header) if claimed is None else claimed
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header + b"1234")
    with pytest.raises(CheckpointError, match="damaged"):
        read(resealed(folder))


# Weights of another network


def test_weights_of_another_network_are_listed_up_to_ten() -> None:
    network, other = (
        nn.Sequential(*(nn.Linear(width, width) for _ in range(8))) for width in (2, 3)
    )
    with pytest.raises(CheckpointError, match="another architecture") as refused:
        load_strictly(network, other.state_dict(), "file")
    assert str(refused.value).count("expected") == 10
    assert "0.weight is (3, 3), expected (2, 2)" in str(refused.value)
    assert "and 6 more" in str(refused.value)


def test_missing_and_unknown_weights_are_told_apart() -> None:
    tensors = nn.Linear(2, 2).state_dict()
    tensors["scale"] = tensors.pop("bias")
    with pytest.raises(CheckpointError, match="missing bias; unknown scale"):
        load_strictly(nn.Linear(2, 2), tensors, "file")


def test_a_refused_state_leaves_the_network_as_it_was() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.clone()
    with pytest.raises(CheckpointError):
        load_strictly(network, {"weight": torch.ones(2, 2)}, "file")
    assert torch.equal(network.weight, before)


# Storage that fails


def test_a_full_disk_is_told_with_the_room_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(CheckpointError, match=r"No space left.*needs \d+ MiB, \d+ MiB are free"):
        write(tmp_path / "step-1", example())


def test_an_interrupted_write_is_swept_when_the_run_is_taken_up_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint(1, example(1))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(2, example(2))
    folder = run.path / "checkpoints"
    assert len(list(folder.iterdir())) == 2
    with run.lock():
        assert [path.name for path in folder.iterdir()] == ["step-000000001"]
    assert same(run.load_checkpoint()[0], example(1))


def test_sweeping_leaves_whole_checkpoints_alone(folder: Path) -> None:
    sweep(folder.parent)
    assert same(read(folder), example())


# Which checkpoints a run keeps


def test_the_newest_two_are_kept(run: Run) -> None:
    for step in (1, 2, 3, 4):
        run.save_checkpoint(step, example(step))
    names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert names == ["step-000000003", "step-000000004"]


def test_nothing_is_removed_before_the_new_one_has_been_read_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save_checkpoint(1, example(1))
    run.save_checkpoint(2, example(2))

    def rot(folder: Path, content: Checkpoint) -> None:
        write(folder, content)
        (folder / "model.safetensors").write_bytes(b"rot")

    monkeypatch.setattr(checkpoint, "write", rot)
    with pytest.raises(CheckpointError, match="damaged"):
        run.save_checkpoint(3, example(3))
    assert (run.path / "checkpoints" / "step-000000001").exists()
    assert same(run.load_checkpoint()[0], example(2))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: Run) -> None:
    run.save_checkpoint(1, example(1))
    run.save_checkpoint(2, example(2))
    damaged = run.path / "checkpoints" / "step-000000002" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found, folder, problems = run.load_checkpoint()
    assert same(found, example(1))
    assert folder.name == "step-000000001"
    assert len(problems) == 1
    assert "step-000000002 is damaged: model.safetensors" in problems[0]


def test_a_damaged_checkpoint_is_written_anew_when_its_step_comes_again(run: Run) -> None:
    run.save_checkpoint(2, example(2))
    (run.path / "checkpoints" / "step-000000002" / "state.json").unlink()
    run.save_checkpoint(2, example(2))
    assert same(run.load_checkpoint()[0], example(2))


def test_without_a_whole_checkpoint_there_is_nothing_to_continue(run: Run) -> None:
    run.save_checkpoint(1, example(1))
    (run.path / "checkpoints" / "step-000000001" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint to continue from; .*manifest\.json"):
        run.load_checkpoint()


def test_reading_a_run_leaves_a_write_in_progress_alone(run: Run) -> None:
    run.save_checkpoint(1, example(1))
    partial = run.path / "checkpoints" / ".step-000000002.partial-1"
    partial.mkdir()
    run.load_model()
    assert partial.exists()


def test_weights_of_another_type_are_refused_and_of_one_that_is_allowed_converted() -> None:
    module = nn.Linear(2, 2)
    weights = {name: t.double() for name, t in module.state_dict().items()}
    with pytest.raises(CheckpointError, match="weight is float64, expected float32"):
        load_strictly(module, weights, "here")
    load_strictly(module, weights, "here", also=(torch.float64,))
    with pytest.raises(CheckpointError, match="weight is int8, expected float32"):
        load_strictly(module, weights | {"weight": torch.zeros(2, 2, dtype=torch.int8)}, "here",
                      also=(torch.float64,))  # fmt: skip


def test_a_schema_that_is_no_number_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for schema in (float("nan"), True, "1", 0, None):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": schema}))
        with pytest.raises(CheckpointError, match="schema is"):
            read(folder)
