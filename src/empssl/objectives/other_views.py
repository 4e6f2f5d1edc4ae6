"""What a view is to agree with: the targets of all other views, at the cost of one sum."""

from torch import Tensor

from empssl.shapes import Targets


def others(targets: Targets, views: int) -> Tensor:
    """For each view, the sum of the other views' targets over the number of pairs.

    1/(m (n - 1)) sum_{j <= m, j != i} t_j,  for n views of which the first m have targets.

    What is linear in the target, as a dot product or a cross-entropy, and is summed over views
    with these in the target's place, is the mean over all m (n - 1) pairs: exactly, at O(n).

    Args:
        targets: of the first m views.
        views: n, 2 or more.

    Returns:
        (view, batch, dim)

    >>> import torch
    >>> others(torch.tensor([[[1.0]], [[3.0]]]), 2).flatten().tolist()
    [1.5, 0.5]
    """
    count = len(targets)
    summed = targets.sum(0).expand(views, *targets.shape[1:])
    without_own = summed.clone()
    without_own[:count] -= targets
    return without_own / (count * (views - 1))
