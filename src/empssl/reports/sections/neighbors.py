"""Nearest neighbors as pictures: what the network takes to be alike."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from empssl.evaluation.probes.knn import neighbors
from empssl.reports.html import Picture, picture
from empssl.reports.sample import Sample, spread
from empssl.types import Embeddings

QUERIES, NEAREST = 12, 8


@dataclass(frozen=True)
class Neighbor:
    """An image near a query.

    Attributes:
        link: to its file from the page; empty where there is none.
        similarity: cosine of the two embeddings.
        agrees: whether its label is the query's; None where one of both has none.
    """

    picture: Picture
    name: str
    label: str
    link: str
    similarity: float
    agrees: bool | None


@dataclass(frozen=True)
class Query:
    """An image and those nearest to it, nearest first."""

    picture: Picture
    name: str
    label: str
    link: str
    neighbors: Sequence[Neighbor]


def queries(sample: Sample, embeddings: Embeddings, page: Path) -> list[Query]:
    """Images evenly spread over the sample, each with its nearest, itself left out.

    Args:
        sample: the images.
        embeddings: of them.
        page: the folder of the page, from which links start.
    """
    if len(sample) < 2:
        return []
    chosen = spread(len(sample), QUERIES).tolist()
    similarities, nearest = neighbors(embeddings[chosen], embeddings, NEAREST + 1)
    others = [
        [(i, s) for i, s in zip(rows, values, strict=True) if i != query][:NEAREST]
        for query, values, rows in zip(chosen, similarities.tolist(), nearest.tolist(), strict=True)
    ]
    seen = sorted({*chosen, *(i for near in others for i, _ in near)})
    pictures = dict(zip(seen, map(picture, sample.thumbnails(seen)), strict=True))

    def place(index: int) -> tuple[Picture, str, str, str]:
        name, label = sample.names[index], sample.label(index)
        return pictures[index], name, label, link(sample.file(index), page)

    return [
        Query(*place(query), [Neighbor(*place(i), s, sample.agree(i, query)) for i, s in near])
        for query, near in zip(chosen, others, strict=True)
    ]


def link(file: Path | None, page: Path) -> str:
    """The way from the folder of a page to a file, for an `href`; empty where there is none.

    Relative, so that the page may move together with the images, and never a scheme: a name such
    as `javascript:x` is percent-encoded behind `./`.

    >>> link(Path("/photos/a b.jpg"), Path("/runs/one"))
    '../../photos/a%20b.jpg'
    >>> link(Path("/runs/one/java:script.png"), Path("/runs/one"))
    './java%3Ascript.png'
    """
    if file is None:
        return ""
    try:
        way = Path(os.path.relpath(file, page)).as_posix()
    except ValueError:  # on Windows, of two drives
        return ""
    return ("" if way.startswith("../") else "./") + quote(os.fsencode(way))
