"""A plane on which embeddings lie as they lie in space, as far as two dimensions can show it."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F

from empssl.progress import progress
from empssl.shapes import Embeddings

_FEWEST_FOR_TSNE = 30
_PERPLEXITY = 30.0
_COMPONENTS = 50
_SEED = 0


@dataclass(frozen=True)
class Plane:
    """Points of two coordinates.

    Attributes:
        points: float64 (point, 2), in no unit of meaning; both axes are alike.
        how: the method and its parameters, in words.
        reading: what may be read from the plane, and what not.
    """

    points: np.ndarray
    how: str
    reading: str


def plane(embeddings: Embeddings) -> Plane | None:
    """t-SNE of embeddings scaled to length 1, or PCA of a few.

    The same embeddings give the same points, and as many others the same parameters.

    Returns:
        None for fewer than three, or if they are all alike.
    """
    unit = F.normalize(embeddings).double().numpy()
    if len(unit) < 3 or np.ptp(unit, axis=0).max() < 1e-6:
        return None
    # Imported here: it takes a second, and a report without pictures does not need it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, dim = unit.shape
    if count < _FEWEST_FOR_TSNE:
        points = PCA(2, svd_solver="full").fit_transform(unit)
        how = f"the first two principal components of {count} embeddings of length 1"
        return Plane(points, how, "The axes are the directions in which embeddings differ most.")
    components = min(_COMPONENTS, count, dim)
    reduced = PCA(components, random_state=_SEED).fit_transform(unit)
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    with progress("placing images on the map", 1) as advance:
        points = TSNE(
            perplexity=perplexity, init="pca", learning_rate="auto", random_state=_SEED
        ).fit_transform(reduced)
        advance(1)
    return Plane(
        points.astype(float),
        f"t-SNE of {count:,} embeddings of length 1, after PCA to {components} dimensions; "
        f"perplexity {perplexity:.3g}, seed {_SEED}",
        "Islands mean something; the distances between them, and their sizes, mean little.",
    )


def aligned(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Points shifted, turned and mirrored to lie as near to those of a reference as they can.

    Orthogonal Procrustes: with both centered, R = U V^T of the singular value decomposition of
    points^T reference has the least |points R - reference|. Nothing is scaled, so that distances
    among the points stay as they are.

    Args:
        points: (point, 2).
        reference: (point, 2), the same things in the same order.

    >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    >>> turned = square @ np.array([[0.0, 1.0], [1.0, 0.0]]) + 5
    >>> bool(np.allclose(aligned(turned, square), square))
    True
    """
    middle = reference.mean(0)
    centered = points - points.mean(0)
    left, _, right = np.linalg.svd(centered.T @ (reference - middle))
    return np.asarray(centered @ left @ right + middle)
