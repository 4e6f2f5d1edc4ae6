"""A report: one HTML file about a run that opens offline."""

import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl._version import __version__
from empssl.data.run_images import PLACE, open_run_images
from empssl.device import resolve_device
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.metrics.projections import LOW, CollapseWatch, collapse
from empssl.models import Layer
from empssl.reports.html import render
from empssl.reports.sample import CROPS, Sample
from empssl.reports.sections.accuracy_curves import LOOKS, few_labels, few_patches, written
from empssl.reports.sections.confusion import class_by_class
from empssl.reports.sections.embedding_map import COLORS, embedding_map
from empssl.reports.sections.label_free import measures
from empssl.reports.sections.layers import layer_by_layer
from empssl.reports.sections.neighbors import queries
from empssl.reports.sections.patch_similarity import patch_similarities
from empssl.reports.sections.patches import patched
from empssl.reports.sections.scores import ScoreProtocol, score_protocols, scores
from empssl.reports.sections.spectrum import spectrum, spectrum_over_time
from empssl.reports.sections.training_curves import curves
from empssl.runs.files import replace
from empssl.runs.run import Run
from empssl.runs.schema import read_text


@dataclass(frozen=True)
class Entries:
    """Names and values under a heading."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class BadSampleReason:
    """Why images could not be used: how many, and the first of them."""

    reason: str
    count: int
    example: str
    error: str


def entries(title: str, content: dict[str, Any]) -> list[Entries]:
    """A heading for what is plain, and one for each part that has parts of its own."""
    plain = {key: value for key, value in content.items() if not isinstance(value, dict)}
    parts = {key: value for key, value in content.items() if isinstance(value, dict)}
    found = [Entries(title, [(key, _written(value)) for key, value in plain.items()])]
    return [entry for entry in found if entry.rows] + [
        Entries(key, [(name, _written(value)) for name, value in part.items()])
        for key, part in parts.items()
    ]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def bad_samples(rows: Sequence[dict[str, Any]]) -> list[BadSampleReason]:
    """The reasons why images could not be used, the most frequent first.

    Args:
        rows: lines of bad_samples.jsonl.
    """
    first = {row["reason"]: row for row in reversed(rows)}
    return [
        BadSampleReason(reason, count, first[reason]["name"], first[reason]["error"])
        for reason, count in Counter(row["reason"] for row in rows).most_common()
    ]


__all__ = ["report"]

LAYER: Layer = "head"  # whose neighbors and map are shown
_SHOWS = re.compile(r'<meta name="shows" content="([a-z ]*)">')


def report(
    run: str | Path,
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    images: int = 2000,
    device: str = "auto",
) -> Path:
    """Write report.html into the run directory: one file that opens offline.

    It shows what there is: a run that is not finished, has no weights yet or whose images are gone
    still gets a report, which says what it lacks. One that shows more is never replaced by it.

    Args:
        run: a run directory.
        data: as in `train`; the run's own by default. Say with it where these are if they have
            moved.
        data_dir: where a data set known by name lies; the run's own by default.
        images: how many images, evenly spread, are embedded for neighbors and map.
        device: auto, cpu, cuda or mps.

    Returns:
        The file written.

    Raises:
        CheckpointError: there is no run, or its directory cannot be written to.
        DataError: `data` was given and cannot be opened; or the report would show less than the
            one that is there, which is kept.
        UsageError: no image was asked for, or the device is not to be had.
    """
    if images < 1:
        raise UsageError(f"images is {images}, expected at least 1")
    resolve_device(device)
    source = Run(run)
    config, plan = source.config, source.plan
    encoder, lacking = _encoder(source, device)
    sample: Sample | None = None
    try:
        found = open_run_images(
            source, data=data, data_dir=data_dir,
            side=encoder.image_side if encoder else plan.get("image_side", config["image_side"]),
        )  # fmt: skip
        sample = Sample.read(found, images)
    except DataError as error:
        if data is not None:
            raise
        lacking.append(MissingPart("The images cannot be opened any more", str(error)))
    shows = [name for name, part in (("images", sample), ("weights", encoder)) if part is not None]
    _check_not_poorer(source.report_path, shows, lacking)
    metrics, evaluations = source.metrics(), source.evaluations()
    identity = encoder.identity if encoder else None
    parts = _parts(score_protocols(evaluations, identity))
    html = render(
        version=__version__,
        shows=" ".join(shows),
        run=source.path.resolve().name,
        data_name=Path(config["data"]).name,
        commands=_commands(source, config, parts),
        config=config,
        with_labels=source.needs_labels,
        plan=plan,
        progress=_progress(metrics, plan),
        scores=scores(evaluations, identity),
        parts=parts,
        measures=measures(source.qualities(), identity),
        looks=LOOKS,
        written=written,
        curves=curves(metrics),
        health=_health(metrics),
        spectrum_over_time=spectrum_over_time(metrics),
        lacking=lacking,
        sample=sample,
        as_trained=sample is not None and sample.fingerprint == plan.get("fingerprint"),
        patched=patched(sample, config) if sample else [],
        crops=CROPS,
        colors=COLORS,
        layer=LAYER,
        bad=bad_samples(source.bad_samples()),
        record=[
            *entries("configuration", config),
            # Without where images lie on this machine: a report is passed on.
            *entries("plan", {key: plan[key] for key in plan if key not in PLACE}),
            *entries("environment", source.environment),
            *(
                part
                for e in evaluations
                for part in entries(f"scores, {e['dataset']}", e["protocol"])
            ),
        ],
        **_embedded(sample, encoder),
    )
    replace(source.report_path, html)
    return source.report_path


@dataclass(frozen=True)
class MissingPart:
    """Something that the report could not show: what is missing, and why."""

    what: str
    why: str


def _check_not_poorer(path: Path, shows: list[str], lacking: list[MissingPart]) -> None:
    """Keep a report that shows what a new one would lack.

    Raises:
        DataError: there is one, and images are missing.
        CheckpointError: there is one, and weights are.
    """
    try:
        before = read_text(path)
    except CheckpointError:  # there is none, or something that is no report
        return
    said = _SHOWS.search(before)
    # Older reports do not say what they show.
    shown = said[1].split() if said else ["images"] * ("data:image/" in before)
    if lost := [name for name in shown if name not in shows]:
        why = "; ".join(f"{lack.what[0].lower()}{lack.what[1:]}: {lack.why}" for lack in lacking)
        kind = CheckpointError if "weights" in lost else DataError
        raise kind(
            f"{path} shows the run's {' and '.join(lost)} and is kept, as a new report could not "
            f"({why}). For one without them, remove it first"
        )


def _encoder(run: Run, device: str) -> tuple[Encoder | None, list[MissingPart]]:
    """The run's encoder, or why there is none."""
    try:
        return Encoder.from_pretrained(run.path, device=device), []
    except CheckpointError as error:
        return None, [MissingPart("There are no weights to embed images with", str(error))]


