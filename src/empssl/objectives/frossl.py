"""FroSSL (Skean et al., 2024)."""

from empssl.objectives.gram import smaller_gram
from empssl.objectives.objective import Loss, Objective
from empssl.objectives.pairs import mean_square_distance
from empssl.shapes import Projections


class FroSSL(Objective):
    """Every view's covariance far from rank one, every view near the mean view.

    loss = invariance_weight * invariance_loss - entropy, the sums over views of

        entropy          -log ||K_i||_F^2,  K_i the covariance of view i, its trace made 1,
        invariance_loss  (n / b) ||Z_i - Zbar||_F^2,

    with each view's coordinates centered and of length 1 over the batch. ||K||_F^2 is 1 where all
    images are on one line and 1/r where r directions share the variance: collapse is prevented,
    without an eigenvalue. The authors' code centers two views but not more; a covariance is
    centered, so it is done for any n.

    Any n: as published for n views, where pairs weigh n - 1 times as much against the entropies as
    in a mean over pairs.

    Args:
        invariance_weight: gamma.
        epsilon: added to squared lengths and norms, which vanish where all images are alike.
    """

    def __init__(self, *, invariance_weight: float = 1.0, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.invariance_weight = invariance_weight
        self.epsilon = epsilon

    def forward(self, projections: Projections) -> Loss:
        view = projections.shape[0]
        x = projections - projections.mean(1, keepdim=True)
        z = x / (x.square().sum(1, keepdim=True) + self.epsilon).sqrt()
        squared_norm = smaller_gram(z).square().sum((-2, -1)) + self.epsilon
        squared_trace = z.square().sum((-2, -1)).square() + self.epsilon
        entropy = (squared_trace / squared_norm).log().sum()
        invariance_loss = view * (view - 1) / 2 * mean_square_distance(z)
        total = self.invariance_weight * invariance_loss - entropy
        return Loss(total, {"entropy": entropy, "invariance_loss": invariance_loss})
