"""The embedding map: embeddings on a plane by PCA or t-SNE, as dots and as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image

from empssl.progress import progress
from empssl.reports.html import Picture, sheet, shown
from empssl.reports.sample import Sample
from empssl.reports.sections.neighbors import link
from empssl.types import Embeddings

_FEWEST_FOR_TSNE = 30
_PERPLEXITY = 30.0
_COMPONENTS = 50
_SEED = 0
COLORS = 10
_WIDTH, _MARGIN = 1000.0, 20.0
_TEXT = 27.0  # size of the names of classes, as in the style sheet
_TILE, _GAP = 68, 2  # pixels; a picture at most, and between two
_FEWEST_COLUMNS, _MOST_COLUMNS = 9, 18  # of pictures, so that one sees what is on them


@dataclass(frozen=True)
class Projection2D:
    """Points of two coordinates.

    Attributes:
        points: float64 (point, 2), in no unit of meaning; both axes are alike.
        how: the method and its parameters, in words.
        reading: what may be read from the plane, and what not.
    """

    points: np.ndarray
    how: str
    reading: str


@dataclass(frozen=True)
class Group:
    """The dots of one class.

    Attributes:
        color: 0 to `COLORS` - 1; None for the rest of many classes, or where there are no labels.
        path: SVG path data, a dot an image.
        label_at: where its name fits on the map; None where it would cover another.
    """

    name: str
    count: int
    color: int | None
    path: str
    label_at: tuple[float, float] | None


@dataclass(frozen=True)
class Place:
    """A picture on the map.

    Attributes:
        name: of the image's file, shown where the picture is pointed at.
        label: its class; empty where there is none.
        link: to its file from the page; empty where there is none.
        column, row: of the grid.
    """

    name: str
    label: str
    link: str
    column: int
    row: int


@dataclass(frozen=True)
class Map:
    """Dots by class, and the same plane with pictures on it.

    Attributes:
        method: how to read the plane and how it was made, in words.
        width, height: of the plane, in the units of the dots.
        pictures: images in their places.
        columns, rows: of the grid that they lie on.
        places: what is where on it.
    """

    method: str
    width: float
    height: float
    groups: Sequence[Group]
    pictures: Picture
    columns: int
    rows: int
    places: Sequence[Place]


def project_2d(embeddings: Embeddings) -> Projection2D | None:
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
        return Projection2D(
            points, how, "The axes are the directions in which embeddings differ most."
        )
    components = min(_COMPONENTS, count, dim)
    reduced = PCA(components, random_state=_SEED).fit_transform(unit)
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    with progress("placing images on the map", 1) as advance:
        points = TSNE(
            perplexity=perplexity, init="pca", learning_rate="auto", random_state=_SEED
        ).fit_transform(reduced)
        advance(1)
    return Projection2D(
        points.astype(float),
        f"t-SNE of {count:,} embeddings of length 1, after PCA to {components} dimensions; "
        f"perplexity {perplexity:.3g}, seed {_SEED}",
        "Islands mean something; the distances between them, and their sizes, mean little.",
    )


def procrustes(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Points shifted, turned and mirrored to lie as near to those of a reference as they can.

    Orthogonal Procrustes: with both centered, R = U V^T of the singular value decomposition of
    points^T reference has the least |points R - reference|. Nothing is scaled, so that distances
    among the points stay as they are.

    Args:
        points: (point, 2).
        reference: (point, 2), the same things in the same order.

    >>> square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    >>> turned = square @ np.array([[0.0, 1.0], [1.0, 0.0]]) + 5
    >>> bool(np.allclose(procrustes(turned, square), square))
    True
    """
    middle = reference.mean(0)
    centered = points - points.mean(0)
    left, _, right = np.linalg.svd(centered.T @ (reference - middle))
    return np.asarray(centered @ left @ right + middle)


