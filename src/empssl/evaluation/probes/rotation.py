"""The rotation probe: whether embeddings tell how an image was turned."""

import torch
from jaxtyping import Float
from torch import Tensor

from empssl.evaluation.probes.ridge import ridge_probe
from empssl.metrics.embeddings import check_rows
from empssl.types import Images

TURNS = 4  # by 0, 90, 180 and 270 degrees
_STRENGTHS = (0.1,)  # fixed: one chosen on held-out rows would share images with those fitted on


def turned(images: Images) -> list[Images]:
    """The images as they are, and by 90, 180 and 270 degrees to the left."""
    return [images.rot90(turn, (2, 3)) for turn in range(TURNS)]


def rotation(embeddings: Float[Tensor, "turn sample feature"], *, seed: int = 0) -> float:
    """Percent of turned images whose turn a linear probe tells; 25 is chance.

    The task is that of Gidaris et al. (2018); Reed et al. (2021) found its linear probe to rank
    encoders much as labels do. Larger is healthier: the embedding knows where up is, hence the
    parts of its objects. An encoder trained on mirrored images cannot well tell a quarter turn
    from its opposite, and then 75 is a good score. Ridge regression of strength 0.1 on one half of
    the images, scored on the other; all turns of an image are on one side.

    Args:
        embeddings: of every image by each of the four turns, in the order of `turned`.
        seed: of the halves.

    Raises:
        DataError: fewer than two images, or a row is not finite.
    """
    check_rows(embeddings)
    turns, count, _ = embeddings.shape
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    halves = []
    for rows in (order[: count // 2], order[count // 2 :]):
        chosen = embeddings.detach()[:, rows.to(embeddings.device)].flatten(0, 1)
        halves += [chosen, torch.arange(turns).repeat_interleave(len(rows))]
    train, train_turns, test, test_turns = halves
    return ridge_probe(train, train_turns, test, test_turns, strengths=_STRENGTHS).accuracy
