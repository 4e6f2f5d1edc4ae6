"""A report: one HTML file about a run that opens offline, in the order of a person's questions."""

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from torch import nn

from empssl._version import __version__
from empssl.commands import command, keywords, objects_of
from empssl.data import ImagesLike
from empssl.data.open import is_name
from empssl.data.run_images import PLACE, open_run_images
from empssl.device import resolve_device
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.metrics.projections import LOW, CollapseWatch, collapse
from empssl.metrics.verdict import Verdict, percent, verdict
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
from empssl.reports.sections.record import READABLE, Entries, entries
from empssl.reports.sections.scores import ScoreProtocol, score_protocols, scores
from empssl.reports.sections.spectrum import spectrum, spectrum_over_time
from empssl.reports.sections.training_curves import curves
from empssl.reports.sections.verdict import did_it_work
from empssl.runs.files import replace
from empssl.runs.run import Run
from empssl.runs.schema import read_text

__all__ = ["report"]

LAYER: Layer = "head"  # whose neighbors and map are shown
_SHOWS = re.compile(r'<meta name="shows" content="([a-z ]*)">')
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
# What `evaluate` measures besides scores: where it is shown, in words, and the options for it.
_MORE: dict[str, tuple[Callable[[ScoreProtocol], Any], str, dict[str, Any]]] = {
    "layers": (layer_by_layer, "accuracy layer by layer", {"layers": ["all"]}),
    "labels": (few_labels, "with few labels", {"few_shot": [1, 5, 10]}),
    "bags": (few_patches, "with few patches", {"curve": [1, 2, 4]}),
    "classes": (class_by_class, "class by class", {"breakdown": True}),
}


@dataclass(frozen=True)
class MissingPart:
    """Something that the report could not show: what is missing, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class BadSampleReason:
    """Why images could not be used: how many, and the first of them."""

    reason: str
    count: int
    example: str
    error: str


@dataclass(frozen=True)
class Parts:
    """What evaluations hold besides scores: by section, one item a protocol.

    Attributes:
        data: what the first protocol was scored on; None if nothing was scored.
        test_data: what it was tested on, where those are other data.
    """

    found: dict[str, list[Any]]
    data: str | None
    test_data: str | None

    @property
    def missing(self) -> list[str]:
        """What was not measured yet, in words."""
        return [words for name, (_, words, _) in _MORE.items() if not self.found[name]]

    @property
    def options(self) -> list[dict[str, Any]]:
        """Those that measure it, with their values."""
        return [option for name, (_, _, option) in _MORE.items() if not self.found[name]]


def report(
    run: str | Path,
    *,
    data: ImagesLike | None = None,
    data_dir: str | Path | None = None,
    backbone: nn.Module | None = None,
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
        backbone: a module made as the one given to `train`, for a run of such a one; a copy of it
            gets the run's weights.
        images: how many images, evenly spread, are embedded for neighbors and map.
        device: auto, cpu, cuda or mps.

    Returns:
        The file written.

    Raises:
        CheckpointError: there is no run, or its directory cannot be written to.
        DataError: `data` was given and cannot be opened; or the report would show less than the
            one that is there, which is kept.
        UsageError: no image was asked for, the device is not to be had, or the run needs a
            backbone.
    """
    if images < 1:
        raise UsageError(f"images is {images}, expected at least 1")
    resolve_device(device)
    source = Run(run)
    config, plan = source.config, source.plan
    encoder, lacking = _encoder(source, backbone, device)
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
    parts, tables = _parts(score_protocols(evaluations, identity)), scores(evaluations, identity)
    page = source.path.resolve()
    embedded = _embedded(sample, encoder, page)
    judged = _judgment(source, config, metrics, plan)
    html = render(
        version=__version__,
        shows=" ".join(shows),
        written_on=day(datetime.now()),
        trained_on=_last_step(source) if metrics else None,
        run=page.name,
        data_name=Path(config["data"]).name,
        verdict=judged,
        answer=judged and did_it_work(judged, tables, with_map=bool(embedded["queries"])),
        labels=label_kind(source, sample, evaluations),
        commands=_commands(source, config, parts),
        config=config,
        with_labels=source.needs_labels,
        plan=plan,
        progress=_progress(metrics, plan),
        scores=tables,
        parts=parts,
        measures=measures(source.qualities(), identity),
        looks=LOOKS,
        written=written,
        curves=curves(metrics),
        collapse=_collapse(metrics),
        spectrum_over_time=spectrum_over_time(metrics),
        lacking=lacking,
        sample=sample,
        as_trained=sample is not None and sample.fingerprint == plan.get("fingerprint"),
        patched=patched(sample, config) if sample else [],
        crops=CROPS,
        colors=COLORS,
        percent=percent,
        layer=LAYER,
        bad=bad_samples(source.bad_samples()),
        record=_record(source, config, plan, metrics, evaluations),
        **embedded,
    )
    replace(source.report_path, html)
    return source.report_path


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


def _encoder(
    run: Run, backbone: nn.Module | None, device: str
) -> tuple[Encoder | None, list[MissingPart]]:
    """The run's encoder, or why there is none."""
    try:
        return Encoder.from_pretrained(run.path, backbone=deepcopy(backbone), device=device), []
    except CheckpointError as error:
        return None, [MissingPart("There are no weights to embed images with", str(error))]


def _embedded(sample: Sample | None, encoder: Encoder | None, page: Path) -> dict[str, Any]:
    """What it takes both images and weights to show."""
    if sample is None or encoder is None:
        return {"spectrum": None, "similarities": None, "queries": [], "map": None}
    embeddings = sample.embed(encoder)
    return {
        "spectrum": spectrum(embeddings),
        "similarities": patch_similarities(sample, encoder, LAYER),
        "queries": queries(sample, embeddings[LAYER], page),
        "map": embedding_map(sample, embeddings[LAYER], page),
    }


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


