"""Maps of a comparison: the same images as each run's network lays them out, turned alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from empssl.data import Decoding, open_images
from empssl.errors import EmpsslError
from empssl.evaluation.encoder import Encoder
from empssl.experiments.folder import KeptMap
from empssl.experiments.results import Comparison
from empssl.experiments.run_spec import RunSpec
from empssl.experiments.table import TableRow
from empssl.models import Layer
from empssl.reports.sample import CROPS, Sample
from empssl.reports.sections.embedding_map import (
    Group,
    Projection2D,
    groups,
    procrustes,
    project_2d,
)

WIDTH = 1000.0  # of the drawing of each map
TEXT = 46.0  # size of the names of classes in it
LAYER: Layer = "head"
IMAGES = 600
_MARGIN = 40.0


@dataclass(frozen=True)
class RunMap:
    """The images as one run's network lays them out.

    Attributes:
        row: of the table.
        seed: of the run, the first of its row that is finished.
        groups: dots by class.
    """

    row: TableRow
    seed: int
    groups: Sequence[Group]


@dataclass(frozen=True)
class Maps:
    """A map for each row of the table.

    Attributes:
        panels: all in the same unit, turned and mirrored to match the first.
        images: how many are on each.
        classes: whether dots have the color of their class.
        method: how they were made, in words.
        width, height: of every drawing.
        lacking: what has no map, and why, in sentences.
    """

    panels: Sequence[RunMap] = ()
    images: int = 0
    classes: bool = False
    method: str = ""
    width: float = WIDTH
    height: float = WIDTH
    lacking: Sequence[str] = ()


def maps(comparison: Comparison) -> Maps:
    """Maps of the test images for all rows that have a finished run.

    What cannot be drawn is listed, and is no reason to have no page. Finished maps are kept in the
    comparison's folder, so that a grid that grows makes only new ones.
    """
    by_name = {status.spec.name: status.spec for status in comparison.statuses}
    chosen = [(row, by_name[row.specs[0]]) for row in comparison.rows.rows if row.specs]
    if not chosen:
        return Maps()
    gallery = _Gallery(comparison, chosen[0][1])
    found: list[tuple[TableRow, RunSpec, Projection2D]] = []
    lacking = []
    for row, spec in chosen:
        try:
            made = gallery.projection(spec)
        except EmpsslError as error:
            lacking.append(f"{spec.name} has no map: {error}.")
            continue
        if made is None:
            lacking.append(
                f"{spec.name} has no map: it takes at least three images whose embeddings differ."
            )
        else:
            found.append((row, spec, made))
    if not found:
        return Maps(lacking=lacking)
    sample = gallery.sample
    points, height = _matched([made.points for _, _, made in found])
    panels = [
        RunMap(row, spec.seed, groups(sample, own, WIDTH, TEXT))
        for (row, spec, _), own in zip(found, points, strict=True)
    ]
    first = found[0][2]
    method = (
        f"{first.reading} Each was made on its own by {first.how}; then it was turned and "
        "mirrored, without scaling, to match the first (Procrustes). Axes have one unit in all. "
        f"Embeddings are those of the {LAYER} layer and {CROPS} crops."
    )
    return Maps(
        panels, len(sample), sample.labels is not None, method, height=height, lacking=lacking
    )


class _Gallery:
    """The images of all maps, read when the first is asked for, and the maps that are kept."""

    def __init__(self, comparison: Comparison, spec: RunSpec) -> None:
        self.comparison, self.spec = comparison, spec

    @cached_property
    def sample(self) -> Sample:
        """Test images: no network was trained on them where there is a split of their own.

        Raises:
            DataError: they cannot be opened or read.
        """
        runtime, run = self.spec.runtime, self.spec.run
        assert run is not None
        images = open_images(
            self.comparison.protocol.data, split="test", data_dir=runtime.get("data_dir"),
            side=run.plan["image_side"], decoding=Decoding.recorded(run.plan.get("decoding", {})),
        )  # fmt: skip
        return Sample.read(images, IMAGES)

    def projection(self, spec: RunSpec) -> Projection2D | None:
        """Where a run's network lays the images; as it was kept, or made and kept.

        Raises:
            DataError: the images cannot be read.
            CheckpointError: the run's weights cannot.
        """
        run, folder = spec.run, self.comparison.folder
        assert run is not None
        of = {"model": run.identity, "images": self.sample.fingerprint, "count": IMAGES,
              "layer": LAYER, "crops": CROPS}  # fmt: skip
        kept = folder.kept_map(spec.name)
        if kept is not None and kept["of"] == of and len(kept["points"]) == len(self.sample):
            return Projection2D(np.array(kept["points"]), kept["how"], kept["reading"])
        encoder = Encoder.from_pretrained(run.path, device=spec.runtime.get("device", "auto"))
        made = project_2d(self.sample.embed(encoder)[LAYER])
        if made is None:
            return None
        made = replace(made, points=made.points.round(3))  # as it will be read again
        folder.keep_map(
            spec.name,
            KeptMap(of=of, points=made.points.tolist(), how=made.how, reading=made.reading),
        )
        return made


def _matched(points: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """All turned to match the first, in the drawing's unit, with one scale; and its height."""
    turned = [procrustes(own, points[0]) for own in points]
    low = np.min([own.min(0) for own in turned], axis=0)
    high = np.max([own.max(0) for own in turned], axis=0)
    scale = (WIDTH - 2 * _MARGIN) / (high - low)[0]
    height = float(np.ceil((high - low)[1] * scale + 2 * _MARGIN))
    return [(own - low) * scale + _MARGIN for own in turned], height
