"""A checkpoint: a folder written once, of safetensors and JSON, with a checksum for every file.

Nothing here can run code from a file, a damaged file is never loaded, and an interrupted or
failed write leaves the checkpoints before it as they were.
"""

import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from empssl import storage
from empssl.errors import CheckpointError
from empssl.storage import PARTIAL, discard, make_folder, sync

SCHEMA = 1
MANIFEST = "manifest.json"
STATE = "state.json"
# What a file of the right name with the wrong content can lead to.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        tensors: by file (`model`, `optimizer`), then by name.
        state: everything else, as JSON holds it.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to a folder that does not exist yet: whole, or not at all.

    Raises:
        CheckpointError: the storage refused; says how much room was needed and how much there is.
    """
    partial = folder.with_name(f".{folder.name}{PARTIAL}{os.getpid()}")
    try:
        make_folder(folder.parent)
        partial.mkdir()
        digests = {}
        for name, content in _files(checkpoint):
            storage.write(partial / name, content)
            # Of what was to be written, so that reading it back shows what was lost on the way.
            digests[name] = hashlib.sha256(content).hexdigest()
        manifest = {"format": "empssl-checkpoint", "schema": SCHEMA, "sha256": digests}
        storage.write(partial / MANIFEST, _as_json(manifest))
        sync(partial)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        needed = sum(t.nbytes for group in checkpoint.tensors.values() for t in group.values())
        discard(partial)
        raise CheckpointError(
            f"the checkpoint {folder} could not be written ({error}); it needs "
            f"{needed / 2**20:.0f} MiB{_room(folder.parent)}. Earlier checkpoints are untouched."
        ) from error


def read(folder: Path, *, files: tuple[str, ...] | None = None) -> Checkpoint:
    """Read a checkpoint after every one of its files has been checked.

    Args:
        folder: as `write` made it.
        files: which groups of tensors to load; None loads all.

    Raises:
        CheckpointError: it is missing, damaged, foreign or of a newer version.
    """
    try:
        manifest = _json(folder / MANIFEST)
        if manifest["format"] != "empssl-checkpoint":
            raise CheckpointError(f"{folder} is no empssl checkpoint: {manifest['format']!r}")
        if manifest["schema"] < 1:
            raise ValueError(f"schema {manifest['schema']}")
        if manifest["schema"] > SCHEMA:
            raise CheckpointError(
                f"{folder} was written by a newer empssl (schema {manifest['schema']}, this one "
                f"reads up to {SCHEMA}); update with: pip install -U empssl"
            )
        for name, digest in {STATE: "", **manifest["sha256"]}.items():
            if Path(name).name != name or _digest(folder / name) != digest:
                raise CheckpointError(f"{folder} is damaged: {name} is not what was written")
        state = _json(folder / STATE)
        if not isinstance(state, dict):
            raise CheckpointError(f"{folder} is no empssl checkpoint: {STATE} holds no settings")
        tensors = {
            Path(name).stem: load_file(folder / name) for name in manifest["sha256"]
            if name.endswith(".safetensors") and (files is None or Path(name).stem in files)
        }  # fmt: skip
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is no complete checkpoint: {Path(error.filename).name} is missing"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{folder} is damaged or no checkpoint ({error!r})") from error
    return Checkpoint(tensors, state)


def identity(folder: Path) -> str:
    """The SHA-256 of a checkpoint's weights, as its manifest has it.

    Raises:
        CheckpointError: the manifest is missing or damaged.
    """
    try:
        digest: str = _json(folder / MANIFEST)["sha256"]["model.safetensors"]
    except _UNREADABLE as error:
        raise CheckpointError(f"{folder} is damaged or no checkpoint ({error!r})") from error
    return digest


def load_strictly(module: Any, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Load a state dict in which every name and shape must match.

    Raises:
        CheckpointError: names up to ten that do not.
    """
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in tensors]
    wrong += [f"unknown {key}" for key in tensors if key not in own]
    wrong += [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own if key in tensors and tensors[key].shape != own[key].shape
    ]  # fmt: skip
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise CheckpointError(
            f"the weights in {source} are of another architecture than its configuration says: "
            f"{'; '.join(wrong[:10])}{more}"
        )
    module.load_state_dict(tensors)


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a checkpoint's files, one in memory at a time."""
    for name, tensors in checkpoint.tensors.items():
        contiguous = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        yield f"{name}.safetensors", save(contiguous)
    yield STATE, _as_json(checkpoint.state)


def _as_json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def _json(file: Path) -> Any:
    with _open(file) as stream:
        return json.load(stream)


def _digest(file: Path) -> str:
    with _open(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _open(file: Path) -> io.BufferedReader:
    if not stat.S_ISREG(os.stat(file).st_mode):  # asked first: opening a pipe would wait for ever
        raise OSError(f"{file.name} is not a file")
    return open(file, "rb")


def _room(folder: Path) -> str:
    try:
        return f", {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free"
    except OSError:
        return ""
