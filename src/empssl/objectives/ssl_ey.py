"""SSL-EY (Chapman et al., 2024), the Eckhart-Young loss of canonical correlation analysis."""

from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import mean_product, smaller_gram
from empssl.types import Projections


class SSLEY(Objective):
    """Coordinates that covary between views, with variances that stay small and apart.

    loss = variance_loss - 2 * covariance = ||V||_F^2 - 2 tr(C),  the mean over pairs of views, with

        C = Cov(Z_i, Z_j) + Cov(Z_j, Z_i)
        V = Cov(Z_i, Z_i) + Cov(Z_j, Z_j).

    It has no weights and no constraint: where views agree it is least with variances of 1/2 and no
    covariances. Collapse gives 0, and any coordinate in which views agree can give less. It is of
    the fourth degree: large projections make it very large, and a high learning rate diverges.

    The squared norms of all V sum to that of the sum of all views' covariances and n - 2 times
    those of each. The paper's loss for n views takes V and C of all views at once instead, which
    makes it grow as n^2, and variances with n.

    Any n: exact, the mean over pairs of views.
    """

    def forward(self, projections: Projections) -> Loss:
        view, batch, _ = projections.shape
        x = projections - projections.mean(1, keepdim=True)
        covariance = 2 * mean_product(x) * batch / (batch - 1)
        of_each = smaller_gram(x).square().sum()
        of_all = smaller_gram(x.flatten(0, 1)).square().sum()
        pairs = view * (view - 1) / 2
        variance_loss = ((view - 2) * of_each + of_all) / (pairs * (batch - 1) ** 2)
        total = variance_loss - 2 * covariance
        return Loss(total, {"covariance": covariance, "variance_loss": variance_loss})