def day(when: datetime) -> str:
    """A date as people write it, in any language's settings.

    >>> day(datetime(2025, 3, 9, 14, 5))
    '9 March 2025'
    """
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}"


def _last_step(run: Run) -> str:
    """The day on which metrics were last written: runs hold no other date."""
    return day(datetime.fromtimestamp(run.metrics_path.stat().st_mtime))


def _judgment(
    run: Run, config: dict[str, Any], metrics: list[dict[str, Any]], plan: dict[str, Any]
) -> Verdict | None:
    """Whether training worked; None before its first step."""
    if not metrics or not {"steps_per_epoch", "usable_samples"} <= plan.keys():
        return None
    return verdict(metrics[-1], plan, config["batch"])


def label_kind(
    run: Run, sample: Sample | None, evaluations: Sequence[dict[str, Any]]
) -> Literal["class", "folder", "label", "none"]:
    """What the labels of a sample are taken for.

    They are classes, by which neighbors are right or wrong, in a data set known by name, where they
    took part in training, and where somebody had them scored. Else a folder is a place, such as a
    year, and other labels may be anything.
    """
    if sample is None or sample.labels is None:
        return "none"
    scored = {evaluation["dataset"] for evaluation in evaluations}
    scored |= {evaluation.get("protocol", {}).get("test_data") for evaluation in evaluations}
    if is_name(sample.dataset) or run.needs_labels or sample.dataset in scored:
        return "class"
    return "folder" if sample.folders else "label"


def _record(
    run: Run,
    config: dict[str, Any],
    plan: dict[str, Any],
    metrics: list[dict[str, Any]],
    evaluations: Sequence[dict[str, Any]],
) -> list[Entries]:
    """All settings, and what became of them, in words."""
    # Without where images lie on this machine: a report is passed on.
    shown = {key: plan[key] for key in plan if key not in PLACE}
    if "replanned" in shown:
        shown["replanned"] = len(shown["replanned"]) - 1
    reached: dict[str, Any] = {}
    if metrics:
        last = metrics[-1]
        speeds = [line["patches_per_second"] for line in metrics if "patches_per_second" in line]
        found = {
            "date of the last step": _last_step(run),
            "steps": last["step"] + 1,
            "passes over the images": last.get("epoch"),
            "patches_seen": last.get("patches"),
            "pflop": last.get("pflop"),
            "seconds of training": last.get("seconds"),
            "patches_per_second": statistics.median(speeds) if speeds else None,
        }
        reached = {name: value for name, value in found.items() if value is not None}
    return [
        *entries("Training", reached, READABLE),
        *entries("Plan", shown, READABLE),
        *entries("Settings", config, READABLE),
        *entries("Environment", run.environment, READABLE),
        *(
            part
            for e in evaluations
            for part in entries(f"Scores, {e['dataset']}", e["protocol"], READABLE)
        ),
    ]


def _progress(metrics: list[dict[str, Any]], plan: dict[str, Any]) -> dict[str, Any] | None:
    """How far the run has come; None before its first step."""
    if not metrics:
        return None
    steps = metrics[-1]["step"] + 1
    return metrics[-1] | {"steps": steps, "finished": steps == plan.get("steps")}


def _collapse(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The last step's measures of collapse, and the warnings that training gave."""
    watch = CollapseWatch()
    warnings = [text for entry in metrics if (text := watch.update(entry["step"], entry))]
    last = metrics[-1] if metrics else {}
    return {"last": last, "low": LOW, "looks": collapse(last), "warnings": warnings}


def _parts(protocols: list[ScoreProtocol]) -> Parts:
    found = {
        name: [part for protocol in protocols if (part := of(protocol)) is not None]
        for name, (of, _, _) in _MORE.items()
    }
    if not protocols:
        return Parts(found, None, None)
    return Parts(found, protocols[0].data, protocols[0].test_data)


def _commands(run: Run, config: dict[str, Any], parts: Parts) -> dict[str, str]:
    """What to type next, where the run was started; images are called as they were then."""
    path, objects = str(run.path), objects_of(config)
    own = {"data": objects.get("data", config["data"])}
    place, needed = {"data_dir": config["data_dir"]}, {"backbone": objects.get("backbone")}
    scored, scored_in = own, place
    if parts.data not in (None, config["data"]):
        scored, scored_in = {"data": parts.data} | objects_of({"data": parts.data}), {}
    if parts.test_data is not None:
        scored_in = {"test_data": parts.test_data} | scored_in | objects_of(
            {"test_data": parts.test_data}
        )  # fmt: skip
    options = dict(item for each in parts.options for item in each.items())
    return {
        "evaluate": command("evaluate", {"run": path} | own, place | needed),
        "more": command("evaluate", {"run": path} | scored, scored_in | options | needed),
        "examine": command("examine", {"run": path}, {"data": objects.get("data")} | needed),
        "resume": command("train", own, {"out": path, "resume": True} | place | objects),
        "again": _again(path, own, objects),
    }


def _again(path: str, own: dict[str, Any], objects: dict[str, Any]) -> str:
    """How to make a run of the same settings."""
    file, out = f"{path}/config.yaml", f"{path}-again"
    if not objects:
        return command("train", own, {"config": file, "out": out})
    changed = keywords({"out": out} | own | objects)
    return f"empssl.train(**yaml.safe_load(Path({json.dumps(file)}).read_text()) | dict({changed}))"
