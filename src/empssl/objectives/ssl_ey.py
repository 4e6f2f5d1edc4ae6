"""SSL-EY (Chapman et al., 2024), the Eckhart-Young loss of canonical correlation analysis."""

from empssl.objectives.gram import smaller_gram
from empssl.objectives.objective import Loss, Objective
from empssl.objectives.pairs import mean_product
from empssl.shapes import Projections


class SSLEY(Objective):
    """Coordinates that covary between views, with variances that stay small and apart.

    loss = variance_loss - 2 * covariance = ||V||_F^2 - 2 tr(C),

        C = mean over i != j of Cov(Z_i, Z_j) + Cov(Z_j, Z_i)
        V = 2 * mean over i of Cov(Z_i, Z_i).

    It has no weights and no constraint: where all views agree it is least with V = I. Collapse
    gives 0, and any coordinate in which views agree gives less.

    Any n: not exact, ||V||_F^2 is not linear. Published with sums in place of means, which is the
    same for two views; for more the sums grow with n and n^2, and training with them.
    """

    def forward(self, projections: Projections) -> Loss:
        view, batch, _ = projections.shape
        x = projections - projections.mean(1, keepdim=True)
        covariance = 2 * mean_product(x) * batch / (batch - 1)
        scale = 2 / (view * (batch - 1))
        variance_loss = scale**2 * smaller_gram(x.flatten(0, 1)).square().sum()
        total = variance_loss - 2 * covariance
        return Loss(total, {"covariance": covariance, "variance_loss": variance_loss})
