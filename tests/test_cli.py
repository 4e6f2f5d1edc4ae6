import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

import empssl
from empssl import cli
from empssl.errors import DataError, UsageError
from empssl.help import EXAMPLES, SUBJECTS, subject
from empssl.training.recipes import resolve

ROOT = Path(__file__).parent.parent


class Scores:
    def to_json(self) -> str:
        return '{"accuracy": 97.5}'

    def table(self) -> str:
        return "accuracy 97.5%"


def score(
    run: str | Path,
    data: str,
    *,
    probes: Sequence[Literal["linear", "knn"]] = ("linear",),
    baselines: bool = True,
    side: int = 32,
    data_dir: str | Path | None = None,
) -> Scores:
    """Score a run.

    Args:
        run: a run directory, 100% of it.
        data: where images are.
        side: pixels.
    """
    return Scores()


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Put a function in the place of `train`."""

    def replace(function: Callable[..., Any]) -> None:
        monkeypatch.setitem(vars(empssl), "train", function)

    return replace


def train_values(line: str) -> dict[str, Any]:
    return cli.parse("train", empssl.train, shlex.split(line))[0]


def score_values(line: str) -> dict[str, Any]:
    return cli.parse("score", score, shlex.split(line))[0]


def printed_config(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["train", *shlex.split(line), "--print_config"]) == 0
    return capsys.readouterr().out


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "empssl", *words], capture_output=True, text=True)


# The front: what is said before a verb is known.


def test_help_needs_nothing_but_the_standard_library() -> None:
    """So it answers at once, on any machine."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from empssl.cli import main; main(['--help'])\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(names - sys.stdlib_module_names))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert all(name in answer.stdout for name in cli.VERBS)
    assert answer.stdout.endswith("['empssl']\n")


@pytest.mark.parametrize("words", [["--help"], [], ["--version"], ["trian"]])
def test_front_imports_neither_torch_nor_jsonargparse(words: list[str]) -> None:
    code = (
        f"import sys; from empssl.cli import main; main({words!r}); "
        "print({'torch', 'jsonargparse', 'numpy'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.endswith("set()\n")


HEAVY = {"torch._dynamo", "lightning_fabric", "sklearn", "scipy", "pandas", "timm", "rich"}
DRAWING = {"compare", "report", "reproduce"}  # whose charts have matplotlib's ticks


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_imports_what_takes_long_only_when_it_is_needed(verb: str) -> None:
    """Torch's compiler, which comes with Lightning Fabric, takes as long as torch itself."""
    heavy = sorted(HEAVY if verb in DRAWING else HEAVY | {"matplotlib"})
    code = (
        "import sys; from empssl import cli\n"
        f"cli.main([{verb!r}, '--help'])\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.endswith("\n[]\n"), answer.stderr


def test_real_work_begins_when_the_words_are_understood(verb: Callable[..., None]) -> None:
    order: list[str] = []

    def work(data: str) -> str:
        order.append(data)
        return data

    verb(work)
    assert cli.main(["train", "--nonsense"], begin=lambda: order.append("begun")) == 2
    assert order == []
    assert cli.main(["train", "digits"], begin=lambda: order.append("begun")) == 0
    assert order == ["begun", "digits"]


def test_version_is_the_packages() -> None:
    assert command("--version").stdout == f"empssl {empssl.__version__}\n"


def test_unknown_verb_names_the_nearest() -> None:
    answer = command("evalaute")
    assert answer.returncode == 2
    assert answer.stderr.startswith("empssl: no verb 'evalaute', did you mean 'evaluate'?")
    assert answer.stderr.count("\n") == 1


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert "usage: empssl VERB" in shown
    assert f"\nexample:\n  {EXAMPLES['train']}\n" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


# Words to arguments.


def test_what_is_not_given_is_the_signatures_default() -> None:
    given = score_values("runs/x digits")
    defaults = {name: p.default for name, p in signature(score).parameters.items()}
    assert given == defaults | {"run": "runs/x", "data": "digits"}


@pytest.mark.parametrize("option", ["--data-dir x", "--data_dir x", "--data-dir=x", "--data_dir=x"])
def test_dashes_and_underscores_are_the_same(option: str) -> None:
    assert score_values(f"run digits {option}")["data_dir"] == "x"


def test_positions_may_stand_among_options() -> None:
    values = score_values("--side 8 run --no-baselines digits")
    assert (values["run"], values["data"], values["side"]) == ("run", "digits", 8)


def test_switches_take_no_value() -> None:
    assert train_values("digits --out x --resume")["resume"] is True
    assert score_values("--no-baselines run digits")["baselines"] is False


def test_lists_are_written_side_by_side() -> None:
    assert score_values("run digits --probes knn linear")["probes"] == ["knn", "linear"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--whitened 64", 64),
        ("--whitened=0", 0),
        ("--whitened -8", -8),
        ("--whitened plain", {"name": "plain"}),
        ("--whitened.num-features 96", {"num_features": 96}),
        (
            "--whitened mirrored --whitened.num_features 96",
            {"name": "mirrored", "num_features": 96},
        ),
    ],
)
def test_whitened_patches_are_given_by_number_or_as_a_spec(words: str, expected: Any) -> None:
    assert train_values(f"digits --out x {words}")["whitened"] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--objective emp", {"name": "emp"}),
        ("--objective=emp", {"name": "emp"}),
        ("--objective.invariance_weight 100", {"invariance_weight": 100}),
        ("--objective.invariance-weight=1e-3", {"invariance_weight": 0.001}),
        ("--objective.distortion 0.1 --objective emp", {"name": "emp", "distortion": 0.1}),
        ("--objective.name emp --objective.distortion 0.1", {"name": "emp", "distortion": 0.1}),
        ('--objective \'{"name": "emp", "distortion": 0.1}\'', {"name": "emp", "distortion": 0.1}),
    ],
)
def test_specs_are_given_by_name_and_by_option(line: str, expected: dict[str, Any]) -> None:
    assert train_values(f"digits --out x {line}")["objective"] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("digits --out x --patches three", "--patches takes INT, not 'three'"),
        ("digits --out x --patches 1.5", "--patches takes INT, not '1.5'"),
        ("digits --out x --precision 16", "--precision takes {auto,"),
        ("digits --out x --patches", "--patches needs a value"),
        ("digits --out x --objective", "--objective needs a value"),
        ("--out x", "needs DATA; `empssl train --help` lists"),
        ("digits", "needs --out;"),
        ("digits more --out x", "nothing takes 'more'"),
        ("digits --out x -p 3", "nothing takes '-p 3'"),
        ("--data digits --out x", "DATA is given by place, without '--data'"),
        ("digits --out x --patch 3", "no option '--patch', did you mean '--patches'?"),
        ("digits --out x --seed.a 3", "no option '--seed.a', did you mean '--seed'?"),
        ("digits --out x --config nowhere.yaml", "--config nowhere.yaml cannot be read:"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *line.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"empssl train: {message}")
    assert error.count("\n") == 1


