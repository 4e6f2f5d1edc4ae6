"""How processes share a step: each takes some of its images, or some views of all its images."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from empssl.device import Fabric
from empssl.distributed.collectives import all_reduce_max, gather
from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.errors import DivergenceError, UsageError, nearest
from empssl.objectives import OBJECTIVES
from empssl.objectives.base import Objective
from empssl.types import Projections

Shard = Literal["images", "patches"]


@dataclass(frozen=True)
class Share:
    """The part of every step that this process holds.

    Of n views of b images in W processes, with projections of d coordinates, `images` sends all n
    b d numbers forth and again back as gradients, so that each process computes the whole loss.
    `patches` sends what an objective adds up over views, b d numbers, forth and back, and once more
    for the collapse metrics; terms of single views are computed where these are. Rings of n=20,
    b=100, d=1024 and W=4 in float32 send 6.1 + 12.3 MB from each process and 3 x 0.6 MB: n/2 times
    less. (Half of that where autocast halves projections: sums are in float32.) The gradients of
    the network's weights, which travel either way, may be more than both; and by `patches` each
    process reads all images.

    Attributes:
        rank: which part of the images it is, of `world` equal ones.
        world: processes that share the images.
        views: their indices, of each of these images.
        axis: where the other views are.
    """

    rank: int
    world: int
    views: range
    axis: ViewAxis = LOCAL_VIEWS

    @classmethod
    def of(
        cls, shard: str, objective: Objective, *, name: str, patches: int, rank: int, world: int
    ) -> "Share":
        """The share of this process.

        Args:
            shard: one of `Shard`.
            objective: what the step lowers.
            name: of the objective.
            patches: views of an image in a step, over all processes.
            rank: of this process.
            world: number of processes.

        Raises:
            UsageError: views are to be shared, but the objective needs them together, or the
                processes cannot share them evenly.
        """
        if shard not in get_args(Shard):
            raise UsageError(f"no shard '{shard}': {nearest(shard, get_args(Shard))}")
        if shard == "images":
            return cls(rank, world, range(patches))
        if not objective.sums_views:
            every = ((key, getattr(it, "sums_views", False)) for key, it in OBJECTIVES.items())
            able = ", ".join(key for key, sums in every if sums and key != name)
            raise UsageError(
                f"shard is 'patches', but {name} compares views with one another, so that each "
                f"process needs all of them; choose 'images', or an objective to which their sum "
                f"is enough: {able}, or tcr with pooled=False"
            )
        if patches % world:
            raise UsageError(
                f"{patches} patches cannot be shared by {world} processes; choose patches, or "
                "processes, so that each has equally many, or --shard images"
            )
        own = patches // world
        return cls(0, 1, range(rank * own, (rank + 1) * own), ViewAxis(world))


def gather_projections(fabric: Fabric, projections: Projections, axis: ViewAxis) -> Tensor:
    """What the objective sees of what each process projected.

    Args:
        fabric: of the run.
        projections: of this process's share.
        axis: where the other views are.

    Returns:
        The projections of all images: of all views, or of this process's where they are spread.

    Raises:
        DivergenceError: on the CPU, those of some process are not finite. An objective may give up
            on them, and where each has its own the other processes would wait for it.
    """
    if axis.processes == 1:
        return gather(fabric, projections)
    if projections.device.type == "cpu":
        bad = not torch.isfinite(projections).all()
        if all_reduce_max(fabric, bad)[0]:
            raise DivergenceError("the projections are not finite")
    return projections
