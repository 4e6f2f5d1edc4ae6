"""Measures of embeddings that need no labels: their names, and a table of them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from empssl.data import ImageSet
from empssl.errors import CheckpointError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes.rotation import rotation, turned
from empssl.metrics.embeddings import (
    alignment,
    alpha_req,
    coding_rate_ratio,
    covariance_rank,
    lidar,
    rankme,
    separation,
    uniformity,
)
from empssl.models import Layer
from empssl.progress import paragraph, preformatted, progress
from empssl.rng import uniform
from empssl.runs.files import short_hash
from empssl.types import Embeddings, Images

Direction = Literal["higher", "lower", "near 1"]
Of = Literal["bags", "views", "turns"]
_AT_ONCE = 256
_WHOLE = Crops("whole")
# What is lower, on the scale on which larger is healthier, has collapsed. Random weights do not:
# their uniformity was -0.03 on digits, where trained networks have -1 or less.
COLLAPSED = {
    "uniformity": (0.01, "all images have nearly the same embedding"),
    "covariance_rank": (1.5, "images differ in one direction only"),
}


def larger_is_better(value: float, direction: Direction) -> float:
    """The value on a scale on which larger is healthier.

    >>> larger_is_better(0.9, "near 1") > larger_is_better(1.2, "near 1")
    True
    >>> larger_is_better(3.0, "lower")
    -3.0
    """
    if direction == "near 1":
        return -abs(value - 1)
    return value if direction == "higher" else -value


@dataclass(frozen=True)
class Measure:
    """One measure of health.

    Attributes:
        function: embeddings to a number.
        of: which embeddings it takes: `bags`, one row an image; `views`, several patches of each;
            `turns`, whole images turned four ways.
        direction: where good values lie.
        meaning: what the number is, in a sentence.
        source: who published it.
    """

    function: Callable[..., float]
    of: Of
    direction: Direction
    meaning: str
    source: str

    def larger_is_better(self, value: float) -> float:
        """The value on a scale on which larger is healthier."""
        return larger_is_better(value, self.direction)


MEASURES = {
    "rankme": Measure(
        rankme, "bags", "higher", "directions that embeddings use; 1 is collapse",
        "Garrido et al. 2023",
    ),
    "covariance_rank": Measure(
        covariance_rank, "bags", "higher", "directions that share the variance; 1 is collapse",
        "Roy & Vetterli 2007",
    ),
    "alpha_req": Measure(
        alpha_req, "bags", "near 1",
        "how fast variances fall: above 1 few directions hold all, below 1 many hold noise",
        "Agrawal et al. 2022",
    ),
    "coding_rate_ratio": Measure(
        coding_rate_ratio, "bags", "higher",
        "coding rate between all alike (0) and evenly spread (1)",
        "Yu et al. 2020",
    ),
    "uniformity": Measure(
        uniformity, "bags", "lower", "how evenly images lie: 0 is collapse, near -4 the best",
        "Wang & Isola 2020",
    ),
    "alignment": Measure(
        alignment, "views", "lower", "square distance of two patches of an image; 0 is all alike",
        "Wang & Isola 2020",
    ),
    "lidar": Measure(
        lidar, "views", "higher", "directions by which images differ and their patches do not",
        "Thilak et al. 2023",
    ),
    "separation": Measure(
        separation, "views", "higher", "how much further apart images are than patches of one; 0 "
        "is collapse", "Fukunaga 1990",
    ),
    "rotation": Measure(
        rotation, "turns", "higher", "% of turned images whose turn a linear probe tells; 25 is "
        "chance", "Gidaris et al. 2018; Reed et al. 2021",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class SampleEmbeddings:
    """The embeddings of a sample at one layer.

    Attributes:
        bags: one row an image, as probes and users get it.
        views: of several random patches of each image.
        turns: of each whole image, turned by 0, 90, 180 and 270 degrees. Not of bags: these hold
            mirror images, of which a quarter turn is the opposite one.
    """

    bags: Embeddings
    views: Float[Tensor, "view sample feature"]
    turns: Float[Tensor, "turn sample feature"]


def sample_rows(total: int, count: int, *, seed: int) -> Int64[Tensor, " row"]:
    """`count` of `total` indices at even distances, the first drawn; or all of them. Ascending.

    >>> sample_rows(10, 5, seed=0).tolist()
    [1, 3, 5, 7, 9]
    """
    if count >= total:
        return torch.arange(total)
    first = uniform(torch.zeros(1).long(), seed=seed, epoch=0, views=range(1), draws=1).double()
    rows = (torch.arange(count) + first.flatten()) * (total / count)
    return rows.long().clamp(max=total - 1)


def read_sample(images: ImageSet, rows: Tensor) -> tuple[Images, Tensor]:
    """The images at `rows` that can be read, and which these are."""
    read = [images.read(part.tolist()) for part in rows.split(_AT_ONCE)]
    valid = torch.cat([batch.valid for batch in read])
    return torch.cat([batch.pixels for batch in read])[valid], rows[valid]


def embed_sample(
    encoder: Encoder,
    pixels: Images,
    rows: Tensor,
    layers: Sequence[Layer],
    *,
    crops: Crops,
    views: int,
    seed: int,
) -> dict[Layer, SampleEmbeddings]:
    """Embeddings of the images at each layer.

    Args:
        encoder: of which network.
        pixels: the images.
        rows: their indices in the data set; random patches depend on them.
        layers: where embeddings are taken.
        crops: whose mean is an image's row.
        views: random patches of each image.
        seed: of the random patches.
    """

    def kinds(pixels: Images) -> Iterator[tuple[Images, Crops]]:
        """What is embedded of some images: the bags, then each view, then each turn."""
        yield pixels, crops
        yield from ((pixels, Crops("random", 1, seed * views + view)) for view in range(views))
        yield from ((images, _WHOLE) for images in turned(pixels))

    parts = []
    whose = " with random weights" if encoder.identity.startswith("random-") else ""
    with progress(f"embedding images{whose}", len(rows)) as advance:
        for batch in encoder.batches(len(rows), _AT_ONCE):
            at = slice(batch.start, batch.stop)
            found = [encoder.embed(x, rows[at], crop, layers) for x, crop in kinds(pixels[at])]
            parts.append({layer: torch.stack([f[layer] for f in found]) for layer in layers})
            advance(batch.stop)
    whole = {layer: torch.cat([part[layer] for part in parts], 1) for layer in layers}
    return {
        layer: SampleEmbeddings(e[0], e[1 : 1 + views], e[1 + views :])
        for layer, e in whole.items()
    }


@dataclass(frozen=True)
class MeasureReading:
    """The value of one measure at one layer.

    Attributes:
        measure: its name.
        layer: where the embeddings were taken.
        value: of the run's network.
        random: of the same network with random weights; None where it was not asked for.
        healthy: where good values lie.
        meaning: what the number is.
        source: who published it.
    """

    measure: str
    layer: Layer
    value: float
    random: float | None
    healthy: str
    meaning: str
    source: str

    @property
    def gained(self) -> bool | None:
        """Whether the run's value is healthier than with random weights; None if not measured."""
        if self.random is None:
            return None
        how = MEASURES[self.measure].larger_is_better
        return how(self.value) > how(self.random)


