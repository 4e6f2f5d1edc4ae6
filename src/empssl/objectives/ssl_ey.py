"""SSL-EY (Chapman et al., 2024), the Eckhart-Young loss of canonical correlation analysis."""

from empssl.objectives.gram import smaller_gram
from empssl.objectives.objective import Loss, Objective
from empssl.objectives.pairs import mean_product
from empssl.shapes import Projections


class SSLEY(Objective):
    """Coordinates that covary between views, with variances that stay small and apart.

    loss = variance_loss - 2 * covariance = ||V||_F^2 - 2 tr(C),

        C = sum over i != j of Cov(Z_i, Z_j)
        V = sum over i of Cov(Z_i, Z_i).

    It has no weights and no constraint: where all views agree it is least with V = (n - 1) I.
    Collapse gives 0, and any coordinate in which views agree gives less.

    Any n: as published for n views, which is not a mean over pairs: ||V||_F^2 is not linear.
    """

    def forward(self, projections: Projections) -> Loss:
        view, batch, _ = projections.shape
        x = projections - projections.mean(1, keepdim=True)
        covariance = mean_product(x) * view * (view - 1) * batch / (batch - 1)
        variance_loss = smaller_gram(x.flatten(0, 1)).square().sum() / (batch - 1) ** 2
        total = variance_loss - 2 * covariance
        return Loss(total, {"covariance": covariance, "variance_loss": variance_loss})
