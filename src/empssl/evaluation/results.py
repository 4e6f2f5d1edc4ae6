"""What an evaluation found: scores, and all that each depends on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from empssl.data import BadSample
from empssl.errors import CheckpointError
from empssl.evaluation.few_shot import FewShot
from empssl.metrics.classification import Calibration, Predictions
from empssl.progress import preformatted, visible
from empssl.runs.files import short_hash

_LAYERS = ("joint", "head", "backbone", "stage3", "stage2", "stage1", "stem", "projection")
_PROBES = ("linear", "ridge", "linear_sgd", "knn_whitened", "knn")
_UNEVEN = 0.005  # points between accuracy and balanced accuracy that two decimals show
_Row = TypeVar("_Row", "Result", FewShot, "AccuracyCurve")
_HEAD = f"{'model':18} {'probe':12} {'layer':10} {'crops':10}"


def is_whitened(model: str) -> bool:
    """Whether a score is of whitened patches of some kind, without a network.

    >>> [is_whitened(model) for model in ("whitened-patches", "whitened-mirrored", "random-0")]
    [True, True, False]
    """
    return model.startswith("whitened-")


@dataclass(frozen=True)
class SplitSummary:
    """Counts of a split, so that listed = used + unlabeled + not_drawn + len(bad).

    Attributes:
        listed: images that the data set has.
        used: images that probes learned from, or were scored on.
        unlabeled: images without a label.
        not_drawn: images that `train_size` left out.
        bad: images that could not be read.
        near_constant: used, though there is next to nothing to see.
        in_train: used in test, though the same picture is in train.
        part: the folders or files that hold them, where the data themselves are divided.
        trained_on: used, and among the images that the encoder was trained on; None where the run
            does not say which those were.
        near_trained_on: used, and nearly equal to one of those, or equal; None where that was not
            asked for, or the run does not say.
    """

    listed: int
    used: int
    unlabeled: int = 0
    not_drawn: int = 0
    near_constant: int = 0
    in_train: int = 0
    part: str = ""
    trained_on: int | None = None
    near_trained_on: int | None = None
    bad: list[BadSample] = field(default_factory=list)

    def remarks(self, split: str) -> list[str]:
        """A line for each thing that a reader of the scores should know."""
        found = {
            f"cannot be used, such as {self._example}": len(self.bad),
            "are without a label": self.unlabeled,
            "are nearly of one color": self.near_constant,
            "are in train too": self.in_train,
        }
        return [f"{n} of {self.listed} {split} images {what}" for what, n in found.items() if n]

    @property
    def _example(self) -> str:
        # As Python writes it: a name may hold what cannot be printed.
        return f"{self.bad[0].name!r} ({self.bad[0].reason})" if self.bad else ""


@dataclass(frozen=True)
class Breakdown:
    """A score, class by class.

    Attributes:
        classes: their names, in the order of what follows.
        per_class: percent of the test images of each; None where test has none.
        confusion: images of the class of the row that were put in that of the column.
        calibration: of the probe's probabilities; None if it gives none.
    """

    classes: list[str]
    per_class: list[float | None]
    confusion: list[list[int]]
    calibration: Calibration | None

    @classmethod
    def of(cls, predictions: Predictions, classes: Sequence[str]) -> "Breakdown":
        sure = predictions.probabilities
        calibration = None if sure is None else Calibration.of(sure, predictions.truth)
        return cls(list(classes), predictions.per_class, predictions.confusion, calibration)

    def lines(self) -> list[str]:
        """A line for each class: how many are right, and what the others are taken for."""
        names = list(map(visible, self.classes))  # of folders, which hold all kinds of characters
        width = max(map(len, names))
        found = []
        for at, row in enumerate(self.confusion):
            accuracy = self.per_class[at]
            if accuracy is None:
                continue
            wrong = sorted(
                (i for i in range(len(row)) if i != at and row[i]), key=lambda i: -row[i]
            )
            taken = ", ".join(f"{names[i]} {row[i]}" for i in wrong[:3])
            found.append(
                f"  {names[at]:{width}} {accuracy:6.2f}% of {sum(row)}"
                + (f", the others for {taken}" if taken else "")
            )
        return found


@dataclass(frozen=True)
class Result:
    """One score, with all that it depends on.

    Attributes:
        probe: `linear` (L-BFGS, strength chosen on a part of train), `linear_sgd` (the authors'
            protocol), `ridge`, `knn_whitened` or `knn`.
        layer: where the embedding was taken.
        crops: which patches were averaged.
        accuracy: percent of the test images.
        balanced_accuracy: mean over the classes of the percent of each.
        model: SHA-256 of the weights, `random-SEED`, or the kind of whitened patches:
            `whitened-mirrored`, or `whitened-patches`, which were the only ones at first.
        details: what the probe chose and recorded.
        breakdown: class by class, if that was asked for.
    """

    probe: str
    layer: str
    crops: str
    accuracy: float
    balanced_accuracy: float
    train_size: int
    test_size: int
    seed: int | None
    model: str
    details: dict[str, Any] = field(default_factory=dict)
    breakdown: Breakdown | None = None


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy against the number of patches of a test image.

    The probe is the same at every point: learned from whole bags of the train images.

    Attributes:
        patches: averaged for a test image, in a random order of its own; the last are all.
        accuracies: percent of the test images.
    """

    probe: str
    layer: str
    crops: str
    model: str
    train_size: int
    test_size: int
    seed: int
    patches: list[int]
    accuracies: list[float]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """All scores of a run on one data set.

    Attributes:
        dataset: what was scored on.
        run: which run.
        protocol: what holds for every row.
        asked: which rows were asked for.
        results: of the run's network.
        baselines: of the same network with random weights, and of whitened patches, which need no
            training, by the same probes.
        few_shot: of the network and of the baselines, from a few labels.
        curves: of the network and of the one with random weights, against test patches.
        images: by split, what became of its images.
        trained_with_labels: whether the encoder's objective learns from labels.
        trained_split: of its data, what it was trained on.
        unkept: why the run's directory does not have it; empty if it has.
    """

    dataset: str
    run: str
    protocol: dict[str, Any]
    asked: dict[str, Any]
    results: list[Result]
    baselines: list[Result]
    few_shot: list[FewShot] = field(default_factory=list)
    curves: list[AccuracyCurve] = field(default_factory=list)
    images: dict[str, SplitSummary] = field(default_factory=dict)
    trained_with_labels: bool = False
    trained_split: str = ""
    unkept: str = ""

    @property
    def exit_code(self) -> int:
        """4 where it could not be written to the run's directory, else 0."""
        return CheckpointError.exit_code if self.unkept else 0

    @property
    def name(self) -> str:
        """Unlike that of an evaluation of other data, with another protocol or other questions."""
        unlike = short_hash([self.dataset, self.protocol, self.asked])
        return f"{Path(self.dataset).name}-{unlike}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def __repr__(self) -> str:
        scores = ", ".join(f"{r.probe} {r.layer} {r.accuracy:.2f}%" for r in self.results)
        return f"<Evaluation of {self.run} on {self.dataset}: {scores}>"

    def _repr_html_(self) -> str:
        return preformatted(self.table())

    def table(self) -> str:
        """A line for each score, for a person: all of one probe together.

        The gain of a score of the run is its distance to the best baseline by the same probe.
        """
        rows = self._by_probe([*self.results, *self.baselines])
        uneven = any(abs(row.accuracy - row.balanced_accuracy) > _UNEVEN for row in rows)
        lines = [
            _HEAD + f" {'accuracy':>9}" + (f" {'balanced':>9}" if uneven else "")
            + (f" {'gain':>6}" if self.baselines else "")
        ]  # fmt: skip
        for row in rows:
            balanced = f" {row.balanced_accuracy:8.2f}%" if uneven else ""
            lines.append(self._start(row) + f" {row.accuracy:8.2f}%" + balanced + self._gain(row))
        if self.baselines:
            lines.append("gain: points over the best baseline by the same probe")
        lines += [*self._few_shot(), *self._curves(), *self._breakdowns()]
        first = self.results[0]
        train, test = self._size("train", first.train_size), self._size("test", first.test_size)
        sizes = f"{self.dataset}: {train}, {test} images"
        if test_data := self.protocol.get("test_data"):
            sizes = f"{self.dataset}: {train} images, {test_data}: {test} images"
        lines.append(f"{sizes}, frozen encoder, eval mode")
        remarks = (
            line for split, summary in self.images.items() for line in summary.remarks(split)
        )
        unkept = [f"not kept: {self.unkept}"] if self.unkept else []
        return "\n".join([*lines, *remarks, *self._trained_on(), *unkept])

    def _size(self, split: str, count: int) -> str:
        summary = self.images.get(split)
        where = f" ({visible(summary.part)})" if summary is not None and summary.part else ""
        return f"{count} {split}{where}"

    def _trained_on(self) -> list[str]:
        """What of the images, and of their labels, the encoder had seen before."""
        test, labels = self.images.get("test"), self.trained_with_labels
        transfer, lines = self.protocol.get("transfer"), []
        if labels:
            lines.append("the encoder was trained with labels: its objective learns from them")
        if transfer:
            lines.append(f"a transfer: the encoder was trained on {self.protocol['trained_on']}")
        whose = f"{'with' if labels else 'without'} their labels"
        if test is None or test.trained_on is None:
            if self.protocol.get("saw_test"):
                lines.append(f"the encoder was trained on the test images too, {whose}")
            if test is not None:
                lines.append(
                    "how many of the test images the encoder was trained on cannot be told: its "
                    "run does not say which images it learned from"
                )
            return lines
        if test.near_trained_on is not None:
            lines.append(
                f"{test.near_trained_on} of {test.used} test images are near copies of images that "
                "the encoder was trained on"
            )
        if test.trained_on:
            divided = "test_data" not in self.protocol
            advice = "; train with --split train to leave them out"
            lines.append(
                f"the encoder was trained on {test.trained_on} of {test.used} test images too, "
                f"{whose}{advice if divided and self.trained_split == 'all' else ''}"
            )
        elif not transfer:
            lines.append(f"the encoder was trained on 0 of {test.used} test images")
        return lines

    def _by_probe(self, rows: Iterable[_Row]) -> list[_Row]:
        """Probe by probe: each score of the run before random weights', whitened patches last."""
        probes = list(dict.fromkeys(row.probe for row in [*self.results, *self.baselines]))
        asked = [(row.probe, row.crops, row.layer) for row in self.results]

        def place(row: _Row) -> tuple[int, int]:
            key = (row.probe, row.crops, row.layer)
            return probes.index(row.probe), asked.index(key) if key in asked else len(asked)

        return sorted(rows, key=place)

    def _gain(self, row: Result) -> str:
        """How far a score of the run is above the best baseline by its probe."""
        beside = [base.accuracy for base in self.baselines if base.probe == row.probe]
        if row not in self.results or not beside:
            return ""
        return f" {row.accuracy - max(beside):+6.2f}"

    def _start(self, row: Result | FewShot | AccuracyCurve) -> str:
        own = row.model == self.results[0].model
        model = self.run if own else row.model
        return f"{model[-18:]:18} {row.probe:12} {row.layer:10} {row.crops:10}"

    def _few_shot(self) -> list[str]:
        if not self.few_shot:
            return []
        counts = list(dict.fromkeys(row.shots for row in self.few_shot))
        found: dict[str, list[str]] = {}
        for row in self._by_probe(self.few_shot):
            found.setdefault(self._start(row), []).append(
                f" {row.mean:5.2f}+-{row.deviation:5.2f}%"
            )
        draws = len(self.few_shot[0].accuracies)
        return [
            "",
            f"labels of each class: accuracy, mean and standard deviation over {draws} draws",
            _HEAD + "".join(f" {count:>13}" for count in counts),
            *(start + "".join(cells) for start, cells in found.items()),
            "",
        ]

    def _curves(self) -> list[str]:
        if not self.curves:
            return []
        lines = ["", "accuracy with so many patches of a test image; all, in the probe's learning"]
        for row in self._by_probe(self.curves):
            points = zip(row.patches, row.accuracies, strict=True)
            lines.append(self._start(row) + " " + ", ".join(f"{n}: {a:.2f}%" for n, a in points))
        return [*lines, ""]

    def _breakdowns(self) -> list[str]:
        broken = [row for row in self.results if row.breakdown is not None]
        if not broken:
            return []
        lines = []
        for row in broken:
            calibration = row.breakdown.calibration if row.breakdown else None
            if calibration is not None:
                lines.append(
                    self._start(row)
                    + f" expected calibration error {calibration.expected_error:.2f} points, "
                    f"{calibration.num_bins} bins of equal width"
                )
        shown = min(broken, key=lambda row: score_priority(row.layer, row.probe))
        assert shown.breakdown is not None
        title = f"by class, {shown.probe} {shown.layer} {shown.crops}:"
        return ["", *lines, title, *shown.breakdown.lines(), ""]


def score_priority(layer: str, probe: str) -> tuple[int, int]:
    """Where a score stands, the lowest first.

    >>> scores = [("head", "knn"), ("stage3", "linear"), ("head", "linear")]
    >>> min(scores, key=lambda score: score_priority(*score))
    ('head', 'linear')
    """
    return _place(layer, _LAYERS), _place(probe, _PROBES)


def _place(name: str, names: tuple[str, ...]) -> int:
    return names.index(name) if name in names else len(names)
