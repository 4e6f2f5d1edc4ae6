"""Heads that turn an embedding into a projection during training."""

from torch import Tensor, nn


class Projector(nn.Module):
    """`block`: Linear, BatchNorm, ReLU; then further such blocks; then a Linear to `dim`.

    The output of the first block is the `head` embedding, which the authors' code probes.

    Args:
        feature: coordinates of the backbone's embedding.
        hidden: widths of the blocks, the first of them that of the `head` embedding.
        dim: coordinates of the projection.
    """

    def __init__(self, feature: int, *, hidden: list[int], dim: int) -> None:
        super().__init__()
        if min(*hidden, dim) < 1:
            raise ValueError(f"hidden is {hidden} and dim is {dim}, expected positive numbers")
        widths = [feature, *hidden]
        blocks = [_block(a, b) for a, b in zip(widths, hidden, strict=False)]
        self.block = blocks[0]
        self.out = nn.Sequential(*blocks[1:], nn.Linear(hidden[-1], dim))
        self.feature, self.dim = hidden[0], dim

    def forward(self, embedding: Tensor) -> Tensor:
        projection: Tensor = self.out(self.block(embedding))
        return projection


def _block(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)
    )


def paper(feature: int, *, hidden: int = 4096, dim: int = 512) -> Projector:
    """One hidden layer, as the paper's section 3 has it: 512-4096-512."""
    return Projector(feature, hidden=[hidden], dim=dim)


def official(feature: int, *, hidden: int = 4096, dim: int = 1024) -> Projector:
    """Two hidden layers, as the authors' code has it: 512-4096-4096-1024."""
    return Projector(feature, hidden=[hidden, hidden], dim=dim)
