"""Nearest neighbors as pictures: what the network takes to be alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from empssl.evaluation.probes.knn import neighbors
from empssl.reports.html import Picture, picture
from empssl.reports.sample import Sample, spread
from empssl.types import Embeddings

QUERIES, NEAREST = 12, 8


@dataclass(frozen=True)
class Neighbor:
    """An image near a query.

    Attributes:
        similarity: cosine of the two embeddings.
        agrees: whether its label is the query's; None where one of both has none.
    """

    picture: Picture
    name: str
    label: str
    similarity: float
    agrees: bool | None


@dataclass(frozen=True)
class Query:
    """An image and those nearest to it, nearest first."""

    picture: Picture
    name: str
    label: str
    neighbors: Sequence[Neighbor]


def queries(sample: Sample, embeddings: Embeddings) -> list[Query]:
    """Images evenly spread over the sample, each with its nearest, itself left out."""
    if len(sample) < 2:
        return []
    chosen = spread(len(sample), QUERIES).tolist()
    similarities, nearest = neighbors(embeddings[chosen], embeddings, NEAREST + 1)
    found = []
    for query, values, rows in zip(chosen, similarities.tolist(), nearest.tolist(), strict=True):
        others = [(i, s) for i, s in zip(rows, values, strict=True) if i != query][:NEAREST]
        label = sample.label(query)
        near = [
            Neighbor(picture(sample.pixels[i]), sample.names[i], sample.label(i), s,
                     sample.agree(i, query))
            for i, s in others
        ]  # fmt: skip
        found.append(Query(picture(sample.pixels[query]), sample.names[query], label, near))
    return found
