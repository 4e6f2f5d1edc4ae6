"""Two CPU cores and a few minutes."""

from typing import Any

# What an objective takes where it differs from below, found on a part of train (docs/log.md).
FORMS: dict[str, dict[str, Any]] = {
    "byol": {"objective": {"momentum": 0.9}, "optimizer": {"eta": 0.02}},
    "frossl": {"objective": {"invariance_weight": 0.3}},
    "simclr": {"objective": {"temperature": 0.1}},
    "spectral_contrastive": {"objective": {"squared_radius": 10.0}},
    "ssl_ey": {"optimizer": {"lr": 0.003}},
    "supcon": {"objective": {"temperature": 0.3}},
    "swav": {"objective": {"prototypes": 300, "epsilon": 0.03}},
    "tcr": {"objective": {"invariance_weight": 200.0, "pooled": False}},
    "vicreg": {"objective": {"invariance_weight": 10.0}},
    "wmse": {"projector": {"dim": 32}, "objective": {"shrinkage": 1e-6}},
}


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
        "whitened": {"name": "mirrored", "num_features": 6144},
        "objective": {"name": "emp"},
        "optimizer": {"name": "muon_lars"},
        "schedule": {"name": "cosine"},
    }