@dataclass(frozen=True, repr=False)
class Quality:
    """All measures of a run's network.

    Attributes:
        dataset: whose images were embedded.
        run: which run.
        protocol: what holds for every reading.
        readings: measure by measure, and of each layer by layer.
        unkept: why the run's directory does not have it; empty if it has.
    """

    dataset: str
    run: str
    protocol: dict[str, Any]
    readings: list[MeasureReading] = field(default_factory=list)
    unkept: str = ""

    @property
    def exit_code(self) -> int:
        """4 where it could not be written to the run's directory, else 0."""
        return CheckpointError.exit_code if self.unkept else 0

    @property
    def name(self) -> str:
        """Unlike that of other data, or with another protocol."""
        return f"{Path(self.dataset).name}-{short_hash([self.dataset, self.protocol])}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def table(self) -> str:
        """The verdict, a line for each reading, and what each measure is."""
        p, random = self.protocol, any(r.random is not None for r in self.readings)
        width = max((len(r.measure) for r in self.readings), default=0)
        lines = [
            paragraph(self.verdict), "", f"{'measure':{width}}  {'layer':10} {'run':>8}"
            + (f" {'random':>8}" if random else "") + "  healthier is",
        ]  # fmt: skip
        for r in self.readings:
            text = f"{r.measure:{width}}  {r.layer:10} {r.value:8.2f}"
            if random:
                text += " " * 9 if r.random is None else f" {r.random:8.2f}"
            lines.append(f"{text}  {r.healthy}" + ("" if r.gained is None or r.gained else
                         ", but random is healthier"))  # fmt: skip
        lines.append("")
        meanings = {r.measure: f"{r.measure}: {r.meaning} ({r.source})" for r in self.readings}
        lines += [paragraph(text, indent="  ") for text in meanings.values()]
        lines.append(paragraph(
            f"{self.dataset}: {p['images']} images, {p['crops']} and {p['views']} random patches "
            "of each; no labels. Compare runs of one layer, width and data."
        ))  # fmt: skip
        if self.unkept:
            lines.append(paragraph(f"not kept: {self.unkept}"))
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """Whether the embeddings are healthy, in a sentence.

        Read at the head, or else at the last layer that was asked for; collapse at any.
        """
        layers = list(dict.fromkeys(r.layer for r in self.readings))
        for layer in layers:
            at = {r.measure: r.value for r in self.readings if r.layer == layer}
            for name, (low, looks) in COLLAPSED.items():
                if name in at and MEASURES[name].larger_is_better(at[name]) < low:
                    return f"Collapsed: {looks} at layer {layer} ({name} {at[name]:.2f})."
        shown = "head" if "head" in layers else layers[-1]
        found = {r.measure: r for r in self.readings if r.layer == shown}
        parts = []
        if "covariance_rank" in found:
            parts.append(
                f"images differ in about {found['covariance_rank'].value:.0f} of "
                f"{self.protocol['widths'][shown]} directions at layer {shown}"
            )
        beside = [r.gained for r in found.values() if r.gained is not None]
        if beside:
            parts.append(
                f"{sum(beside)} of {len(beside)} measures are healthier than with random weights"
            )
        learned = not beside or "separation" not in found or found["separation"].gained
        start = "Not collapsed" if learned else (
            "Little learned: images stand no further apart from patches of one than with random "
            "weights"
        )  # fmt: skip
        return f"{start}: {', and '.join(parts)}." if parts else f"{start}."

    def __repr__(self) -> str:
        return f"<Quality of {self.run} on {self.dataset}: {self.verdict}>"

    def _repr_html_(self) -> str:
        return preformatted(self.table())


def measured(
    embedded: Mapping[Layer, SampleEmbeddings], *, seed: int
) -> dict[tuple[str, Layer], float]:
    """Each measure of the embeddings at each layer.

    Raises:
        DataError: too few images, or embeddings that are not finite.
    """
    found = {}
    for name, measure in MEASURES.items():
        options = {"seed": seed} if measure.of == "turns" else {}
        for layer, values in embedded.items():
            found[name, layer] = measure.function(getattr(values, measure.of), **options)
    return found
