"""The settings of solo-learn for CIFAR-10, as its code has them at commit 9187ea3 of 2026-04-22.

From scripts/pretrain/cifar/*.yaml and its augmentations, and from the defaults in solo/args,
solo/methods, solo/losses, solo/utils and solo/data. Of frossl from the fork of its authors
(OFSkean/FroSSL, e841c57), of ssl_ey from its author's proposal (760033c); neither is in solo-learn.
"""

from typing import Any

Settings = dict[str, Any]

SYMMETRIC: Settings = {
    "views.scale": [0.08, 1.0], "views.jitter": 0.8, "views.brightness": 0.8,
    "views.contrast": 0.8, "views.saturation": 0.8, "views.hue": 0.2, "views.gray": 0.2,
    "views.blur": 0.5, "views.solarize": 0.0,
}  # fmt: skip
SYMMETRIC_WEAK = SYMMETRIC | {
    "views.brightness": 0.4, "views.contrast": 0.4, "views.saturation": 0.4, "views.hue": 0.1,
}  # fmt: skip
ASYMMETRIC = SYMMETRIC_WEAK | {
    "views.saturation": 0.2, "views.blur": 0.0, "views.solarize": [0.0, 0.2],
}  # fmt: skip
RESSL = SYMMETRIC_WEAK | {"views.saturation": 0.2}
OWN = ASYMMETRIC | {"views.scale": [0.2, 1.0], "views.solarize": 0.1}  # in vicreg's own file

EVERYWHERE: Settings = {
    "patches": 2, "batch": 256, "epochs": 1000, "precision": "float16",
    "views.ratio": [3 / 4, 4 / 3], "views.side": 32, "views.flip": 0.5, "views.sigma": [0.1, 2.0],
    "views.interpolation": "bicubic", "views.area": "drawn anew until the crop fits",
    "views.mean": [0.4914, 0.4822, 0.4465], "views.std": [0.247, 0.2435, 0.2616],
    "views.kernel": "Pillow's, three boxes",
    "backbone.name": "resnet18", "backbone.kernel": 3, "backbone.stride": 1, "backbone.padding": 2,
    "backbone.maxpool": False, "batchnorm.over": "each view apart",
    "schedule.name": "cosine", "schedule.warmup_epochs": 10, "schedule.start": 3e-5,
    "schedule.final": 0.0, "schedule.every": "step",
}  # fmt: skip


def lars(lr: float, weight_decay: float = 1e-4) -> Settings:
    """`lr` is for 256 images, as many as there are."""
    return {
        "optimizer.name": "lars", "optimizer.lr": lr * 256 / 256, "optimizer.eta": 0.02,
        "optimizer.clip": True, "optimizer.momentum": 0.9, "optimizer.nesterov": False,
        "optimizer.weight_decay": weight_decay, "optimizer.decay_vectors": False,
        "optimizer.adapt_vectors": False,
    }  # fmt: skip


def sgd(lr: float, weight_decay: float) -> Settings:
    return {
        "optimizer.name": "sgd", "optimizer.lr": lr * 256 / 256, "optimizer.momentum": 0.9,
        "optimizer.nesterov": False, "optimizer.weight_decay": weight_decay,
        "optimizer.decay_vectors": True,
    }  # fmt: skip


def projector(*widths: int, batchnorm: tuple[bool, ...]) -> Settings:
    """`batchnorm` says for each Linear whether one follows."""
    return {"projector.widths": list(widths), "projector.batchnorm": list(batchnorm)}


TWO, THREE, BARE = (True, False), (True, True, False), (False, False)
MOMENTUM: Settings = {"objective.momentum": 0.99, "objective.final_momentum": 1.0}

METHODS: dict[str, Settings] = {
    "barlow_twins": ASYMMETRIC | lars(0.3) | projector(512, 2048, 2048, 2048, batchnorm=THREE) | {
        "objective.redundancy_weight": 0.0051, "objective.epsilon": 1e-5, "objective.scale": 0.1,
    },
    "byol": ASYMMETRIC | lars(1.0, 1e-5) | projector(512, 4096, 256, batchnorm=TWO) | MOMENTUM | {
        "predictor.widths": [256, 4096, 256], "predictor.batchnorm": [True, False],
        "predictor.schedule": "as the network's",
    },
    "frossl": SYMMETRIC | lars(0.3) | projector(512, 2048, 2048, 1024, batchnorm=THREE) | {
        "views.scale": "whole images", "objective.invariance_weight": 1.0, "precision": "float32",
    },
    "ressl": RESSL | sgd(0.05, 1e-4) | projector(512, 4096, 256, batchnorm=BARE) | MOMENTUM | {
        "objective.student_temperature": 0.1, "objective.teacher_temperature": 0.04,
        "objective.queue": 65536, "objective.weak_views": 1,
    },
    "simclr": SYMMETRIC | lars(0.4) | projector(512, 2048, 256, batchnorm=BARE) | {
        "objective.temperature": 0.2,
    },
    "simsiam": SYMMETRIC_WEAK | sgd(0.5, 1e-5)
    | projector(512, 2048, 2048, 2048, batchnorm=(True, True, True)) | {
        "predictor.widths": [2048, 512, 2048], "predictor.batchnorm": [True, False],
        "predictor.schedule": "constant",
    },
    "ssl_ey": OWN | lars(0.3) | projector(512, 2048, 2048, 2048, batchnorm=THREE),
    "supcon": SYMMETRIC | sgd(0.4, 1e-5) | projector(512, 2048, 256, batchnorm=BARE) | {
        "objective.temperature": 0.2,
        "objective.loss": "logarithm of the sum over positives",
    },
    "swav": SYMMETRIC | lars(0.6, 1e-6) | projector(512, 2048, 128, batchnorm=TWO) | {
        "objective.prototypes": 3000, "objective.temperature": 0.1, "objective.epsilon": 0.05,
        "objective.iterations": 3, "objective.queue": 3840, "objective.queue_from_epoch": 50,
        "objective.frozen_epochs": 2, "objective.prototypes_unit": "in the forward pass",
    },
    # The variances of the two views are added there, and averaged here: 25 there are 50 here.
    "vicreg": OWN | lars(0.3) | projector(512, 2048, 2048, 2048, batchnorm=THREE) | {
        "objective.invariance_weight": 25.0, "objective.variance_weight": 2 * 25.0,
        "objective.covariance_weight": 1.0, "objective.epsilon": 1e-4,
    },
    "wmse": SYMMETRIC | projector(512, 1024, 64, batchnorm=TWO) | {
        "views.scale": [0.2, 1.0], "views.blur": 0.0,
        "optimizer.name": "adam", "optimizer.lr": 2e-3 * 256 / 256,
        "optimizer.betas": [0.9, 0.999], "optimizer.weight_decay": 1e-6,
        "optimizer.decay_vectors": True, "schedule.start": 0.0,
        "objective.slice_size": 128, "objective.shrinkage": 0.0,
        "objective.gradient": "through the first view",
    },
}  # fmt: skip


def settings(method: str) -> Settings:
    """All that is known of a method there, by name."""
    return EVERYWHERE | METHODS[method]
