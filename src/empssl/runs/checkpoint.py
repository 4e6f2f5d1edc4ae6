"""A checkpoint: a folder written once, of safetensors and JSON, with a checksum for every file.

Nothing here can run code from a file, a damaged file is never loaded, and an interrupted or
failed write leaves the checkpoints before it as they were.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from empssl.errors import CheckpointError
from empssl.runs import files
from empssl.runs.files import discard, make_folder, open_regular, partial_name, sync
from empssl.runs.records import Manifest, StateRecord
from empssl.runs.schema import read_json

SCHEMA = 1
MANIFEST = "manifest.json"
STATE = "state.json"
# The largest networks have some thousands, and an optimizer keeps two or three of each.
MOST_TENSORS = 20_000
_MOST_HEADER = 2**23  # bytes, with names of some 300 letters
# What a file of the right name with the wrong content can lead to.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)


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
    partial = partial_name(folder)
    try:
        make_folder(folder.parent)
        partial.mkdir()
        digests = {}
        for name, content in _files(checkpoint):
            files.write(partial / name, content)
            # Of what was to be written, so that reading it back shows what was lost on the way.
            digests[name] = hashlib.sha256(content).hexdigest()
        manifest = {"format": "empssl-checkpoint", "schema": SCHEMA, "sha256": digests}
        files.write(partial / MANIFEST, _as_json(manifest))
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
        if not (folder / MANIFEST).exists():
            raise CheckpointError(f"{folder} is no complete checkpoint: {MANIFEST} is missing")
        manifest = _manifest(folder)
        if manifest["schema"] > SCHEMA:
            raise CheckpointError(
                f"{folder} was written by a newer empssl (schema {manifest['schema']}, this one "
                f"reads up to {SCHEMA}); update with: pip install -U empssl"
            )
        for name, digest in {STATE: "", **manifest["sha256"]}.items():
            if Path(name).name != name or _digest(folder / name) != digest:
                raise CheckpointError(f"{folder} is damaged: {name} is not what was written")
        state = read_json(folder / STATE, StateRecord)
        tensors = {
            Path(name).stem: _tensors(folder / name) for name in manifest["sha256"]
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
    digest: str = _manifest(folder)["sha256"]["model.safetensors"]
    return digest


def check_architecture(module: nn.Module, tensors: dict[str, Tensor], source: Path | str) -> None:
    """See that tensors have the names and shapes of a module, which may be on `meta`.

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
    _refuse(
        wrong, f"the weights in {source} are of another architecture than its configuration says"
    )


def load_strictly(
    module: nn.Module,
    tensors: dict[str, Tensor],
    source: Path | str,
    *,
    also: tuple[torch.dtype, ...] = (),
) -> None:
    """Load a state dict in which every name, shape and type must match.

    Args:
        module: what is loaded into.
        tensors: by name.
        source: for the message.
        also: types that may be converted to those of the module.

    Raises:
        CheckpointError: names up to ten that do not.
    """
    check_architecture(module, tensors, source)
    own = module.state_dict()
    wrong = [
        f"{key} is {_type(tensors[key])}, expected {_type(own[key])}" for key in own
        if tensors[key].dtype != own[key].dtype
        and not (own[key].is_floating_point() and tensors[key].dtype in also)
    ]  # fmt: skip
    _refuse(wrong, f"the weights in {source} are of another precision than its configuration says")
    module.load_state_dict(tensors)


def _refuse(wrong: list[str], what: str) -> None:
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise CheckpointError(f"{what}: {'; '.join(wrong[:10])}{more}")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a checkpoint's files, one in memory at a time."""
    for name, tensors in checkpoint.tensors.items():
        contiguous = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        yield f"{name}.safetensors", save(contiguous)
    yield STATE, _as_json(checkpoint.state)


def _as_json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def _manifest(folder: Path) -> Any:
    manifest = read_json(folder / MANIFEST, Manifest)
    if manifest["format"] != "empssl-checkpoint":
        raise CheckpointError(f"{folder} is no empssl checkpoint: {manifest['format']!r}")
    return manifest


def _digest(file: Path) -> str:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def check_header(read: Callable[[int], bytes], name: str) -> None:
    """See that tensors are not so many that only to list them takes long.

    Args:
        read: so many bytes of safetensors, from the beginning.
        name: for the message.

    Raises:
        ValueError: they are.
    """
    length = int.from_bytes(read(8), "little")
    if length > _MOST_HEADER:
        raise ValueError(
            f"{name} has a header of {length:,} bytes, at most {_MOST_HEADER:,} are read"
        )
    count = len(json.loads(read(length)))
    if count > MOST_TENSORS:
        raise ValueError(f"{name} has {count:,} tensors, at most {MOST_TENSORS:,} are read")


def _tensors(file: Path) -> dict[str, Tensor]:
    with open_regular(file) as stream:
        check_header(stream.read, file.name)
        try:
            str(file).encode()
        except UnicodeEncodeError:  # a path that safetensors cannot take
            stream.seek(0)
            return load(stream.read())
    return load_file(file)


def _room(folder: Path) -> str:
    try:
        return f", {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free"
    except OSError:
        return ""