def _embedded(sample: Sample | None, encoder: Encoder | None) -> dict[str, Any]:
    """What it takes both images and weights to show."""
    if sample is None or encoder is None:
        return {"spectrum": None, "agreements": None, "queries": [], "map": None}
    embeddings = sample.embed(encoder)
    return {
        "spectrum": spectrum(embeddings),
        "agreements": patch_similarities(sample, encoder, LAYER),
        "queries": queries(sample, embeddings[LAYER]),
        "map": embedding_map(sample, embeddings[LAYER]),
    }


def _progress(metrics: list[dict[str, Any]], plan: dict[str, Any]) -> dict[str, Any] | None:
    """How far the run has come; None before its first step."""
    if not metrics:
        return None
    steps = metrics[-1]["step"] + 1
    speed = statistics.median(entry["patches_per_second"] for entry in metrics)
    return metrics[-1] | {
        "steps": steps,
        "finished": steps == plan.get("steps"),
        "patches_per_second": speed,
    }


def _health(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The last step's measures of collapse, and the warnings that training gave."""
    watch = CollapseWatch()
    warnings = [text for entry in metrics if (text := watch.update(entry["step"], entry))]
    last = metrics[-1] if metrics else {}
    return {"last": last, "low": LOW, "looks": collapse(last), "warnings": warnings}


# What `evaluate` measures besides scores: where it is shown, in words, and the options for it.
_MORE = {
    "layers": (layer_by_layer, "accuracy layer by layer", "--layers all"),
    "labels": (few_labels, "with few labels", "--few-shot 1 5 10"),
    "bags": (few_patches, "with few patches", "--curve 1 2 4"),
    "classes": (class_by_class, "class by class", "--breakdown"),
}


@dataclass(frozen=True)
class Parts:
    """What evaluations hold besides scores: by section, one item a ground.

    Attributes:
        data: what the first ground was scored on; None if nothing was scored.
    """

    found: dict[str, list[Any]]
    data: str | None

    @property
    def missing(self) -> list[str]:
        """What was not measured yet, in words."""
        return [words for name, (_, words, _) in _MORE.items() if not self.found[name]]

    @property
    def options(self) -> list[str]:
        """Those that measure it."""
        return [option for name, (_, _, option) in _MORE.items() if not self.found[name]]


def _parts(grounds: list[ScoreProtocol]) -> Parts:
    found = {
        name: [part for ground in grounds if (part := of(ground)) is not None]
        for name, (of, _, _) in _MORE.items()
    }
    return Parts(found, grounds[0].data if grounds else None)


def _commands(run: Run, config: dict[str, Any], parts: Parts) -> dict[str, str]:
    """What to type next."""
    path, data = shlex.quote(str(run.path)), shlex.quote(config["data"])
    place = f" --data-dir {shlex.quote(str(config['data_dir']))}" if config["data_dir"] else ""
    scored = config["data"] if parts.data is None else parts.data
    there = place if scored == config["data"] else ""
    return {
        "evaluate": f"empssl evaluate {path} {data}{place}",
        "more": " ".join([f"empssl evaluate {path} {shlex.quote(scored)}{there}", *parts.options]),
        "examine": f"empssl examine {path}",
        "resume": f"empssl train {data} --out {path} --resume",
        "again": f"empssl train --config {path}/config.yaml",
    }
