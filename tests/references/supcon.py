"""SupCon's eq. 2 (L_out) in NumPy, float64: a loop per sum."""

import math

import numpy as np
from references.emp import cosine

Array = np.ndarray


def objective(
    projections: Array, *, labels: Array, temperature: float, **_: object
) -> tuple[float, dict[str, float]]:
    """The loss and its terms, averaged over anchors."""
    views, batch, _dim = projections.shape
    places = [(i, k) for i in range(views) for k in range(batch)]
    losses, similarities, logarithms = [], [], []
    for anchor in places:
        rest = [place for place in places if place != anchor]
        powers = [math.exp(cosine(projections[anchor], projections[a]) / temperature) for a in rest]
        positives = [
            p for p in rest
            if p[1] == anchor[1] or (labels[p[1]] == labels[anchor[1]] and labels[p[1]] >= 0)
        ]  # fmt: skip
        cosines = [cosine(projections[anchor], projections[p]) for p in positives]
        shares = [math.log(math.exp(c / temperature) / sum(powers)) for c in cosines]
        losses.append(-sum(shares) / len(positives))
        similarities.append(sum(cosines) / len(cosines))
        logarithms.append(math.log(sum(powers)))
    means = [sum(values) / len(places) for values in (losses, similarities, logarithms)]
    return means[0], {"similarity": means[1], "contrast_loss": means[2]}
