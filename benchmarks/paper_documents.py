"""The documents of docs/results/paper, written again from their JSON by the rules of today.

    python benchmarks/paper_documents.py

No run is needed: what was measured stays as it was, and tables, claims and PFLOP are made anew.
Curves are drawn again; maps are not, since their planes are not in the JSON.
`tests/test_results.py` fails when the documents say anything else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empssl.data.base import ImageBatch, ImageSet
from empssl.errors import DataError
from empssl.experiments.folder import Folder
from empssl.experiments.paper.base import Claim, Exhibit, Experiment
from empssl.experiments.paper.claims import ClaimResult, Seen, Snapshot, check_claim
from empssl.experiments.paper.document import DocumentContents, markdown, record
from empssl.experiments.paper.exhibits import EXHIBITS
from empssl.experiments.paper.figures import draw
from empssl.experiments.paper.plan import PaperPlan
from empssl.experiments.paper.results import CurvePoint, ReproducedNumber
from empssl.experiments.paper.scale import SCALES
from empssl.experiments.paper.scores import Baseline

PAPER = Path(__file__).resolve().parent.parent / "docs" / "results" / "paper"
SIDES = {"cifar10": 32, "cifar100": 32, "tiny-imagenet": 64, "imagenet100": 224}


class Counted(ImageSet):
    """A data set of which only the number of images and their side are known."""

    def __init__(self, name: str, split: str, count: int, side: int) -> None:
        self.name, self.split, self.side, self.count = name, split, side, count
        self.labels, self.class_names, self.fingerprint = None, (), ""

    def __len__(self) -> int:
        return self.count

    def sample_name(self, index: int) -> str:
        return str(index)

    def read(self, indices: Sequence[int]) -> ImageBatch:
        raise NotImplementedError


def documents(folder: Path = PAPER) -> dict[str, str]:
    """The text of every document and of its JSON, by the file's name."""
    found: dict[str, str] = {}
    for name, (plan, contents) in _exhibits(folder).items():
        pictures = [file for file in (f"{name}.png",) if (folder / file).is_file()]
        found[f"{name}.md"] = markdown(name, plan, contents, pictures=pictures)
        found[f"{name}.json"] = record(name, plan, contents)
    return found


def _exhibits(folder: Path) -> dict[str, tuple[PaperPlan, DocumentContents]]:
    """All that there are; those of the same data share a plan, which takes seconds to make."""
    files = (folder / f"{name}.json" for name in EXHIBITS)
    every = {file.stem: json.loads(file.read_text()) for file in files if file.is_file()}
    alike: dict[str, dict[str, Any]] = {}
    for name, content in every.items():
        key = json.dumps([content["scale"], content["data"]])
        alike.setdefault(key, {})[name] = content
    plans = {name: plan for group in alike.values() for plan in [_plan(group)] for name in group}
    return {
        name: (plans[name], _read(plans[name], EXHIBITS[name], content))
        for name, content in every.items()
    }


def _plan(contents: Mapping[str, Mapping[str, Any]]) -> PaperPlan:
    """As it was when the runs were made, by the number of images of each data set."""
    data, scale = next((content["data"], content["scale"]) for content in contents.values())
    sizes = {on: size for content in contents.values() for on, size in content["images"].items()}

    def read(on: str, *, split: str, side: int | None, **_: Any) -> ImageSet:
        theirs = next((known for known, ours in data.items() if ours == on), on)
        if theirs not in sizes:
            raise DataError(f"{theirs} was not there")
        count = sizes[theirs][split == "test"]
        return Counted(on, split, count, side or SIDES[theirs])

    runtime = {"data_dir": None, "download": False, "device": "cpu"}
    return PaperPlan.of(
        {name: EXHIBITS[name] for name in contents}, SCALES[scale], data=data, seeds=None,
        runtime=runtime, folder=Folder(PAPER / "nowhere"), read=read,
    )  # fmt: skip


