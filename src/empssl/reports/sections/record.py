"""The record of a run: its settings and where they led, under keys that a person can read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What the keys of config.yaml, plan.json, environment.json and of protocols stand for, where their
# own words do not say it.
READABLE = {
    "data": "images",
    "patches": "patches of each image",
    "batch": "images in a step",
    "epochs": "passes over the images asked for",
    "budget": "time asked for",
    "image_side": "image side, pixels",
    "whitened": "features of whitened patches",
    "split": "part of the images",
    "seed": "random seed",
    "keep_epochs": "passes after which it was kept",
    "range": "values that become black and white",
    "max_pixels": "pixels that an image has at most",
    "data_dir": "folder of the data set",
    "download": "downloaded if missing",
    "num_nodes": "machines",
    "threads": "threads of a process",
    "devices": "processes on a machine",
    "compile": "compilation",
    "compiled": "compilation used",
    "patience": "longest wait for a process",
    "steps": "steps",
    "steps_per_epoch": "steps of a pass over the images",
    "samples": "images found",
    "usable_samples": "images that can be used",
    "near_constant": "images of nearly one color",
    "found": "found",
    "of": "among",
    "patch_side": "patch side, pixels of the image",
    "view_side": "patch side as the network sees it",
    "gflop_per_patch": "GFLOP of a patch, with its gradient",
    "fingerprint": "fingerprint of the images",
    "division": "division into train and test",
    "trained_with_labels": "labels were used in training",
    "startup_seconds": "seconds before the first step",
    "replanned": "times that steps were planned again",
    "cpu_capability": "vector instructions",
    "launch": "launched by torchrun",
    "crop": "crop, share of the side",
    "flip": "mirrored, probability",
    "jitter": "color jitter, probability",
    "gray": "gray, probability",
    "blur": "blur, probability",
    "sigma": "blur, standard deviation",
    "solarize": "solarized, probability",
    "invariance_weight": "invariance weight",
    "distortion": "distortion (eps squared)",
    "lr": "learning rate",
    "eta": "trust coefficient (eta)",
    "dim": "dimensions",
    "hidden": "hidden dimensions",
    "saw_test": "trained on test images",
    "trained_on": "trained on",
    "pflop": "PFLOP in all",
    "patches_seen": "patches seen in all",
    "patches_per_second": "patches per second, median",
}


@dataclass(frozen=True)
class Entry:
    """A value under its name.

    Attributes:
        name: in words.
        key: as files have it.
    """

    name: str
    key: str
    value: str


@dataclass(frozen=True)
class Entries:
    """Entries under a heading."""

    title: str
    rows: Sequence[Entry]


def entries(
    title: str, content: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> list[Entries]:
    """A heading for what is plain, and one for each part that has parts of its own.

    Args:
        title: of what is plain.
        content: by key.
        names: of keys, in words; others are shown as they are, `names` or not.
    """
    names = names or {}
    plain = {key: value for key, value in content.items() if not isinstance(value, dict)}
    parts = {key: value for key, value in content.items() if isinstance(value, dict)}
    found = [Entries(title, _rows(plain, names))]
    return [entry for entry in found if entry.rows] + [
        Entries(names.get(key, key), _rows(part, names)) for key, part in parts.items()
    ]


def _rows(content: Mapping[str, Any], names: Mapping[str, str]) -> list[Entry]:
    spaced = bool(names)  # keys without words of their own, too
    return [
        Entry(names.get(key, key.replace("_", " ") if spaced else key), key, _written(value))
        for key, value in content.items()
    ]


def _written(value: Any) -> str:
    """A value as a person reads it.

    >>> [_written(value) for value in ("a", None, True, [0.1, 2.0], 0.1 + 0.2, [], 64000000)]
    ['a', 'none', 'yes', '0.1, 2.0', '0.3', 'none', '64,000,000']
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == []:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}" if value != int(value) else str(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(map(_written, value))
    return json.dumps(value)
