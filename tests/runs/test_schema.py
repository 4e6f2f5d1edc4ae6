"""Whatever a file of a run holds: it is understood, or refused by name in one line."""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import empssl
from empssl.errors import CheckpointError, EmpsslError, UsageError
from empssl.evaluation.evaluate import evaluate
from empssl.evaluation.examine import examine
from empssl.experiments.protocol import EvalProtocol
from empssl.experiments.run_spec import RunSpec
from empssl.reports import run_report
from empssl.reports.run_report import bad_samples
from empssl.reports.sections.label_free import measures
from empssl.reports.sections.scores import score_protocols, scores
from empssl.reports.sections.spectrum import spectrum_over_time
from empssl.reports.sections.training_curves import curves
from empssl.runs import checkpoint, records
from empssl.runs.run import Run
from empssl.runs.schema import conform, plain_yaml, read_json

BAD = {"index": 0, "name": "a.png", "reason": "truncated", "error": "x", "bytes": 3,
       "epoch": 0, "step": 0}  # fmt: skip
ODD = st.recursive(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 2**40, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
         -float("inf"), "", "x", "\x1b[2J", "none", "head", "knn", [], {}]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("x"), inner, max_size=1),
    max_leaves=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def documents(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files of a run, as they are when nothing is wrong."""
    path = tmp_path_factory.mktemp("documents") / "run"
    shutil.copytree(tiny_run, path)
    evaluate(path, "digits", probes=["knn", "ridge"], few_shot=[1], curve=[1, 2], breakdown=True,
             train_size=100)  # fmt: skip
    examine(path, images=20, views=2)
    found = {
        "config.yaml": yaml.safe_load((path / "config.yaml").read_text()),
        "metrics.jsonl": [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()],
        "bad_samples.jsonl": [BAD, BAD | {"name": "b.png"}],
    }
    for name in ("plan.json", "environment.json", "model/state.json", "model/manifest.json"):
        found[name] = json.loads((path / name).read_text())
    for folder in ("evaluations", "quality"):
        (file,) = (path / folder).iterdir()
        found[f"{folder}/x.json"] = json.loads(file.read_text())
    return found


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(content))
    elif path.suffix == ".jsonl" and isinstance(content, list):
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    else:
        path.write_text(json.dumps(content) + "\n")


def read_all(path: Path) -> None:
    """Everything that is made of what these files say."""
    run = Run(path)
    metrics, evaluations = run.metrics(), run.evaluations()
    run_report._progress(metrics, run.plan)
    run_report._collapse(metrics)
    curves(metrics)
    spectrum_over_time(metrics)
    scores(evaluations, None)
    run_report._parts(score_protocols(evaluations, None))
    measures(run.qualities(), None)
    bad_samples(run.bad_samples())
    RunSpec.of(run, "run", {})
    EvalProtocol("digits", ("knn",), "grid3").find(run)
    checkpoint.identity(path / "model")
    read_json(path / "model" / "state.json", records.StateRecord)
    json.dumps(run.environment)
    with suppress(UsageError):
        empssl.training.settings.resumed_settings(run, "digits", None, {})


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    found = [path] if path else []
    items = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        items = list(enumerate(content))[:3]
    for key, value in items:
        found += places(value, (*path, key))
    return found


def changed(content: Any, path: tuple[Any, ...], value: Any, *, keep: bool) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if keep:
        inner[path[-1]] = value
    else:
        del inner[path[-1]]
    return content


@pytest.fixture(scope="module")
def path(documents: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for name, content in documents.items():
        write(folder / name, content)
    return folder


def test_the_files_of_a_run_are_read(path: Path) -> None:
    read_all(path)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(file=st.integers(0, 8), at=st.floats(0, 1, exclude_max=True), value=ODD, keep=st.booleans())
def test_a_changed_file_is_understood_or_refused_by_name(
    file: int, at: float, value: Any, keep: bool, documents: dict[str, Any], path: Path
) -> None:
    name = sorted(documents)[file]
    every = places(documents[name])
    place = every[int(at * len(every))]
    try:
        write(path / name, changed(documents[name], place, value, keep=keep))
        with suppress(EmpsslError):
            read_all(path)
    finally:
        write(path / name, documents[name])


@pytest.mark.parametrize("content", [None, 5, "x", [[]], {}, True])
def test_a_whole_other_document_is_refused_by_name(
    content: Any, documents: dict[str, Any], path: Path
) -> None:
    for name in documents:
        if content == {} and name in ("environment.json", "model/state.json"):
            continue  # which need nothing, as long as nobody asks for it
        write(path / name, content)
        with pytest.raises(EmpsslError, match=name.partition("/")[0].partition(".")[0]):
            read_all(path)
        write(path / name, documents[name])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"steps": "many"}, "steps is 'many', expected a whole number of 1 or more"),
        ({"steps": 0}, "steps is 0, expected"),
        ({"steps": 10**40}, "steps is a number too large"),
        ({"image_side": 20_000}, "image_side is 20000, expected a whole number from 1 to 4,096"),
        ({"gflop_per_patch": float("inf")}, "gflop_per_patch is inf, expected a finite number"),
        ({"near_constant": {"found": None}}, "near_constant.found is None, expected"),
        ({"steps": {"x": 1}}, "steps is a mapping of 1, expected"),
    ],
)  # fmt: skip
def test_the_field_and_what_was_expected_are_named(content: Any, said: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        conform(content, records.PlanRecord, "plan.json")
    assert str(refused.value).startswith("plan.json is damaged: ")
    assert said in str(refused.value)


def test_what_a_file_lacks_is_named_where_it_is_needed() -> None:
    plan = conform({"near_constant": {}}, records.PlanRecord, "run/plan.json")
    with pytest.raises(CheckpointError, match=r"^run/plan\.json does not say 'steps'$"):
        plan["steps"]
    with pytest.raises(CheckpointError, match=r"plan\.json, near_constant, does not say 'of'"):
        plan["near_constant"]["of"]


def test_the_settings_of_a_run_are_those_of_train() -> None:
    """What `train` may be told, its configuration may hold."""
    known = get_type_hints(records.Config).keys()
    assert known == get_type_hints(empssl.train).keys() - {"return", "out", "resume", "overwrite"}


# YAML that stands for more than it says


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(30), "a: &a {b: 1}\nc:\n  <<: *a\n", "a: &a [*a]\n"])
def test_references_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is a reference"):
        plain_yaml(text)


@pytest.mark.parametrize("opened", ["[", "{a: ", "- ", "? "])
def test_what_is_nested_too_deep_is_refused_before_it_is_read(
    opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(text: str, **options: Any) -> Iterator[yaml.Event]:
        for number, event in enumerate(every(text, **options)):
            assert number < 1_000
            yield event

    every = yaml.parse
    monkeypatch.setattr(yaml, "parse", parse)
    with pytest.raises(ValueError, match="nested 51 deep, at most 50 are read"):
        plain_yaml(opened * 50_000)
    assert plain_yaml("[" * 50 + "]" * 50) is not None


def test_yaml_that_would_take_long_to_read_is_refused_by_its_length() -> None:
    with pytest.raises(ValueError, match="262,145 bytes of YAML, at most 262,144 are read"):
        plain_yaml("a: 1" + ":1" * 131_070 + " ")


def test_no_configuration_that_is_written_has_references(tmp_path: Path) -> None:
    shared = [0.1, 2.0]
    run = Run.create(tmp_path / "run", {"recipe": "demo", "keep_epochs": shared, "x": [shared]})
    assert run.config == {"recipe": "demo", "keep_epochs": shared, "x": [shared]}


@pytest.mark.parametrize(
    "value", ["2020-01-01", "!!set {a, b}", "!!binary aGk=", "{1: 2}", "10" * 40]
)
def test_what_json_does_not_hold_is_refused(value: str, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"recipe": "demo"})
    (tmp_path / "run" / "config.yaml").write_text(f"recipe: demo\nother: {value}\n")
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged: "):
        Run(tmp_path / "run").config  # noqa: B018 (reads it)