def _read(plan: PaperPlan, exhibit: Exhibit, content: Mapping[str, Any]) -> DocumentContents:
    """What was measured, as the plan has it now."""
    entries = content["numbers"]
    if len(entries) != len(exhibit.numbers):
        raise ValueError(f"{content['exhibit']} has {len(entries)} numbers on disk, another here")
    found = [_finding(plan, exhibit, at, entry) for at, entry in enumerate(entries)]
    recorded = {claim["words"]: claim for claim in content["claims"]}
    claims = [_claim(plan, exhibit, claim, recorded.get(claim.words, {}), found)
              for claim in exhibit.claims]  # fmt: skip
    below = [
        Baseline(row["scored_on"], row["probe"], row["layer"], row["crops"], row["train_size"],
                 row["random_weights"], row["whitened_patches"]) for row in content["untrained"]
    ]  # fmt: skip
    return DocumentContents(found, claims, below)


def _finding(
    plan: PaperPlan, exhibit: Exhibit, at: int, entry: Mapping[str, Any]
) -> ReproducedNumber:
    number, ours = exhibit.numbers[at], entry["ours"]
    asked = (number.experiment.data, number.on, number.what, number.experiment.method)
    if asked != (entry["trained_on"], entry["scored_on"], entry["what"],
                 entry["experiment"]["method"]):  # fmt: skip
        raise ValueError(f"number {at} is of {asked} here, and of another run on disk")
    cells = plan.wanted(exhibit, number)
    curves = tuple(
        tuple(
            CurvePoint(**(point | {"pflop": plan.pflop(cells[0], point["epoch"])})) for point in run
        )
        for run in ours["curves"]
    )
    return ReproducedNumber(
        number, ours["state"], plan.why_not(number) or ours["why"], tuple(ours["values"]),
        ours["unreached"], curves, (), tuple(ours["seeds"]), tuple(ours["runs"]),
    )  # fmt: skip


def _claim(
    plan: PaperPlan,
    exhibit: Exhibit,
    claim: Claim,
    recorded: Mapping[str, Any],
    found: Sequence[ReproducedNumber],
) -> ClaimResult:
    """By what was measured for it; before claims had looks of their own, by the numbers' points."""
    seen: dict[Experiment, dict[int, list[Snapshot]]] = {}
    if "measured" in recorded:
        for entry in recorded["measured"]:
            experiment = Experiment(**entry["experiment"])
            [cell, *_] = plan.runs_of(exhibit, experiment)
            seen.setdefault(experiment, {})[entry["seed"]] = [
                Snapshot(**(each | {"pflop": plan.pflop(cell, each["epoch"])}))
                for each in entry["snapshots"]
            ]
        return check_claim(claim, seen)
    return check_claim(claim, _of_numbers(claim, found))


def _of_numbers(claim: Claim, found: Sequence[ReproducedNumber]) -> Seen:
    """Each method by its own crops only: of EMP-SSL the bag, of a rival the whole image."""
    points: dict[Experiment, dict[int, dict[float, Snapshot]]] = {}
    for finding in found:
        number = finding.number
        if number.on != claim.data or number.what not in ("accuracy", "curve"):
            continue
        own = "bag" if number.experiment.ours else "whole"
        for seed, run in zip(finding.seeds, finding.curves, strict=True):
            known = points.setdefault(number.experiment, {}).setdefault(seed, {})
            known |= {p.epoch: Snapshot(p.epoch, p.pflop, p.end, {own: p.layers}) for p in run}
    wanted = claim.experiments
    return {
        experiment: {seed: [run[epoch] for epoch in sorted(run)] for seed, run in runs.items()}
        for experiment, runs in points.items() if experiment in wanted
    }  # fmt: skip


def main() -> None:
    for file, text in documents().items():
        (PAPER / file).write_text(text)
    for name, (plan, contents) in _exhibits(PAPER).items():
        if EXHIBITS[name].plot == "convergence":
            draw(name, plan, contents.found, PAPER)
            (PAPER / f"{name}.svg").unlink()


if __name__ == "__main__":
    main()
