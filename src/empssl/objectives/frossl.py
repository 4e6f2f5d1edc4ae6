"""FroSSL (Skean et al., 2024)."""

from empssl.distributed.view_axis import LOCAL_VIEWS, ViewAxis
from empssl.objectives.base import Loss, Objective
from empssl.objectives.functional import check_positive, mean_square_distance, smaller_gram
from empssl.types import Projections


class FroSSL(Objective):
    """Every view's covariance far from rank one, views near each other.

    loss = invariance_weight * invariance_loss - entropy,  of two views

        entropy          -log ||K_1||_F^2 - log ||K_2||_F^2,  K the covariance of a view, its
                         trace made 1,
        invariance_loss  ||Z_1 - Z_2||_F^2 / b,

    with each view's coordinates centered and of length 1 over the batch. ||K||_F^2 is 1 where all
    images are on one line and 1/r where r directions share the variance: collapse is prevented,
    without an eigenvalue. The paper's sums for n views weigh distances the more against entropies
    the more views there are, until one direction is left (docs/log.md): hence the mean.

    Any n: exact, the mean over pairs of views.

    Args:
        invariance_weight: gamma.
        epsilon: added to squared lengths and norms, which vanish where all images are alike.
    """

    sums_views = True

    def __init__(self, *, invariance_weight: float = 1.0, epsilon: float = 1e-12) -> None:
        super().__init__()
        check_positive(epsilon=epsilon)
        self.invariance_weight = invariance_weight
        self.epsilon = epsilon

    def forward(self, projections: Projections, *, views: ViewAxis = LOCAL_VIEWS) -> Loss:
        x = projections - projections.mean(1, keepdim=True)
        z = x / (x.square().sum(1, keepdim=True) + self.epsilon).sqrt()
        squared_norm = smaller_gram(z).square().sum((-2, -1)) + self.epsilon
        squared_trace = z.square().sum((-2, -1)).square() + self.epsilon
        entropy = 2 * views.mean((squared_trace / squared_norm).log())
        invariance_loss = mean_square_distance(z, views)
        total = self.invariance_weight * invariance_loss - entropy
        return Loss(total, {"entropy": entropy, "invariance_loss": invariance_loss})