def embedding_map(sample: Sample, embeddings: Embeddings, page: Path) -> Map | None:
    """The embeddings on a plane; None for fewer than three, or if they are all alike.

    Args:
        sample: the images.
        embeddings: of them.
        page: the folder of the page, from which links start.
    """
    found = project_2d(embeddings)
    if found is None:
        return None
    # Landscape, as directions mean nothing; and both axes alike, so that distances compare.
    points = found.points[:, np.argsort(-np.ptp(found.points, axis=0))]
    points = (points - points.min(0)) / np.ptp(points[:, 0]) * (_WIDTH - 2 * _MARGIN) + _MARGIN
    height = float(np.ceil(points[:, 1].max() + _MARGIN))
    method = f"{found.reading} Made by {found.how}."
    return Map(
        method,
        _WIDTH,
        height,
        groups(sample, points, _WIDTH),
        *_pictures(sample, points, height, page),
    )


def groups(sample: Sample, points: np.ndarray, width: float, text: float = _TEXT) -> list[Group]:
    """Dots by class, the most frequent first; only so many classes have a color.

    Args:
        sample: the images.
        points: (sample, 2), where they are.
        width: of the drawing, which names of classes must not leave.
        text: size of the names.
    """
    if sample.labels is None:
        return [Group("", len(points), None, _dots(points), None)]
    labels = sample.labels.numpy()
    values, counts = np.unique(labels, return_counts=True)
    known = values >= 0
    order = np.lexsort((values, -counts, ~known))  # unlabeled last
    values, counts, known = values[order], counts[order], known[order]
    # In the order of their labels, so that the legend reads as the classes are listed elsewhere.
    colored = np.sort(values[:COLORS][known[:COLORS]])
    found: list[Group] = []
    taken: list[tuple[float, float, float]] = []
    rest = ~np.isin(labels, colored)
    if rest.any():
        name = "other classes" if known.sum() > COLORS else "unlabeled"
        found.append(Group(name, int(rest.sum()), None, _dots(points[rest]), None))
    for color, value in enumerate(colored.tolist()):
        own = points[labels == value]
        name = sample.class_name(value)
        x, y = np.median(own, axis=0)
        half = (0.28 * len(name) + 0.22) * text
        free = all(abs(x - a) > half + b or abs(y - c) > 1.26 * text for a, b, c in taken)
        if free:
            x = min(max(x, half), width - half)
            taken.append((x, half, y))
        at = (round(float(x), 1), round(float(y), 1)) if free else None
        found.append(Group(name, len(own), color, _dots(own), at))
    return found


def _dots(points: np.ndarray) -> str:
    """Lines of no length, which round ends turn into dots: a third of the size of circles."""
    return "".join(f"M{x:.0f} {y:.0f}h0" for x, y in points)


def _pictures(
    sample: Sample, points: np.ndarray, height: float, page: Path
) -> tuple[Picture, int, int, list[Place]]:
    """The image nearest to the middle of each cell of a grid, where a cell has any.

    Their names make a page 5 to 8 % larger; those of 2,000 dots would make it a third larger.
    """
    columns = int(np.clip(round(len(points) ** 0.5 * 0.65), _FEWEST_COLUMNS, _MOST_COLUMNS))
    rows = int(np.ceil(height / _WIDTH * columns))
    place = points / _WIDTH * columns
    cell = place.astype(int)
    distance = np.abs(place - cell - 0.5).max(1)
    order = np.argsort(distance, kind="stable")
    _, first = np.unique(cell[order, 1] * columns + cell[order, 0], return_index=True)
    chosen = order[first]
    tiles = [Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())
             for tile in sample.thumbnails(chosen.tolist())]  # fmt: skip
    side = min(_TILE, max(shown(tile.width) for tile in tiles))
    step = side + _GAP
    pixels = Image.new("RGBA", (columns * step, rows * step))
    for tile, (column, row) in zip(tiles, cell[chosen].tolist(), strict=True):
        size = min(side, shown(tile.width))
        small = tile.width <= size  # then each pixel becomes a block of the same size
        method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        left, top = (at * step + (side - size) // 2 for at in (column, row))
        pixels.paste(tile.resize((size, size), method), (left, top))
    places = [
        Place(sample.names[i], sample.label(i), link(sample.file(i), page), *map(int, cell[i]))
        for i in chosen.tolist()
    ]
    return sheet(pixels), columns, rows, places
