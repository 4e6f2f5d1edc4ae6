"""EMP-SSL as its authors' code runs it, where that differs from the paper's text."""

from typing import Any

from empssl.recipes import paper


def recipe() -> dict[str, Any]:
    """The head 512-4096-4096-1024, and LARS with its trust ratio capped at the learning rate.

    Published for CIFAR-10: 84.2 % linear after one epoch (the authors' README). Not yet measured
    with this code: it needs a GPU.
    """
    return paper.recipe() | {
        "projector": {"name": "official"},
        "optimizer": {"name": "lars", "clip": True},
    }