TYPOS = {
    "--patches": ["--patchez", "--patchs", "--pathces", "--pacthes", "--npatches"],
    "--batch": ["--bacth", "--batchs", "--bathc", "--batch-sizes"],
    "--epochs": ["--epoch", "--epcohs", "--epohcs", "--ephochs"],
    "--budget": ["--buget", "--budjet", "--bugdet"],
    "--image-side": ["--imageside", "--image-sid"],
    "--views": ["--view", "--veiws"],
    "--backbone": ["--backbon", "--bakbone", "--back-bone"],
    "--projector": ["--projecter", "--porjector"],
    "--objective": ["--objectiv", "--objetive"],
    "--optimizer": ["--opimizer", "--optimiser"],
    "--schedule": ["--shedule", "--scheduler"],
    "--seed": ["--sede", "--seeds"],
    "--data-dir": ["--datadir", "--data-dri"],
    "--download": ["--downlaod"],
    "--device": ["--devcie"],
    "--precision": ["--precison"],
    "--resume": ["--resum"],
    "--overwrite": ["--overwite"],
}


def test_at_least_38_of_40_typos_name_the_option_that_was_meant() -> None:
    right = []
    for meant, typos in TYPOS.items():
        for typo in typos:
            with pytest.raises(UsageError) as caught:
                train_values(f"digits --out x {typo} 1")
            right.append(f"did you mean '{meant}'?" in str(caught.value))
    assert len(right) == 40
    assert sum(right) >= 38


# Configuration files.


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_options_outweigh_the_file_wherever_they_stand(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "data: digits\nout: runs/x\npatches: 3\nbatch: 7\n")
    for line in (f"--patches 5 --config {path}", f"--config {path} --patches 5"):
        values = train_values(line)
        got = [values[name] for name in ("data", "out", "patches", "batch")]
        assert got == ["digits", "runs/x", 5, 7]


