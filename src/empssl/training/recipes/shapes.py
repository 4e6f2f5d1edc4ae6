"""Synthetic shapes in under a minute: `make demo`."""

from typing import Any


def recipe() -> dict[str, Any]:
    """A small network on 24-pixel patches of 32-pixel images, scaled to 16 pixels.

    A patch holds two or three whole shapes, so that all patches of an image have in common which
    shape it is, and hardly anything else.
    """
    return {
        "patches": 8,
        "batch": 20,
        "epochs": 6.0,
        "budget": None,
        "image_side": 32,
        "views": {
            "name": "patches", "crop": 0.75, "side": 16, "hue": 0.2, "blur": 0.0, "solarize": 0.0,
            "colors": "fast",
        },
        "backbone": {"name": "resnet10", "width": 16},
        "projector": {"name": "official", "hidden": 256, "dim": 128},
        "whitened": 0,
        "objective": {"name": "emp"},
        "optimizer": {"name": "muon_lars"},
        "schedule": {"name": "cosine"},
    }  # fmt: skip
