"""Files that run a command where something trusts them: each leaves a canary behind."""

import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch


class Payload:
    """Unpickled, it calls a function that leaves the canary."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.call


def touching(canary: Path) -> Payload:
    return Payload(os.system, f"touch {canary}")


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _tar(canary: Path) -> bytes:
    def save(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in ("pickle", "storages", "tensors", f"../../../../{canary}"):
                content = pickle.dumps(touching(canary))
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    return _saved(save)


def _zip(canary: Path, *names: str) -> bytes:
    def save(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, pickle.dumps(touching(canary)))

    return _saved(save)


def _twice(canary: Path) -> bytes:
    good = _saved(lambda file: torch.save({"w": torch.zeros(2)}, file))
    file = io.BytesIO(good)
    with zipfile.ZipFile(file, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name that is there already
            archive.writestr(name, pickle.dumps(touching(canary)))
    return file.getvalue()


def _extension(canary: Path) -> bytes:
    """An Arrow type that older versions of pyarrow unpickled when they met it."""
    field = pa.field("image", pa.binary(), metadata={
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(touching(canary)),
    })  # fmt: skip
    table = pa.table([pa.array([b"x"])], schema=pa.schema([field]))
    return _saved(lambda file: pq.write_table(table, file))


def _header(canary: Path) -> bytes:
    """Tensors of which the header hides a pickle and names a file elsewhere."""
    header = json.dumps({
        "__metadata__": {"pickle": pickle.dumps(touching(canary), 0).decode()},
        f"../../../..{canary}": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }).encode()  # fmt: skip
    return len(header).to_bytes(8, "little") + header + b"1234"


def _memo(canary: Path) -> bytes:
    """The name of the function comes from the memo, where a search for `os` finds nothing."""
    return (
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c"
        + bytes([len(f"touch {canary}")]) + f"touch {canary}".encode() + b"\x94\x85\x94R."
    )  # fmt: skip


def payloads(canary: Path) -> dict[str, bytes]:
    """All of them, by name."""
    code = f"open({str(canary)!r}, 'w').close()"
    nested = {"w": torch.zeros(2), "storage": [{"deep": touching(canary)}]}
    array = np.array([touching(canary)], dtype=object)
    return {
        "os.system": pickle.dumps(touching(canary), 0),
        "eval": pickle.dumps(Payload(eval, code)),
        "exec": pickle.dumps(Payload(exec, code)),
        "another name of the module": _memo(canary),
        "torch": _saved(lambda file: torch.save(nested, file)),
        "torch before 1.6": _saved(
            lambda file: torch.save(nested, file, _use_new_zipfile_serialization=False)
        ),
        "torch before 0.2": _tar(canary),
        "two entries of one name": _twice(canary),
        "TorchScript": _zip(
            canary, "x/constants.pkl", "x/data.pkl", "x/version", "x/code/__torch__.py"
        ),
        "distributed checkpoint": pickle.dumps({"state_dict_metadata": touching(canary)}),
        "npy": _saved(lambda file: np.save(file, array, allow_pickle=True)),
        "npz": _saved(lambda file: np.savez(file, w=array)),
        "joblib": _saved(lambda file: joblib.dump({"w": touching(canary)}, file)),
        "Arrow extension": _extension(canary),
        "safetensors header": _header(canary),
        "YAML": f"recipe: !!python/object/apply:os.system ['touch {canary}']\n".encode(),
        "YAML, newer tag": (
            f"objective: !!python/object/new:os.system\n  args: ['touch {canary}']\n".encode()
        ),
    }
