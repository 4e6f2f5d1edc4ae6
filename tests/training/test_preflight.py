from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import STEPS_PER_EPOCH, metrics, train_tiny
from torch import nn

from empssl.errors import CheckpointError, OutOfMemoryError, UsageError
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training import preflight
from empssl.training.preflight import check_disk, checkpoint_bytes

MEBIBYTE = 2**20


@pytest.mark.parametrize(("free", "warned"), [(36, True), (99, True), (100, False)])
def test_ten_checkpoints_are_enough_room(
    free: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_disk", lambda path: free * MEBIBYTE)
    warning = check_disk(Path("run"), 10 * MEBIBYTE)
    assert (warning is not None) == warned
    assert warning is None or f"{free}.0 MiB are free at run, less than 10 checkpoints" in warning


def test_less_than_three_and_a_half_are_refused_with_the_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "free_disk", lambda path: 34 * MEBIBYTE)
    with pytest.raises(CheckpointError) as refused:
        check_disk(Path("run"), 10 * MEBIBYTE)
    assert str(refused.value) == (
        "34.0 MiB are free at run, less than 3.5 checkpoints of 10.0 MiB (35.0 MiB); make room, "
        "or choose another --out"
    )


def test_networks_kept_after_epochs_need_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_disk", lambda path: 54 * MEBIBYTE)
    with pytest.raises(CheckpointError, match=r"and 20.0 MiB of networks kept .* \(55.0 MiB\)"):
        check_disk(Path("run"), 10 * MEBIBYTE, kept=20 * MEBIBYTE)
    assert check_disk(Path("run"), 10 * MEBIBYTE, kept=20 * MEBIBYTE, held=70 * MEBIBYTE) is None


def test_room_for_all_that_a_run_ever_holds_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each write, with what is there already; and a finished run needs none for itself."""
    monkeypatch.setattr("empssl.training.trainer.CHECKPOINT_SECONDS", 0.0)
    asked: list[dict[str, int]] = []

    def check(path: Path, size: int, *, kept: int, held: int) -> None:
        asked.append({"size": size, "kept": kept, "held": held})

    most, write = [0], checkpoint.write

    def noted(folder: Path, content: Checkpoint) -> None:
        write(folder, content)
        most.append(Run.held_bytes(tmp_path / "run"))

    monkeypatch.setattr("empssl.training.setup.check_disk", check)
    monkeypatch.setattr(checkpoint, "write", noted)
    options: dict[str, Any] = {"keep_epochs": [k / STEPS_PER_EPOCH for k in (1, 2, 3)]}
    out = train_tiny(tmp_path / "run", steps=5, **options, backbone={"width": 16})
    first = asked[0]
    room = preflight.LEAST_CHECKPOINTS * first["size"] + first["kept"]
    assert first["held"] == 0
    assert 0.8 * room < max(most) < room
    train_tiny(out, resume=True, epochs=None, **options, backbone={"width": 16})
    assert asked[1]["held"] == Run.held_bytes(out)


@pytest.mark.parametrize(("optimizer", "kept"), [("sgd", 1), ("adamw", 2)])
def test_a_checkpoint_is_weights_statistics_and_what_the_optimizer_keeps(
    optimizer: str, kept: int
) -> None:
    norm = nn.BatchNorm1d(100)  # two weights and two statistics a channel, and a count
    assert checkpoint_bytes([norm], {"name": optimizer}) == 4 * 400 + 8 + kept * 800


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "muon", "muon_lars", "sgd"])
def test_the_size_that_is_expected_is_that_of_the_files(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[int] = []

    def check(path: Path, size: int, **_: int) -> None:
        expected.append(size)

    monkeypatch.setattr("empssl.training.setup.check_disk", check)
    out = train_tiny(tmp_path / "run", steps=1, optimizer=optimizer, backbone={"width": 8})
    [folder] = (out / "checkpoints").iterdir()
    found = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert found / 1.2 < expected[0] < found * 1.2


def test_a_run_without_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_disk", lambda path: 1000)
    with pytest.raises(CheckpointError, match="make room"):
        train_tiny(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Memory that is refused

REFUSALS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                        "allocate memory: you tried to allocate 1125899906842624 bytes."),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB, max allowed: 9.07)."),
    "driver": torch.AcceleratorError("CUDA error: out of memory\nMore."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "python": MemoryError(),
}  # fmt: skip


def refuse(error: BaseException, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a step of `train` find no memory."""
    from empssl.training import trainer

    step, count = trainer.training_step, iter(range(1000))

    def refused(*args: object, **options: object) -> object:
        if next(count) == at:
            raise error
        return step(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "training_step", refused)


@pytest.mark.parametrize("kind", sorted(REFUSALS))
def test_refused_memory_names_the_step_and_the_smaller_way(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(REFUSALS[kind], 2, monkeypatch)
    with pytest.raises(OutOfMemoryError, match=r"^step 2: out of memory") as refused:
        train_tiny(tmp_path / "run")
    assert refused.value.exit_code == 7
    assert "2 patches of each of 8 images" in str(refused.value)
    assert str(refused.value).endswith(
        "continue with --resume --memory exact: the same gradients in more time"
    )


def test_memory_refused_to_the_views_names_the_step_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise REFUSALS["cuda"]

    monkeypatch.setattr("empssl.views.Patches.__call__", refused)
    with pytest.raises(OutOfMemoryError, match=r"^step 0: out of memory.*--resume --memory exact"):
        train_tiny(tmp_path / "run")


def test_memory_refused_to_the_compiled_step_names_the_smaller_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise REFUSALS["driver"]

    monkeypatch.setattr(torch, "compile", refused)
    with pytest.raises(OutOfMemoryError, match="start again with --memory exact") as told:
        train_tiny(tmp_path / "run", compile="default")
    assert str(told.value).startswith("trying the compiled step: out of memory (CUDA error")
    assert not (tmp_path / "run").exists()


def test_where_nothing_smaller_is_left_a_smaller_batch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(REFUSALS["cuda"], 0, monkeypatch)
    with pytest.raises(OutOfMemoryError, match="start anew with --batch 4"):
        train_tiny(tmp_path / "run", memory="exact")


def test_other_errors_of_a_step_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(RuntimeError("something else"), 0, monkeypatch)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        train_tiny(tmp_path / "run")


def test_the_smaller_way_continues_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from empssl.training import trainer

    whole = train_tiny(tmp_path / "whole", precision="64-true")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
        refuse(REFUSALS["cpu"], 2, patch)
        with pytest.raises(OutOfMemoryError):
            train_tiny(tmp_path / "run", precision="64-true")
    out = train_tiny(tmp_path / "run", epochs=None, resume=True, memory="exact",
                     precision="64-true")  # fmt: skip
    assert Run(out).environment["memory"] == "exact"
    losses = [[entry["loss"] for entry in metrics(run)] for run in (whole, out)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)


def test_another_method_does_not_continue_a_run(tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="memory would change"):
        train_tiny(tiny_run, epochs=None, resume=True, memory="two-pass")
