"""A run on disk. The only file that knows the names of its files.

config.yaml           every setting, defaults written out; `train --config` takes it
plan.json             what followed from the data: steps, images, cost, fingerprint
environment.json      versions, device, precision
metrics.jsonl         one line a step
bad_samples.jsonl     one line an image that could not be used
trained_images.safetensors  which images it learned from: 16 bytes each, of what they show
checkpoints/step-*/   to resume from
model/                the trained network
epochs/*/             the network as it was after so many epochs, where that was asked for
evaluations/*.json    scores
quality/*.json        measures of its embeddings that need no labels
report.html
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml

from empssl.errors import CheckpointError, UsageError
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.files import (
    PARTIAL,
    append,
    check_no_links,
    discard,
    fitting,
    hold,
    make_folder,
    open_regular,
    partial_name,
    replace,
    sweep,
    sync,
    write,
    writing,
)
from empssl.runs.records import (
    RENAMED,
    BadSampleLine,
    Config,
    Environment,
    EvaluationRecord,
    Metrics,
    PlanRecord,
    QualityRecord,
)
from empssl.runs.schema import conform, read_json, read_json_lines, read_yaml
from empssl.runs.trained_images import TrainedImages
from empssl.types import Division

CONFIG = "config.yaml"
TRAINED_IMAGES = "trained_images.safetensors"
LOCK = ".lock"
KEPT_CHECKPOINTS = 2


class Run:
    """One run directory.

    Args:
        path: of a run that exists; use `create` for a new one.

    Raises:
        CheckpointError: there is no run at this path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.exists(self.path):
            what = "is not a run directory" if self.path.exists() else "does not exist"
            raise CheckpointError(
                f"{self.path} {what}: it should hold {CONFIG}, as `empssl train --out` makes it"
            )

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether there is a run at this path."""
        return (path / CONFIG).is_file()

    @classmethod
    def around(cls, path: str | Path) -> "Run | None":
        """The run at this path, or of which it is one of the model folders."""
        folder = Path(path).resolve()
        found = next((at for at in (folder, *folder.parents[:2]) if cls.exists(at)), None)
        return None if found is None else cls(found)

    @staticmethod
    def held_bytes(path: Path) -> int:
        """Bytes of all weights at this path, which a new run replaces and a resumed one keeps.

        Raises:
            CheckpointError: the storage refused.
        """
        with writing(path):
            return sum(file.lstat().st_size for file in path.glob("*/**/*.safetensors"))

    @classmethod
    @contextmanager
    def creating(
        cls, path: str | Path, config: dict[str, Any], *, overwrite: bool = False
    ) -> Iterator["Run"]:
        """Make the directory of a new run, and lock it as `lock` does while the block runs.

        Raises:
            UsageError: as `check_free`.
            RunInUseError: another process writes to it, or makes it at this moment.
            CheckpointError: the storage refused.
        """
        path = Path(path)
        cls.check_free(path, overwrite=overwrite)
        with writing(path):
            make_folder(path)
        with _held(path):
            cls.check_free(path, overwrite=overwrite)  # again: now nobody else makes it
            with writing(path):
                # What makes it a run goes last: without, --overwrite would leave the rest alone.
                for entry in sorted(path.iterdir(), key=lambda e: e.name == CONFIG):
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    elif entry.name != LOCK:
                        entry.unlink()
            replace(path / CONFIG, yaml.dump(config, Dumper=_Plain, sort_keys=False))
            yield cls(path)

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], *, overwrite: bool = False) -> "Run":
        """As `creating`, without keeping the lock."""
        with cls.creating(path, config, overwrite=overwrite) as run:
            return run

    @classmethod
    def check_free(cls, path: str | Path, *, overwrite: bool) -> None:
        """See that a new run may be made here, and leave everything as it is.

        What a process leaves that ends before the run has a configuration does not count.

        Raises:
            UsageError: something is there already, and either `overwrite` is False or it is not a
                run, which is never removed.
        """
        path = Path(path)
        if not path.exists() or (path.is_dir() and all(map(_is_debris, path.iterdir()))):
            return
        if not overwrite:
            raise UsageError(
                f"{path} exists; continue it with --resume, replace it with --overwrite, "
                "or choose another --out"
            )
        try:
            is_run = {"recipe", "objective"} <= cls(path).config.keys()
        except CheckpointError:
            is_run = False
        if not is_run:
            raise UsageError(f"{path} is not a run directory, so --overwrite leaves it alone")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run; freed by the system when one dies.

        Raises:
            RunInUseError: another process holds it.
        """
        with _held(self.path):
            yield

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = read_yaml(self.path / CONFIG, Config)
        return config

    @property
    def division(self) -> Division:
        """How folders and Parquet files without splits of their own are divided for this run."""
        plan = self.plan
        found: Division = plan.get("division", "by_name") if plan else "stable"
        return found

    @property
    def needs_labels(self) -> bool:
        """Whether labels trained it."""
        # Runs of a version before do not say it; of its objectives one learned from labels.
        supervised = self.config["objective"]["name"] == "supcon"
        return bool(self.plan.get("trained_with_labels", supervised))

    @property
    def trained_images(self) -> TrainedImages | None:
        """Which images it learned from; None of a run that a version before has made.

        Raises:
            CheckpointError: the list is damaged or cannot be read.
        """
        path = self._own(TRAINED_IMAGES)
        try:
            with open_regular(path) as file:
                return TrainedImages.from_bytes(file.read())
        except FileNotFoundError:
            return None
        except (OSError, CheckpointError) as error:
            raise CheckpointError(
                f"{path}: {error}; remove it to go on without knowing which those were"
            ) from error

    @trained_images.setter
    def trained_images(self, images: TrainedImages) -> None:
        replace(self.path / TRAINED_IMAGES, images.to_bytes())

    @property
    def plan(self) -> dict[str, Any]:
        return self._read_json("plan.json", PlanRecord)

    @plan.setter
    def plan(self, plan: dict[str, Any]) -> None:
        replace(self.path / "plan.json", json.dumps(plan, indent=1))

    @property
    def environment(self) -> dict[str, Any]:
        return self._read_json("environment.json", Environment)

    @environment.setter
    def environment(self, environment: dict[str, Any]) -> None:
        replace(self.path / "environment.json", json.dumps(environment, indent=1))

    def _read_json(self, name: str, hint: Any) -> dict[str, Any]:
        """The content of a file, of which nothing is missing where the run has not got so far."""
        path = self.path / name
        there = path.exists() or path.is_symlink()
        content: dict[str, Any] = read_json(path, hint) if there else conform({}, hint, str(path))
        return content

    @property
    def bad_samples_path(self) -> Path:
        return self.path / "bad_samples.jsonl"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def add_metrics(self, entry: dict[str, Any]) -> None:
        """Write down one step."""
        append(self.metrics_path, json.dumps(entry))

    def metrics(self) -> list[dict[str, Any]]:
        """One entry a step, in order. A line that was being written at a crash is left out.

        Raises:
            CheckpointError: another line is damaged.
        """
        lines: list[dict[str, Any]] = read_json_lines(self.metrics_path, Metrics)
        found = [{RENAMED.get(key, key): value for key, value in line.items()} for line in lines]
        widths = {len(entry["spectrum"]) for entry in found if "spectrum" in entry}
        if len(widths) > 1:
            raise CheckpointError(
                f"{self.metrics_path} is damaged: spectra have {min(widths)} to {max(widths)} "
                "directions, expected the same number in all"
            )
        return found

    def bad_samples(self) -> list[dict[str, Any]]:
        """One entry for each image that could not be used, as `metrics`.

        Raises:
            CheckpointError: a line is damaged.
        """
        return read_json_lines(self.bad_samples_path, BadSampleLine)

    def trim_metrics(self, steps: int) -> None:
        """Keep the lines of the first `steps` steps: those that a checkpoint stands for."""
        kept = [entry for entry in self.metrics() if entry["step"] < steps]
        replace(self.metrics_path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def save_checkpoint(self, step: int, content: Checkpoint) -> None:
        """Write a checkpoint; once it has been read back whole, remove all but the newest.

        What was noted of the steps that it stands for is on the disk before it is.
        """
        for path in (self.metrics_path, self.bad_samples_path):
            with writing(path):
                if path.exists():
                    sync(path)
        _write_once(self._own("checkpoints", f"step-{step:09d}"), content)
        for old in self._checkpoints()[KEPT_CHECKPOINTS:]:
            discard(old)  # one too many does no harm

    @property
    def has_checkpoints(self) -> bool:
        """Whether there are any, whole or damaged."""
        return bool(self._checkpoints())

    def load_checkpoint(
        self, *, files: tuple[str, ...] | None = None
    ) -> tuple[Checkpoint, Path, list[str]]:
        """The newest checkpoint that is whole, where it is, and what was wrong with newer ones.

        Raises:
            CheckpointError: there is none.
        """
        problems: list[str] = []
        for folder in self._checkpoints():
            try:
                return checkpoint.read(folder, files=files), folder, problems
            except CheckpointError as error:
                problems.append(str(error))
        raise CheckpointError(
            f"{self.path} has no checkpoint to continue from" + "".join(f"; {p}" for p in problems)
        )

    def _checkpoints(self) -> list[Path]:
        folder = self._own("checkpoints")
        return [self._own("checkpoints", f.name) for f in sorted(folder.glob("step-*"))][::-1]

    def _own(self, *names: str) -> Path:
        """A path in this run, to which no link leads.

        Raises:
            CheckpointError: one does.
        """
        return check_no_links(self.path, *names)

    @property
    def identity(self) -> str | None:
        """SHA-256 of the trained weights; None as long as the run is not finished.

        Raises:
            CheckpointError: what there is is damaged.
        """
        model = self._own("model")
        return checkpoint.identity(model) if model.exists() else None

    def save_model(self, content: Checkpoint) -> None:
        _write_once(self._own("model"), content)

    def save_epoch(self, epoch: float, content: Checkpoint) -> None:
        """Keep the network as it is after so many epochs."""
        _write_once(self._own("epochs", f"{epoch:g}"), content)

    def trim_epochs(self, steps: int) -> None:
        """Keep the networks of the first `steps` steps; the later ones will be made anew."""
        for folder in self._own("epochs").glob("[0-9]*"):
            try:
                stale = checkpoint.read(folder, files=()).state["step"] > steps
            except CheckpointError:
                stale = True
            if stale:
                discard(folder)

    def epoch(self, epoch: float) -> Path:
        """Where the network as it was after so many epochs is.

        Raises:
            UsageError: it was not kept.
        """
        folder = self._own("epochs", f"{epoch:g}")
        if not folder.is_dir():
            kept = sorted((f.name for f in folder.parent.glob("[0-9]*")), key=float)
            what = f"it kept {', '.join(kept)}" if kept else "it kept none: see --keep-epochs"
            raise UsageError(f"{self.path} did not keep the network of epoch {epoch:g}; {what}")
        return folder

    def load_model(self) -> tuple[Checkpoint, Path]:
        """The trained network, or the newest checkpoint of a run that is not finished.

        Raises:
            CheckpointError: what there is is damaged, or there is nothing.
        """
        model = self._own("model")
        if model.exists():
            return checkpoint.read(model), model
        found, folder, _ = self.load_checkpoint(files=("model",))
        return found, folder

    def save_evaluation(self, name: str, content: dict[str, Any]) -> Path:
        return self._save_json("evaluations", name, content)

    def save_quality(self, name: str, content: dict[str, Any]) -> Path:
        return self._save_json("quality", name, content)

    def _save_json(self, folder_name: str, name: str, content: dict[str, Any]) -> Path:
        folder = self._own(folder_name)
        with writing(folder):
            folder.mkdir(exist_ok=True)
        path = folder / f"{fitting(name)}.json"
        replace(path, json.dumps(content, indent=1))
        return path

    def why_not_kept(self, folder_name: Literal["evaluations", "quality"]) -> str:
        """Why nothing can be written to one of its folders; empty if it can.

        To be asked before something is computed that takes long.
        """
        try:
            folder = self._own(folder_name)
            with writing(folder):  # which is made only once there is something to keep
                trial = partial_name((folder if folder.exists() else self.path) / "trial")
                write(trial, b"x")
                trial.unlink()
        except CheckpointError as error:
            return str(error)
        return ""

    def evaluations(self) -> list[dict[str, Any]]:
        """Every evaluation that was saved, by name.

        Raises:
            CheckpointError: one is damaged.
        """
        return self._read_all("evaluations", EvaluationRecord)

    def qualities(self) -> list[dict[str, Any]]:
        """What was saved of the measures that need no labels, by name.

        Raises:
            CheckpointError: one is damaged.
        """
        found = self._read_all("quality", QualityRecord)
        for row in chain(*(quality.get("readings", []) for quality in found)):
            row["measure"] = RENAMED.get(row.get("measure"), row.get("measure"))
        return found

    def _read_all(self, folder: str, hint: Any) -> list[dict[str, Any]]:
        return [read_json(file, hint) for file in sorted(self._own(folder).glob("*.json"))]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    with hold(path / LOCK, path):
        for parent in (path, *(check_no_links(path, name) for name in ("checkpoints", "epochs"))):
            sweep(parent)
        yield


class _Plain(yaml.SafeDumper):
    """Writes out a value each time that it comes; reading refuses references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Plain.add_multi_representer(dict, yaml.SafeDumper.represent_dict)  # specs of objects among them


def _is_debris(entry: Path) -> bool:
    return entry.name == LOCK or (entry.name.startswith(".") and PARTIAL in entry.name)


def _write_once(folder: Path, content: Checkpoint) -> None:
    """Write a checkpoint and read it back, unless it is there and whole already."""
    try:
        checkpoint.read(folder, files=())
    except CheckpointError:
        discard(folder)
        checkpoint.write(folder, content)
        checkpoint.read(folder, files=())
