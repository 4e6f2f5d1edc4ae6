"""The spectral contrastive loss (HaoChen et al., 2021)."""

from jaxtyping import Float
from torch import Tensor

from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import check_positive, mean_product, smaller_gram
from empssl.types import Projections


class SpectralContrastive(Objective):
    """Views of an image point the same way, views of two images at right angles.

    loss = overlap_loss - 2 * similarity,  the mean over pairs of views i != j of

        similarity    z_ik . z_jk, over images,
        overlap_loss  (z_ik . z_jl)^2, over pairs of images k != l: prevents collapse,

    both divided by mu. Rows longer than sqrt(mu) are shortened to it, others kept, as in the
    authors' code. Squared products sum to squared norms of Gram matrices, so that all
    rows of all views at once, less those of one view and those of one image, are all there is.

    Any n: exact, the mean over pairs of views.

    Args:
        squared_radius: mu; 1 in the authors' CIFAR settings.

    Raises:
        ValueError: squared_radius is not positive.
    """

    def __init__(self, *, squared_radius: float = 1.0) -> None:
        super().__init__()
        check_positive(squared_radius=squared_radius)
        self.squared_radius = squared_radius

    def forward(self, projections: Projections) -> Loss:
        view, batch, _ = projections.shape
        mu = self.squared_radius
        length = projections.norm(dim=-1, keepdim=True)
        z = projections / (length / mu**0.5).clamp(min=1)
        similarity = mean_product(z) / mu
        of_one_row = z.square().sum(-1).square()
        crossed = (
            _squared_products(z.flatten(0, 1))
            - _squared_products(z).sum()
            - _squared_products(z.transpose(0, 1)).sum()
            + of_one_row.sum()
        )
        overlap_loss = crossed / (mu * view * (view - 1) * batch * (batch - 1))
        total = overlap_loss - 2 * similarity
        return Loss(total, {"similarity": similarity, "overlap_loss": overlap_loss})


def _squared_products(rows: Float[Tensor, "*stack row dim"]) -> Float[Tensor, "*stack"]:
    """(a . b)^2 summed over all ordered pairs of rows: ||Z Z^T||_F^2 = ||Z^T Z||_F^2."""
    return smaller_gram(rows).square().sum((-2, -1))
