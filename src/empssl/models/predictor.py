"""The head with which one view predicts the target of another."""

import torch.nn.functional as F
from torch import Tensor, nn

from empssl.types import Projections


class Predictor(nn.Module):
    """Linear, BatchNorm, ReLU, Linear: from a projection to one of the same size.

    It sees the rows of all views together, of the whole global batch, so its BatchNorm is torch's
    own in any number of processes. It keeps no running statistics: nothing reads them, and a
    forward pass changes nothing.

    Args:
        dim: coordinates of a projection.
        hidden: width.

    Raises:
        ValueError: the width is not positive.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}, expected a positive width")
        self.hidden = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden, track_running_stats=False)
        self.out = nn.Linear(hidden, dim)

    def forward(self, projections: Projections) -> Tensor:
        rows = self.norm(self.hidden(projections.flatten(0, 1)))  # view*batch hidden
        predictions: Tensor = self.out(F.relu(rows)).unflatten(0, projections.shape[:2])
        return predictions
