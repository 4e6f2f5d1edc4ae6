"""Adding a thing is local: one file of a user's own, and one line in a table."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import command, start

from empssl import cli, data, objectives, plugins
from empssl.config import build
from empssl.errors import UsageError
from empssl.evaluation import label_free, probes
from empssl.runs.run import Run
from empssl.training.settings import plugins_of

OBJECTIVE = '''
"""An objective of one file and one line."""
import torch.nn.functional as F
from empssl.objectives import OBJECTIVES, Loss, Objective

class Spread(Objective):
    """Views near their mean, images apart."""

    def __init__(self, *, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, projections):
        z = F.normalize(projections, dim=-1)
        near, apart = z.var(0).mean(), z.mean(0).var(0).mean()
        return Loss(near - self.weight * apart, {"near": near, "apart": apart})

OBJECTIVES["spread_apart"] = Spread
'''
BACKBONE = """
from torch import nn
from empssl.models import BACKBONES

class Small(nn.Module):
    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.dim = width
        self.first = nn.Conv2d(3, width, 3, stride=2)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, images):
        return self.norm(self.first(images)).relu().mean((2, 3))

BACKBONES["small"] = Small
"""
PROBE = '''
import torch
from empssl.evaluation.probes import PROBES, Labeled, Score

def nearest_mean(train, train_labels, test, test_labels):
    """Each test image goes to the class with the nearest mean."""
    labeled = Labeled.checked(train, train_labels, test, test_labels)
    means = torch.stack([labeled.train[labeled.train_classes == c].mean(0)
                         for c in range(labeled.num_classes)])
    return Score.of(torch.cdist(labeled.test, means).argmin(1), labeled, protocol="nearest_mean")

PROBES["nearest_mean"] = nearest_mean
'''
METRIC = """
from empssl.evaluation.label_free import MEASURES, Measure

def mean_norm(embeddings) -> float:
    return float(embeddings.norm(dim=1).mean())

MEASURES["mean_norm"] = Measure(mean_norm, "bags", "higher", "how long embeddings are", "nobody")
"""
DATASET = """
from empssl.data import DATASETS, KnownDataset, open_images

def open_mine(*, split, data_dir, download, progress, side=16):
    return open_images("pentominoes", split=split, side=side)

DATASETS["mine"] = KnownDataset(open_mine, needs_files=False)
"""
TABLES: list[dict[str, Any]] = [
    objectives.OBJECTIVES, probes.PROBES, label_free.MEASURES, data.DATASETS,
    __import__("empssl.models").models.BACKBONES,
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with plugins; afterwards the tables are as they were."""
    files = {"own_objective": OBJECTIVE, "own_backbone": BACKBONE, "own_probe": PROBE,
             "own_metric": METRIC, "own_dataset": DATASET}  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "loaded", [])
    before = [dict(table) for table in TABLES]
    modules = set(sys.modules)
    yield tmp_path
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - modules:
        if name.startswith("own_"):
            del sys.modules[name]


def said(*words: str) -> tuple[int, str]:
    """Exit code and all that a command says, started as a user does."""
    made = subprocess.run(
        [sys.executable, "-m", "empssl", *words], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )  # fmt: skip
    return made.returncode, made.stdout + made.stderr


def test_an_objective_is_a_file_and_a_line(folder: Path) -> None:
    options = ["--plugin", "own_objective", "--objective", "spread_apart"]
    assert said(*command(folder / "run", *options, "--objective.weight", "3"))[0] == 0


def test_objective_and_backbone_train_and_are_scored_by_probe_and_metric(folder: Path) -> None:
    own = [f"--plugin=own_{name}" for name in ("objective", "backbone", "probe", "metric")]
    words = [word for word in command(folder / "run") if word != "--backbone.width"]
    words.remove("4")
    chosen = ["--objective", "spread_apart", "--objective.weight", "3", "--backbone", "small"]
    assert cli.main([*own[:2], *words, *chosen]) == 0
    run = Run(folder / "run")
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert config["objective"] == {"name": "spread_apart", "weight": 3.0}
    assert config["backbone"] == {"name": "small", "width": 8}
    assert run.environment["plugins"] == ["own_objective", "own_backbone"]
    assert {"near", "apart"} <= run.metrics()[0].keys()
    assert cli.main(["evaluate", "run", "digits", *own, "--probes", "nearest_mean", "knn",
                     "--train-size", "200", "--no-baselines"]) == 0  # fmt: skip
    (scores,) = (folder / "run" / "evaluations").glob("*.json")
    found = {result["probe"] for result in json.loads(scores.read_text())["results"]}
    assert found == {"nearest_mean", "knn"}
    assert cli.main(["examine", "run", *own, "--images", "60", "--views", "2"]) == 0
    (quality,) = (folder / "run" / "quality").glob("*.json")
    assert "mean_norm" in quality.read_text()
    assert cli.main(["report", "run", *own]) == 0


def test_a_data_set_is_known_by_its_name(folder: Path) -> None:
    words = ["mine" if word == "digits" else word for word in command(folder / "run")]
    assert cli.main([*words, "--plugin", "own_dataset", "--epochs", "0.01"]) == 0
    assert cli.main([*words, "--plugin", "own_dataset", "--epochs", "0.01", "--resume"]) == 0


