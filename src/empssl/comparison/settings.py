"""The settings that decide a run's numbers, flat, so that two runs can be told apart."""

import json
from collections.abc import Sequence
from typing import Any

# What a run records besides: its seed, what it kept, and where and how it was computed.
_ASIDE = {
    "seed", "keep_epochs", "data_dir", "download", "device", "devices", "num_nodes", "compile",
    "shard", "max_pixels",
}  # fmt: skip

# Options that came later, and what every run did before. Where they say the same they are left out,
# so that older runs keep their names and are still of one kind with new ones.
_LATER = {
    "range": [],
    "objective.scale": 1.0, "optimizer.nesterov": True, "optimizer.decay_vectors": False,
}  # fmt: skip

Flat = dict[str, Any]


def decisive(config: dict[str, Any]) -> Flat:
    """The settings that runs of one kind share, by their full names.

    >>> decisive({"batch": 40, "objective": {"name": "emp", "distortion": 0.2}, "seed": 3})
    {'batch': 40, 'objective.name': 'emp', 'objective.distortion': 0.2}
    >>> decisive({"optimizer": {"name": "lars", "nesterov": True}})
    {'optimizer.name': 'lars'}
    """
    flat: Flat = {}
    for key, value in json.loads(json.dumps(config)).items():  # tuples as YAML gives them back
        if key in _ASIDE:
            continue
        parts = value.items() if isinstance(value, dict) else None
        flat |= {key: value} if parts is None else {f"{key}.{name}": v for name, v in parts}
    return {name: v for name, v in flat.items() if name not in _LATER or v != _LATER[name]}


def differing(settings: Sequence[Flat]) -> list[str]:
    """The names of the settings in which these are not all alike.

    >>> differing([{"batch": 40, "patches": 2}, {"batch": 40, "patches": 8}])
    ['patches']
    """
    names = dict.fromkeys(name for flat in settings for name in flat)
    return [name for name in names if any(s.get(name) != settings[0].get(name) for s in settings)]
