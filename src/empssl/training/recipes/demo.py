"""Digits in under a minute; `make demo` takes `shapes`."""

from typing import Any


def recipe() -> dict[str, Any]:
    """A small network on 12-pixel patches of 16-pixel digits.

    Digits are not photographs: a mirrored or recolored one is another picture, so the views only
    shift, dim and blur.
    """
    return {
        "patches": 8,
        "batch": 40,
        "epochs": 8.0,
        "budget": None,
        "image_side": 16,
        "views": {
            "name": "patches", "crop": 0.75, "flip": 0.0, "saturation": 0.0, "hue": 0.0,
            "gray": 0.0, "solarize": 0.0,
        },
        "backbone": {"name": "resnet10", "width": 16},
        "projector": {"name": "official", "hidden": 512, "dim": 256},
        "whitened": 0,
        "objective": {"name": "emp"},
        "optimizer": {"name": "lars", "clip": True},
        "schedule": {"name": "cosine"},
    }  # fmt: skip
