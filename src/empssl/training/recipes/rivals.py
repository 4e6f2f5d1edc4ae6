"""The rivals on CIFAR-10 with solo-learn's settings (da Costa et al., 2022; MIT licence).

ResNet-18 on two views of the whole image, 1,000 epochs, batches of 256, as in solo-learn's
`scripts/pretrain/cifar` and its losses (commit 9187ea3). `DIFFERS` has every difference that is
known, by recipe; docs/rivals.md is made of it. Accuracies are solo-learn's, linear, of the last
epoch on the test set; none is measured with this code yet: each run needs a GPU for hours.
"""

from typing import Any

RivalSettings = dict[str, Any]
# What is compared: what solo-learn has, and what is here.
Differences = dict[str, tuple[Any, Any]]

STRONG = {
    "name": "crops", "scale": [0.08, 1.0], "jitter": 0.8, "brightness": 0.8, "contrast": 0.8,
    "saturation": 0.8, "hue": 0.2, "gray": 0.2, "blur": 0.5, "solarize": 0.0,
}  # fmt: skip
MILD = STRONG | {
    "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "blur": 0.0,
    "solarize": 0.1,
}  # fmt: skip
NO_SMALL_CROPS = MILD | {"scale": [0.2, 1.0]}


def barlow_twins() -> RivalSettings:
    """92.10 %."""
    objective = {"name": "barlow_twins", "scale": 0.1}
    return _settings(objective, MILD, _three_layers(2048, 2048), _lars(0.3))


def byol() -> RivalSettings:
    """92.58 %."""
    optimizer = _lars(1.0, weight_decay=1e-5)
    return _settings("byol", MILD, _two_layers(4096, 256), optimizer)


def frossl() -> RivalSettings:
    """With the settings of its authors' fork of solo-learn, which gives no accuracy with them."""
    objective = {"name": "frossl", "invariance_weight": 1.0}
    return _settings(objective, STRONG, _three_layers(2048, 1024), _lars(0.3))


def ressl() -> RivalSettings:
    """90.63 %."""
    views = MILD | {"blur": 0.5, "solarize": 0.0}
    objective = {"name": "ressl", "queue": 65536}
    return _settings(objective, views, _two_layers(4096, 256), _sgd(0.05, weight_decay=1e-4))


def simclr() -> RivalSettings:
    """90.74 %."""
    objective = {"name": "simclr", "temperature": 0.2}
    return _settings(objective, STRONG, _two_layers(2048, 256), _lars(0.4))


def simsiam() -> RivalSettings:
    """90.51 %."""
    views = MILD | {"saturation": 0.4, "blur": 0.5, "solarize": 0.0}
    return _settings("simsiam", views, _three_layers(2048, 2048), _sgd(0.5, weight_decay=1e-5))


def ssl_ey() -> RivalSettings:
    """With the settings of its author's proposal to solo-learn, which has not taken it over."""
    return _settings("ssl_ey", NO_SMALL_CROPS, _three_layers(2048, 2048), _lars(0.3))


def supcon() -> RivalSettings:
    """Learns from labels. solo-learn's 93.82 % are of another loss, see `DIFFERS`."""
    objective = {"name": "supcon", "temperature": 0.2}
    return _settings(objective, STRONG, _two_layers(2048, 256), _sgd(0.4, weight_decay=1e-5))


def swav() -> RivalSettings:
    """89.17 %."""
    optimizer = _lars(0.6, weight_decay=1e-6)
    return _settings("swav", STRONG, _two_layers(2048, 128), optimizer)


def vicreg() -> RivalSettings:
    """92.07 %."""
    # Theirs adds the variance terms of the two views, the paper's and ours averages them.
    objective = {"name": "vicreg", "variance_weight": 50.0}
    return _settings(objective, NO_SMALL_CROPS, _three_layers(2048, 2048), _lars(0.3))


def wmse() -> RivalSettings:
    """88.67 %."""
    objective = {"name": "wmse", "slice_size": 128}
    views = STRONG | {"scale": [0.2, 1.0], "blur": 0.0}
    optimizer = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-6}
    return _settings(objective, views, _two_layers(1024, 64), optimizer)


# A difference that no option here can remove is in the words of what each of the two does.
EVERYWHERE: Differences = {
    "views.interpolation": ("bicubic", "bilinear"),
    "views.area": ("drawn anew until the crop fits", "uniform, ratios that fit"),
    "views.mean": ([0.4914, 0.4822, 0.4465], 0.5),
    "views.std": ([0.247, 0.2435, 0.2616], 0.5),
    "views.kernel": ("Pillow's, three boxes", "Gaussian"),
    "backbone.padding": (2, 1),
    "batchnorm.over": ("each view apart", "all views together"),
    "schedule.start": (3e-5, "one step's share of the peak"),
    "precision": ("float16", "bfloat16 where the hardware has it, or float32"),
}
_WITHOUT_NORM: Differences = {"projector.batchnorm": ([False, False], [True, False])}
_ASYMMETRIC: Differences = {"views.solarize": ([0.0, 0.2], [0.1, 0.1])}
DIFFERS: dict[str, Differences] = {
    "barlow_twins": _ASYMMETRIC,
    "byol": _ASYMMETRIC,
    "frossl": {
        "views.scale": ("whole images", [0.08, 1.0]),
        "precision": ("float32", "bfloat16 where the hardware has it, or float32"),
    },
    "ressl": _WITHOUT_NORM | {
        "objective.final_momentum": (1.0, 0.99),
    },
    "simclr": _WITHOUT_NORM,
    "simsiam": {
        "projector.batchnorm": ([True, True, True], [True, True, False]),
        "predictor.schedule": ("constant", "as the network's"),
    },
    "ssl_ey": {},
    "supcon": _WITHOUT_NORM | {
        "objective.loss": ("logarithm of the sum over positives", "sum of the logarithms, L_out"),
    },
    "swav": {
        "objective.queue": (3840, 0),
        "objective.queue_from_epoch": (50, None),
        "objective.frozen_epochs": (2, 0),
        "objective.prototypes_unit": ("in the forward pass", "after each update"),
    },
    "vicreg": {},
    "wmse": {
        "optimizer.name": ("adam", "adamw"),
        "optimizer.decay_vectors": (True, False),
        "objective.shrinkage": (0.0, 1e-3),
        "objective.gradient": ("through the first view", "through both views"),
        "schedule.start": (0.0, "one step's share of the peak"),
    },
}  # fmt: skip


def differences(recipe: str) -> Differences:
    """All differences of a recipe from its source."""
    return EVERYWHERE | DIFFERS[recipe]


def _settings(
    objective: RivalSettings | str,
    views: RivalSettings,
    projector: RivalSettings,
    optimizer: RivalSettings,
) -> RivalSettings:
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


def _lars(lr: float, weight_decay: float = 1e-4) -> RivalSettings:
    return {
        "name": "lars", "lr": lr, "eta": 0.02, "clip": True, "weight_decay": weight_decay,
        "nesterov": False,
    }  # fmt: skip


def _sgd(lr: float, weight_decay: float) -> RivalSettings:
    return {"name": "sgd", "lr": lr, "weight_decay": weight_decay, "decay_vectors": True}


def _two_layers(hidden: int, dim: int) -> RivalSettings:
    return {"name": "paper", "hidden": hidden, "dim": dim}


def _three_layers(hidden: int, dim: int) -> RivalSettings:
    return {"name": "official", "hidden": hidden, "dim": dim}
