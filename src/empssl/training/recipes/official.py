"""EMP-SSL as its authors' code runs it, where that differs from the paper's text."""

from typing import Any

from empssl.training.recipes import paper


def recipe() -> dict[str, Any]:
    """The head 512-4096-4096-1024, and LARS with its trust ratio capped at the learning rate.

    Published for CIFAR-10: 84.2 % linear after one epoch (the authors' README, with 20 patches and
    a schedule of two epochs). Not yet measured with this code: it needs a GPU.
    """
    return paper.recipe() | {
        "projector": {"name": "official"},
        "optimizer": {"name": "lars", "clip": True},
    }


def imagenet100() -> dict[str, Any]:
    """The same for ImageNet-100: crops of a quarter of the area and of varying shape.

    There the crops are bicubic and of the original image; here they are bilinear and of its
    central square. For CIFAR their crops of that area are square, and so the paper's patches; for
    Tiny ImageNet their code does not run. Not yet measured with this code.
    """
    return recipe() | {
        "views": {
            "name": "crops", "scale": [0.25, 0.25], "hue": 0.2, "blur": 0.1, "solarize": 0.1,
        },
        "backbone": paper.imagenet100()["backbone"],
    }  # fmt: skip
