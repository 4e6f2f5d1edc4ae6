"""What the files of a run hold, as type hints; `schema` checks them when they are read.

A field that a file lacks is an error where it is needed: earlier versions wrote fewer.
"""

from typing import Annotated, Any, Literal, TypedDict

from empssl.runs.schema import Between, Count, MeasuredNumber, Positive, rule
from empssl.types import MOST_SIDE

Side = Annotated[int, Between(1, MOST_SIDE)]
Pixels = Annotated[int, Between(1, 2**31 - 1)]  # of one image file
Seed = Annotated[int, Between(-(2**63), 2**63 - 1)]


class Named(TypedDict, total=False):
    """A spec: a name and options, which its signature checks."""

    name: str


class DecodingSpec(TypedDict, total=False):
    """How image files become 8-bit pixels."""

    range: str | list[float]
    max_pixels: Pixels


class Config(TypedDict, total=False):
    """config.yaml: the settings of `train`."""

    data: str
    recipe: str
    patches: Positive
    batch: Positive
    epochs: float | None
    budget: str | None
    image_side: Side | None
    views: Named
    backbone: Named
    projector: Named
    whitened: Count | Named
    objective: Named
    optimizer: Named
    schedule: Named
    range: str | list[float | str]
    max_pixels: Pixels
    split: Literal["auto", "train", "test", "all"]
    seed: Seed
    keep_epochs: list[float]
    precision: Literal["auto", "32-true", "bf16-mixed", "64-true"]
    memory: Literal["auto", "whole", "exact", "two-pass"]
    shard: Literal["images", "patches"]
    data_dir: str | None
    download: bool
    device: str
    threads: Positive | None
    devices: Positive
    num_nodes: Positive
    compile: str
    patience: str


class NearConstant(TypedDict, total=False):
    """Of so many images looked at, how many have next to nothing to see."""

    found: Count
    of: Count


class PlanRecord(TypedDict, total=False):
    """plan.json: what followed from the data."""

    steps: Positive
    steps_per_epoch: Positive
    samples: Count
    usable_samples: Count
    near_constant: NearConstant
    image_side: Side
    patch_side: Side
    view_side: Side
    gflop_per_patch: Annotated[float, Between(0)]
    fingerprint: str
    division: Literal["by_name", "stable"]
    trained_with_labels: bool
    decoding: DecodingSpec
    data_path: str | None
    data_dir: str | None
    startup_seconds: float
    replanned: list[list[Count]]


class Environment(TypedDict, total=False):
    """environment.json: versions, device, precision; kept to be shown."""

    launch: str | None


# Measures by the names that runs of version 0.1.0 gave them.
RENAMED = {
    "fill": "coding_rate_ratio", "participation": "participation_ratio", "spread": "embedding_std",
}  # fmt: skip


class Metrics(TypedDict, total=False):
    """A line of metrics.jsonl: what a step measured. The terms of a loss have names of their own.

    Everything but a spectrum is a number.
    """

    step: Count
    epoch: Annotated[float, Between(0)]
    patches: Count
    pflop: Annotated[float, Between(0)]
    seconds: Annotated[float, Between(0)]
    patches_per_second: MeasuredNumber
    loss: MeasuredNumber
    spectrum: list[Annotated[float, Between(0)]]


@rule(Metrics)
def _measured(line: Metrics) -> str | None:
    """A step, and numbers."""
    for name, value in line.items():
        if name != "spectrum" and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{name} is {value!r:.60}, expected a number"
    return None if "step" in line else "it does not say 'step'"


class BadSampleLine(TypedDict, total=False):
    """A line of bad_samples.jsonl."""

    index: Count
    name: str
    reason: str
    error: str
    bytes: Count | None
    epoch: Count
    step: Count


class Manifest(TypedDict):
    """manifest.json of a checkpoint: the SHA-256 of each of its files."""

    format: str
    schema: Positive
    sha256: dict[str, str]