def test_help_lists_what_a_plugin_adds(folder: Path) -> None:
    code, text = said("train", "--plugin", "own_objective", "--help")
    assert code == 0
    assert "spread_apart" in text
    assert "spread_apart" not in said("train", "--help")[1]
    assert "--plugin MODULE" in text
    assert "--plugin" in said("--help")[1]


@pytest.mark.parametrize("verb", ["train", "bench"])
def test_help_names_what_a_plugin_adds_to_each_table(verb: str, folder: Path) -> None:
    names = {
        "POLICIES": "own_views", "BACKBONES": "own_backbone", "PROJECTORS": "own_projector",
        "OPTIMIZERS": "own_optimizer", "SCHEDULES": "own_schedule",
    }  # fmt: skip
    (folder / "own_names.py").write_text(
        "from empssl.models import BACKBONES, PROJECTORS\n"
        "from empssl.optim import OPTIMIZERS, SCHEDULES\n"
        "from empssl.views import POLICIES\n"
        + "".join(f"{table}[{name!r}] = dict\n" for table, name in names.items())
    )
    code, text = said(verb, "--plugin", "own_names", "--help")
    assert code == 0
    shown = [name for name in names.values() if re.search(rf"\b{name}\b", text)]
    assert shown == [n for n in names.values() if verb == "train" or n != "own_schedule"]


def test_each_process_imports_the_plugin(folder: Path) -> None:
    options = ["--plugin", "own_objective", "--objective", "spread_apart", "--devices", "2",
               "--device", "cpu"]  # fmt: skip
    code, text = said(*command(folder / "run", *options))
    assert code == 0, text
    assert Run(folder / "run").environment["processes"] == 2


IN_A_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import own_objective
import empssl

empssl.train("digits", out=sys.argv[2], recipe="demo", patches=2, batch=8, epochs=0.02,
             backbone={"width": 4}, projector={"hidden": 16, "dim": 8}, objective="spread_apart",
             device="cpu", devices=2)
"""


def test_a_program_that_imported_it_has_other_processes_import_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    made = start(str(folder), str(folder / "run"), script=IN_A_PROGRAM)
    text = made.communicate(timeout=240)[1]
    assert made.returncode == 0, text
    assert Run(folder / "run").environment["plugins"] == ["own_objective"]


def test_an_unknown_name_says_that_a_plugin_may_be_missing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        command(folder / "run", "--objective", "spread_apart"),
        command(folder / "run", "--backbone.name", "small"),
        ["evaluate", "run", "digits", "--probes", "nearest_mean"],
        ["compare", "run", "--data", "digits", "--out", "c", "--probes", "nearest_mean"],
    ):
        assert cli.main(words) == 2
        assert "--plugin MODULE" in capsys.readouterr().err


def test_opening_a_run_of_a_plugin_without_it_says_so(folder: Path) -> None:
    words = [word for word in command(folder / "run") if word not in ("--backbone.width", "4")]
    assert said(*words, "--backbone", "small", "--plugin", "own_backbone")[0] == 0
    code, text = said("evaluate", "run", "digits")
    assert code == 4
    assert "no 'small' here" in text
    assert "--plugin MODULE" in text


def test_nothing_is_imported_by_what_a_run_records(folder: Path) -> None:
    options = ["--plugin", "own_objective", "--objective", "spread_apart"]
    assert said(*command(folder / "run", *options))[0] == 0
    file = folder / "run" / "environment.json"
    file.write_text(file.read_text().replace("own_objective", "own_trap"))
    (folder / "own_trap.py").write_text("raise SystemExit('imported')")
    assert said("evaluate", "run", "digits", "--probes", "knn", "--train-size", "100",
                "--no-baselines")[0] == 0  # fmt: skip
    code, text = said(*command(folder / "run", "--resume"))
    assert code == 2
    assert "imported" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--plugin", "own_none"], "there is no module 'own_none' in"),
        (["--plugin", "own_objective.py"], "give its name as `import` has it, without .py"),
        (["--plugin", "own_broken"], r"ZeroDivisionError: .* \(own_broken.py, line 2\)"),
        (["--plugin", "own_missing"], r"No module named 'not_there'.*own_missing.py, line 1"),
        (["--plugin"], "--plugin needs the name of a module"),
        (["--plugin", "--out"], "--plugin needs the name of a module"),
        (["--plugin="], "--plugin needs the name of a module"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_sentence(
    words: list[str], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own_broken.py").write_text("x = 1\nx / 0\n")
    (folder / "own_missing.py").write_text("import not_there\n")
    assert cli.main([*command(folder / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert __import__("re").search(expected, line)


def test_a_file_beside_a_user_does_not_take_a_librarys_place(folder: Path) -> None:
    (folder / "yaml.py").write_text("raise SystemExit('a file took the place of a library')")
    plugins.load(["own_objective"])
    assert sys.path[-1] == str(folder)


def test_only_modules_of_others_count_as_plugins(folder: Path) -> None:
    from empssl.training.recipes import resolve

    settings = resolve(None, {})
    assert plugins_of(settings) == ()
    plugins.load(["own_objective", "own_metric"])
    named = resolve(None, {"objective": "spread_apart"})
    assert plugins_of(named) == ("own_objective", "own_metric")
    with pytest.raises(UsageError, match="has no option 'weigth': did you mean 'weight'"):
        build(objectives.OBJECTIVES, {"name": "spread_apart", "weigth": 1.0})
