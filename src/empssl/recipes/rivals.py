"""The rivals on CIFAR-10 as solo-learn (da Costa et al., 2022; `scripts/pretrain/cifar`) runs them.

ResNet-18 on two views of the whole image, 1,000 epochs, batches of 256. The linear accuracies
are solo-learn's, of the last epoch on the test set; none is measured with this code yet: each
run needs a GPU for hours. Their projectors are stacks of Linear, BatchNorm and ReLU as ours;
where solo-learn's differ, the recipe says so.
"""

from typing import Any

Settings = dict[str, Any]

SYMMETRIC = {
    "name": "crops", "scale": [0.08, 1.0], "brightness": 0.8, "contrast": 0.8, "saturation": 0.8,
    "hue": 0.2, "blur": 0.5, "solarize": 0.0,
}  # fmt: skip
MILD = SYMMETRIC | {
    "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "blur": 0.0,
    "solarize": 0.1,
}  # fmt: skip
NO_SMALL_CROPS = MILD | {"scale": [0.2, 1.0]}


def barlow_twins() -> Settings:
    """92.10 %. Its two views are solarized with probability 0 and 0.2, here both with 0.1."""
    return _settings("barlow_twins", MILD, _three_layers(2048, 2048), _lars(0.3))


def byol() -> Settings:
    """92.58 %. Views as for Barlow Twins."""
    optimizer = _lars(1.0, weight_decay=1e-5)
    return _settings("byol", MILD, _two_layers(4096, 256), optimizer)


def frossl() -> Settings:
    """solo-learn gives no accuracy with these settings."""
    objective = {"name": "frossl", "invariance_weight": 1.4}
    return _settings(objective, SYMMETRIC, _three_layers(2048, 1024), _lars(0.3))


def ressl() -> Settings:
    """90.63 %. Its projector has no BatchNorm there, and its target's momentum rises to 1."""
    views = MILD | {"blur": 0.5, "solarize": 0.0}
    return _settings("ressl", views, _two_layers(4096, 256), {"name": "sgd", "lr": 0.05})


def simclr() -> Settings:
    """90.74 %. Its projector has no BatchNorm there."""
    objective = {"name": "simclr", "temperature": 0.2}
    return _settings(objective, SYMMETRIC, _two_layers(2048, 256), _lars(0.4))


def simsiam() -> Settings:
    """90.51 %. Its projector ends in a BatchNorm there."""
    optimizer = {"name": "sgd", "lr": 0.5, "weight_decay": 1e-5}
    views = MILD | {"solarize": 0.0}
    return _settings("simsiam", views, _three_layers(2048, 2048), optimizer)


def ssl_ey() -> Settings:
    """solo-learn gives no accuracy with these settings."""
    return _settings("ssl_ey", NO_SMALL_CROPS, _three_layers(2048, 2048), _lars(0.3))


def supcon() -> Settings:
    """93.82 %, with labels. Its projector has no BatchNorm there."""
    objective = {"name": "supcon", "temperature": 0.2}
    optimizer = {"name": "sgd", "lr": 0.4, "weight_decay": 1e-5}
    return _settings(objective, SYMMETRIC, _two_layers(2048, 256), optimizer)


def swav() -> Settings:
    """89.17 %, there with a queue of 3,840 from epoch 50 and prototypes fixed for two epochs."""
    optimizer = _lars(0.6, weight_decay=1e-6)
    return _settings("swav", SYMMETRIC, _two_layers(2048, 128), optimizer)


def vicreg() -> Settings:
    """92.07 %."""
    return _settings("vicreg", NO_SMALL_CROPS, _three_layers(2048, 2048), _lars(0.3))


def wmse() -> Settings:
    """88.67 %, with Adam there."""
    objective = {"name": "wmse", "slice": 128}
    views = SYMMETRIC | {"scale": [0.2, 1.0], "blur": 0.0}
    optimizer = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-6}
    return _settings(objective, views, _two_layers(1024, 64), optimizer)


def _settings(
    objective: Settings | str, views: Settings, projector: Settings, optimizer: Settings
) -> Settings:
    return {
        "patches": 2,
        "batch": 256,
        "epochs": 1000.0,
        "budget": None,
        "image_side": None,
        "views": views,
        "backbone": {"name": "resnet18"},
        "projector": projector,
        "whitened": 0,
        "objective": {"name": objective} if isinstance(objective, str) else objective,
        "optimizer": optimizer,
        "schedule": {"name": "cosine", "warmup": 0.01},
    }


def _lars(lr: float, weight_decay: float = 1e-4) -> Settings:
    return {"name": "lars", "lr": lr, "eta": 0.02, "clip": True, "weight_decay": weight_decay}


def _two_layers(hidden: int, dim: int) -> Settings:
    return {"name": "paper", "hidden": hidden, "dim": dim}


def _three_layers(hidden: int, dim: int) -> Settings:
    return {"name": "official", "hidden": hidden, "dim": dim}
