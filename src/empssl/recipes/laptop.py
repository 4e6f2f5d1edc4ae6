"""Two CPU cores and a few minutes."""

from typing import Any

# What an objective takes where it differs from below, found on a part of train (docs/log.md).
FORMS: dict[str, dict[str, Any]] = {}


def recipe() -> dict[str, Any]:
    """A ten-layer network on patches at their native size."""
    return {
        "patches": 8,
        "batch": 40,
        "epochs": 1.0,
        "budget": None,
        "image_side": None,
        "views": {"name": "patches", "colors": "fast"},
        "backbone": {"name": "resnet10", "width": 32},
        "projector": {"name": "official", "hidden": 1024, "dim": 512},
        "whitened": 4096,
        "objective": {"name": "emp"},
        "optimizer": {"name": "muon_lars"},
        "schedule": {"name": "cosine"},
    }
