"""Every table and figure of the paper by command, theirs beside ours."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from empssl.errors import FailedRunsError, RunInUseError, StoppedError, UsageError, nearest
from empssl.experiments.folder import Folder
from empssl.experiments.paper.claims import check_claim
from empssl.experiments.paper.cost import PaperForecast
from empssl.experiments.paper.document import DocumentContents, markdown, record
from empssl.experiments.paper.exhibits import EXHIBITS
from empssl.experiments.paper.figures import draw
from empssl.experiments.paper.plan import PaperPlan
from empssl.experiments.paper.results import reproduced_numbers, snapshots
from empssl.experiments.paper.scale import SCALES
from empssl.experiments.paper.scores import Scores, untrained
from empssl.experiments.runner import with_lock
from empssl.progress import say
from empssl.runs.files import replace, writing
from empssl.runs.schema import read_json

__all__ = ["ExhibitListing", "PaperForecast", "Reproduction", "reproduce"]

ALL = "all"


@dataclass(frozen=True)
class ExhibitListing:
    """What can be reproduced: titles by name."""

    titles: Mapping[str, str]

    def to_json(self) -> str:
        return json.dumps(dict(self.titles), indent=1)

    def table(self) -> str:
        width = max(len(name) for name in self.titles)
        return "\n".join(f"{name:{width}}  {title}" for name, title in self.titles.items())


@dataclass(frozen=True)
class Reproduction:
    """What was found: the documents, and how many numbers each has of how many."""

    documents: Mapping[str, Path]
    counts: Mapping[str, tuple[int, int]]

    def to_json(self) -> str:
        return json.dumps(
            {name: {"document": str(path), "numbers": self.counts[name][0],
                    "of": self.counts[name][1]} for name, path in self.documents.items()},
            indent=1,
        )  # fmt: skip

    def table(self) -> str:
        return "\n".join(
            f"{path}: ours beside {self.counts[name][0]} of {self.counts[name][1]} numbers"
            for name, path in self.documents.items()
        )


def reproduce(
    exhibits: Sequence[str] = (),
    *,
    scale: Literal["laptop", "paper"] = "laptop",
    out: str | Path = "reproduced",
    list: bool = False,  # noqa: A002 (what it does)
    dry_run: bool = False,
    seeds: int | None = None,
    data: Mapping[str, str] | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
) -> Reproduction | PaperForecast | ExhibitListing:
    """Make tables and figures of the paper, theirs beside ours.

    A run that several exhibits need is made once: the one of 30 epochs feeds tables 2, 3 and 5 and
    figure 3. Work goes on where it was stopped: what is finished is left alone, and a run that
    failed is tried again and does not stop the others. The documents are written after every run,
    the pictures at the end.

    Args:
        exhibits: table1 to table6, figure3 to figure8, same-protocol, schedules, readings,
            fidelity, or all.
        scale: laptop takes minutes to an hour or two an exhibit on two cores, with a smaller
            network, fewer patches and shorter training; paper is the real thing, on GPUs.
        out: a directory for the documents, the runs and their scores; a scale each.
        list: only say what can be reproduced.
        dry_run: only say what would be done, and what it costs on this machine.
        seeds: of every run; as many as each exhibit asks for by default.
        data: where a data set is that is not found by its name, as YAML: '{tiny-imagenet: PATH}'.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.

    Returns:
        The documents written; with `list` the exhibits, with `dry_run` the runs and their costs.

    Raises:
        UsageError: an unknown exhibit or scale, or another scale than the directory's.
        CellsFailedError: runs failed; the documents have the others.
        RunInUseError: another process is at work on runs that the documents lack.
        StoppedError: Ctrl-C or SIGTERM came; the same command goes on.
    """
    if list:
        return ExhibitListing({name: exhibit.title for name, exhibit in EXHIBITS.items()})
    exhibits = [exhibits] if isinstance(exhibits, str) else exhibits
    for name in exhibits:
        if name not in (*EXHIBITS, ALL):
            raise UsageError(f"no exhibit '{name}': {nearest(name, (*EXHIBITS, ALL))}")
    if not exhibits:
        raise UsageError("name an exhibit, such as table2, or all; --list lists them")
    if scale not in SCALES:
        raise UsageError(f"no scale '{scale}': {nearest(scale, SCALES)}")
    if seeds is not None and seeds < 1:
        raise UsageError(f"seeds is {seeds}, expected 1 or more")
    chosen = {n: e for n, e in EXHIBITS.items() if n in exhibits or ALL in exhibits}
    known = {number.on for exhibit in EXHIBITS.values() for number in exhibit.numbers}
    for name in data or {}:
        if name not in known:
            raise UsageError(f"no data set '{name}' in the paper: {nearest(name, known)}")
    folder, runtime = Folder(out), {"data_dir": data_dir, "download": download, "device": device}
    _check_scale(folder.path, scale)
    plan = PaperPlan.of(
        chosen, SCALES[scale], data=data or {}, seeds=seeds, runtime=runtime, folder=folder
    )
    scores = Scores(folder.path)
    if dry_run:
        return PaperForecast.of(plan, scores, folder, device=device)
    return _carried_out(plan, scores, folder)


def _check_scale(path: Path, scale: str) -> None:
    """See that the documents that are there are of this scale: names do not tell.

    Raises:
        UsageError: they are of another.
    """
    for name in EXHIBITS:
        file = path / f"{name}.json"
        if file.exists() and (found := read_json(file, dict[str, Any])["scale"]) != scale:
            raise UsageError(f"{file} is of the scale {found}; choose another --out for {scale}")


def _carried_out(plan: PaperPlan, scores: Scores, folder: Folder) -> Reproduction:
    """Do all that is left, writing down after every run what there is.

    Raises:
        CellsFailedError, RunInUseError, StoppedError: as `reproduce`.
    """
    runs = plan.runs()
    left = [spec for spec in runs if scores.missing(spec, plan.looks_at(spec))]
    below = untrained(plan, plan.exhibits.values())
    for why, names in plan.reasons().items():
        say(f"not run: {', '.join(names)}: {why}")
    busy, at = [], ""
    try:
        for number, spec in enumerate(left):
            at = spec.name
            say(f"run {number + 1} of {len(left)}, {at}")
            if with_lock(at, folder, partial(scores.complete, spec, plan.looks_at(spec))):
                _write(plan, scores, folder, plan.used_by(spec))
            else:
                busy.append(at)
        for each in below:
            at = each.name
            if not scores.has_begun(each) and each.spec.run and each.spec.run.identity:
                busy += [] if with_lock(at, folder, partial(scores.begin, each)) else [at]
    except (StoppedError, KeyboardInterrupt) as error:
        _write(plan, scores, folder, plan.exhibits)
        code = error.exit_code if isinstance(error, StoppedError) else 130
        raise StoppedError(f"stopped at {at}; the same command goes on", code) from error
    pictures = {name: _drawn(name, plan, scores, folder) for name in plan.exhibits}
    result = _write(plan, scores, folder, plan.exhibits, pictures)
    names = [spec.name for spec in runs] + [each.name for each in below]
    failed = [name for name in names if folder.failure(name)]
    if failed:
        raise FailedRunsError(
            f"{len(failed)} of {len(names)} runs and baselines failed: "
            f"{', '.join(failed)}; the documents in {folder.path} have the others"
        )
    if busy:
        raise RunInUseError(
            f"another process is at work on {', '.join(busy)}; give the command again after it"
        )
    return result


def _drawn(name: str, plan: PaperPlan, scores: Scores, folder: Folder) -> list[str]:
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        found = reproduced_numbers(plan, plan.exhibits[name], scores, folder)
        return draw(name, plan, found, folder.path)


def _write(
    plan: PaperPlan,
    scores: Scores,
    folder: Folder,
    names: Iterable[str],
    pictures: Mapping[str, Sequence[str]] | None = None,
) -> Reproduction:
    """Write these documents as they are now; pictures take seconds, and are drawn at the end."""
    documents, counts = {}, {}
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = reproduced_numbers(plan, plan.exhibits[name], scores, folder)
        documents[name] = folder.path / f"{name}.md"
        counts[name] = sum(bool(reproduced.values) for reproduced in found), len(found)
        shown = (pictures or {}).get(name, ())
        exhibit = plan.exhibits[name]
        claims = [
            check_claim(claim, snapshots(plan, exhibit, claim, scores)) for claim in exhibit.claims
        ]
        below = [row for each in untrained(plan, [exhibit]) for row in scores.begun(each)]
        contents = DocumentContents(found, claims, list(dict.fromkeys(below)))
        replace(documents[name], markdown(name, plan, contents, pictures=shown))
        replace(folder.path / f"{name}.json", record(name, plan, contents))
    return Reproduction(documents, counts)