def test_an_option_of_a_spec_is_laid_over_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "objective: {name: emp, distortion: 1e-3}")
    line = f"digits --out x --config {path} "
    values = train_values(line + "--objective.invariance_weight 9")
    assert values["objective"] == {"name": "emp", "distortion": 0.001, "invariance_weight": 9}


def test_another_name_drops_the_options_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "optimizer: {name: lars, clip: true}")
    values = train_values(f"digits --out x --config {path} --optimizer adamw")
    assert values["optimizer"] == {"name": "adamw"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patchez: 3", "no key 'patchez', did you mean 'patches'?"),
        ("patches: three", "--patches takes INT, not 'three'"),
        ("resume: maybe", "Value not boolean: maybe"),
        ("range:", "--range needs a value; leave it out for none"),
        ("[1, 2", "Problems parsing config"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "x.yaml", text)
    with pytest.raises(UsageError, match=re.escape(f"--config {path}: {message}")):
        train_values(f"digits --out x --config {path}")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("range: percentile", "range", ["percentile"]),
        ("range: [percentile]", "range", ["percentile"]),
        ("range: '0 4095'  # of 12 bits\npatches: 3", "range", ["0 4095"]),
        ("{range: full, patches: 3}", "range", ["full"]),
        ("keep_epochs: 1e-3", "keep_epochs", [0.001]),
        ("keep_epochs: 5\nrange: |\n  full\npatches: 3", "keep_epochs", [5.0]),
        ("range: [0, 4095]", "range", [0.0, 4095.0]),
    ],
)
def test_one_value_in_a_file_is_a_list_where_an_option_takes_several(
    text: str, name: str, expected: list[Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "x.yaml", f"objective: {{distortion: 1e-3}}\n{text}"
                 if not text.startswith("{") else text)  # fmt: skip
    values = train_values(f"digits --out x --config {path}")
    assert values[name] == expected
    assert values["patches"] == (3 if "patches" in text else None)


def test_printed_configuration_is_what_the_recipe_resolves_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = yaml.safe_load(printed_config("--recipe paper --patches 20", capsys))
    expected = json.loads(json.dumps(resolve("paper", {"patches": 20})))
    assert {name: printed[name] for name in expected} == expected
    assert printed["patches"] == 20
    assert "data" not in printed


def test_printed_configuration_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "digits --out x --recipe demo --objective.distortion 0.1 --epochs 2 --device cpu"
    printed = printed_config(line, capsys)
    path = write(tmp_path / "x.yaml", printed)
    assert printed_config(f"--config {path}", capsys) == printed
    assert yaml.safe_load(printed)["objective"]["distortion"] == 0.1


# Calling the function, and what is printed.


def test_the_path_that_was_written_is_printed(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def write_run(data: str, *, out: str | Path) -> Path:
        return Path(out) / data

    verb(write_run)
    assert cli.main(["train", "digits", "--out", "runs/x"]) == 0
    assert capsys.readouterr().out == "runs/x/digits\n"


@pytest.mark.parametrize(
    ("words", "out"), [([], "accuracy 97.5%\n"), (["--json"], Scores().to_json() + "\n")]
)
def test_scores_are_a_table_or_json(
    words: list[str], out: str, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(score)
    assert cli.main(["train", "run", "digits", *words]) == 0
    assert capsys.readouterr().out == out


def test_only_the_first_process_prints(
    verb: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb(score)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.main(["train", "run", "digits"]) == 0
    assert capsys.readouterr().out == ""


def fail_with(error: BaseException) -> Callable[[], Path]:
    def fail() -> Path:
        raise error

    return fail


def test_an_error_is_one_line_and_its_exit_code(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(fail_with(DataError("no images in photos;\nname a folder")))
    assert cli.main(["train"]) == 3
    assert capsys.readouterr().err == "empssl: no images in photos; name a folder\n"


def test_errors_can_be_read_by_a_program(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(fail_with(DataError("no images")))
    assert cli.main(["train", "--json-errors"]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert json.loads(last) == {"error": "DataError", "exit_code": 3, "message": "no images"}


def test_an_interrupt_exits_with_130(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(fail_with(KeyboardInterrupt()))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "empssl: interrupted\n"


def test_a_bug_shows_where_it_happened(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(fail_with(ZeroDivisionError("a bug")))
    assert cli.main(["train"]) == 1
    assert "in fail\n" in capsys.readouterr().err


# Help and documentation.


def test_help_is_the_docstring_with_one_spelling_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse("score", score, ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "usage: empssl score RUN DATA" in text
    assert "a run directory, 100% of it." in text
    assert "pixels. (default: 32)" in text
    assert "--data-dir PATH" in text
    assert "--data_dir" not in text


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_parameter_of_every_verb_is_explained(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = getattr(empssl, name)
    with pytest.raises(SystemExit):
        cli.parse(name, function, ["--help"])
    shown = capsys.readouterr().out
    lines = re.split(r"^(?:arguments|images|measurement):$", shown, maxsplit=1, flags=re.MULTILINE)[
        1
    ]
    for parameter in cli.written_hints(function).keys() - {"return"}:
        spelled = f"(--{parameter.replace('_', '-')}|{parameter.upper()})"
        assert re.search(rf"^  {spelled}\b.*\s+[a-z]", lines, re.MULTILINE), parameter


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_is_in_groups_with_an_example_and_fits_a_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.parse(name, getattr(empssl, name), ["--help"])
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    headings = re.findall(r"^([a-z][a-z ]*):$", shown, re.MULTILINE)
    assert [h for h in headings if h in SUBJECTS] == [h for h in SUBJECTS if h in headings]
    assert {"hardware", "command line"} <= set(headings) <= {"arguments", *SUBJECTS, "example"}
    assert f"\nexample:\n  {EXAMPLES[name]}\n" in shown


def test_every_option_of_every_verb_has_one_subject() -> None:
    options = {
        name: [p.name for p in signature(getattr(empssl, name)).parameters.values()
               if p.kind is p.KEYWORD_ONLY]
        for name in cli.VERBS
    }  # fmt: skip
    listed = [option for names in SUBJECTS.values() for option in names]
    assert len(listed) == len(set(listed))
    without = [(verb, o) for verb, found in options.items() for o in found
               if subject(verb, o) not in SUBJECTS]  # fmt: skip
    assert without == []
    known = {o for found in options.values() for o in found} | {"json", "config", "plugin"}
    known |= {f"{verb}.{o}" for verb, found in options.items() for o in found} | {
        "print_config",
        "help",
    }
    assert set(listed) <= known


@pytest.mark.parametrize("name", cli.VERBS)
def test_the_example_of_a_verb_is_one_that_the_program_takes(name: str) -> None:
    program, verb, *words = shlex.split(EXAMPLES[name])
    assert (program, verb) == ("empssl", name)
    cli.parse(name, getattr(empssl, name), words)


def test_help_shows_defaults_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse("train", empssl.train, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "replace the run at `out`. (default: no)" in text
    assert "--precision NAME auto is bfloat16" in text
    assert "One of auto, 32-true, bf16-mixed, 64-true. (default: auto)" in text


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [
    line.partition("#")[0].strip()
    for document in DOCUMENTS
    for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("empssl ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_one_the_program_takes(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    values, _ = cli.parse(name, getattr(empssl, name), words)
    several = [value for key in ("runs", "exhibits") for value in values.get(key, [])]
    given = [values.get("run"), values.get("data"), *several]
    assert words[0].startswith("--") or words[0] in given


@pytest.mark.parametrize(
    "line", ["config: other.yaml", "plugin: os", "print_config: true", "as_json: true"]
)
def test_what_only_words_can_say_is_no_key_of_a_file(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(line)
    assert cli.main(["examine", "run", "--config", str(file)]) == 2
    assert f"no key '{line.partition(':')[0]}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_a_verb_of_one_process_prints_whatever_a_launcher_calls_it(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(empssl), "evaluate", score)
    monkeypatch.setenv(name, "1")
    assert cli.main(["evaluate", "run", "digits"]) == 0
    assert "97.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "start"), [("--version", "empssl "), ("train --help", "usage: empssl train ")]
)
def test_what_is_left_in_a_process_does_not_change_the_exit_code(words: str, start: str) -> None:
    program = (
        "import ctypes, sys\n"
        "system = ctypes.CDLL(None)\n"
        "system.__cxa_atexit(system.abort, None, None)  # as destructors of C++ do\n"
        f"sys.argv = ['empssl', *{words.split()!r}]\n"
        "from empssl.__main__ import run\n"
        "run()\n"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout.startswith(start)


def test_names_from_data_move_no_cursor(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(fail_with(empssl.errors.DataError("bad class '\x1b[2J\x9b'")))
    assert cli.main(["train"]) == 3
    assert r"bad class '\x1b[2J\x9b'" in capsys.readouterr().err