class NetworkSpec(TypedDict, total=False):
    """What it takes to build a network, and the views that it was trained on."""

    backbone: Named
    projector: Named
    whitened: Count | Named
    views: Named
    patches: Positive


class StateRecord(TypedDict, total=False):
    """state.json of a checkpoint."""

    network: NetworkSpec
    image_side: Side
    decoding: DecodingSpec
    step: Count
    seconds: Annotated[float, Between(0)]
    data: str
    optimizers: list[dict[str, Any]]


class BinRecord(TypedDict, total=False):
    """Images of which a probe is about as sure."""

    low: float
    high: float
    count: Count
    confidence: float
    accuracy: float


class CalibrationRecord(TypedDict, total=False):
    """Whether a probe is as sure as it is right."""

    expected_error: float
    bins: list[BinRecord]
    num_bins: Count


class BreakdownRecord(TypedDict, total=False):
    """A score, class by class."""

    classes: list[str]
    per_class: list[float | None]
    confusion: list[list[Count]]
    calibration: CalibrationRecord | None


@rule(BreakdownRecord)
def _square(found: BreakdownRecord) -> str | None:
    """A row and a column for each class."""
    count, rows = len(found["classes"]), found["confusion"]
    if not count or [len(found["per_class"]), *map(len, rows)] != [count] * (1 + len(rows)):
        return f"confusion and per_class must have {count} rows and columns, one for each class"
    return None if len(rows) == count else f"confusion has {len(rows)} rows for {count} classes"


class ScoreRecord(TypedDict, total=False):
    """A row of an evaluation."""

    probe: str
    layer: str
    crops: str
    accuracy: float
    balanced_accuracy: float
    train_size: Count
    test_size: Count
    seed: int | None
    model: str
    details: dict[str, Any]
    breakdown: BreakdownRecord | None


class FewShotRow(TypedDict, total=False):
    """Accuracies from a few labels of each class."""

    probe: str
    layer: str
    crops: str
    model: str
    shots: Positive
    mean: float
    deviation: float
    accuracies: list[float]


class CurveRow(TypedDict, total=False):
    """Accuracies with so many patches of a test image."""

    probe: str
    layer: str
    crops: str
    model: str
    patches: list[Positive]
    accuracies: list[float]


@rule(CurveRow)
def _paired(row: CurveRow) -> str | None:
    """An accuracy for each number of patches."""
    if not row["patches"] or len(row["patches"]) != len(row["accuracies"]):
        return f"{len(row['patches'])} patches and {len(row['accuracies'])} accuracies do not pair"
    return None


class ProtocolRecord(TypedDict, total=False):
    """What holds for all rows of an evaluation."""

    mode: str
    epoch: float | str
    image_side: int
    seed: int
    train_size: int | None
    trained_on: str
    test_data: str


class EvaluationRecord(TypedDict, total=False):
    """evaluations/*.json."""

    dataset: str
    run: str
    protocol: ProtocolRecord
    asked: dict[str, Any]
    results: list[ScoreRecord]
    baselines: list[ScoreRecord]
    few_shot: list[FewShotRow]
    curves: list[CurveRow]
    images: dict[str, Any]


class ReadingRow(TypedDict, total=False):
    """The value of a measure at a layer."""

    measure: str
    layer: str
    value: MeasuredNumber
    random: MeasuredNumber | None
    healthy: Literal["higher", "lower", "near 1"]
    meaning: str
    source: str


class QualityRecord(TypedDict, total=False):
    """quality/*.json."""

    dataset: str
    run: str
    protocol: dict[str, Any]
    readings: list[ReadingRow]


class SeenRecord(EvaluationRecord, total=False):
    """scores/RUN/LOOK.json of a reproduction: an evaluation, or where a map has its images."""

    model: str | None
    probes: list[str]
    plane: list[list[float]]
    labels: list[int]
    separation: float
    parameters: str


class Accuracies(TypedDict, total=False):
    """scores/untrained/*.json of a reproduction: by layer."""

    accuracies: dict[str, float]
