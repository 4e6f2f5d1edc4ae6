"""What a user gets for input that cannot be used: one line, and the exit code that says why."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from bad_images import photo
from tiny import command

from empssl.cli import main
from empssl.runs.run import Run

SMALL = command(Path("unused"))[4:]  # the options of a tiny run, after --out


class _Canary:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(photo(number))
    return folder


def fails(argv: list[str], code: int, *words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with the code, and its last line holds the words."""
    capsys.readouterr()
    assert main(argv) == code
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("empssl"), err
    assert "Traceback" not in err
    assert not out
    for word in words:
        assert word in last


def train(data: Path | str, out: Path, *options: str) -> list[str]:
    return ["train", str(data), "--out", str(out), *SMALL, *options]


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = train(tmp_path / "none", tmp_path / "run")
    fails(argv, 3, "no file or folder", "digits", capsys=capsys)
    assert not (tmp_path / "run").exists()


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    fails(train(tmp_path / "empty", tmp_path / "run"), 3, "no images", ".jpg", capsys=capsys)


def test_folder_with_only_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.jpg").write_bytes(b"not a picture")
    fails(train(folder, tmp_path / "run"), 3, "no usable image", "unreadable", capsys=capsys)


def test_forty_broken_images_among_good_ones_are_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 200)
    broken = [f"broken-{number:02d}.png" for number in range(40)]
    for number, name in enumerate(broken):
        (folder / name).write_bytes(photo(number)[: 60 + number])
    run = tmp_path / "run"
    assert main(train(folder, run, "--image-side", "16", "--epochs", "0.1")) == 0
    lines = [json.loads(line) for line in Run(run).bad_samples_path.read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == broken
    assert Run(run).plan["usable_samples"] == 200


def test_too_many_broken_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path / "photos", 40)
    for number in range(20):
        (folder / f"broken-{number}.png").write_bytes(b"\x89PNG")
    fails(train(folder, tmp_path / "run"), 3, "13 of 60", "unreadable", capsys=capsys)


def test_batch_larger_than_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = train("digits", tmp_path / "run", "--batch", "5000")
    fails(argv, 2, "5000", "1437", "--batch", capsys=capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--patches", "1", "agree"),
        ("--batch", "1", "no other to be told from"),
        ("--epochs", "0", "positive"),
        ("--epochs", "nan", "NUMBER"),
        ("--budget", "soon", "10m"),
        ("--objective", "empp", "'emp'"),
        ("--objective.distortion", "-1", "positive"),
        ("--views.crop", "2", "fraction"),
        ("--optimizer.momentun", "1", "'momentum'"),
        ("--backbone", "resnet19", "'resnet18'"),
        ("--backbone.stem", "smal", "'small'"),
        ("--recipe", "lapptop", "'laptop'"),
        ("--device", "gpu", "cuda"),
    ],
)
def test_settings_that_cannot_be_carried_out(
    option: str, value: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(train("digits", tmp_path / "run", option, value), 2, word, capsys=capsys)
    assert not (tmp_path / "run").exists()


def test_unknown_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = train("digits", tmp_path / "run", "--patchez", "3")
    fails(argv, 2, "'--patchez'", "did you mean '--patches'", capsys=capsys)


def test_existing_out(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(train("digits", tiny_run), 2, "--resume", "--overwrite", capsys=capsys)


def test_out_that_is_no_run_is_never_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    fails(train("digits", tmp_path, "--overwrite"), 2, "not a run", capsys=capsys)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of one's own to damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_damaged_model(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    fails(["evaluate", str(copied), "digits"], 4, "damaged", "model.safetensors", capsys=capsys)


def test_model_of_another_architecture(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied / "model"
    state = json.loads((folder / "state.json").read_text())
    state["network"]["backbone"]["width"] = 8
    _rewrite(folder, "state.json", json.dumps(state).encode())
    words = ("another architecture", "expected (8, 3, 3, 3)")
    fails(["evaluate", str(copied), "digits"], 4, *words, capsys=capsys)


def test_hostile_pickle_renamed_to_a_checkpoint(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = copied / "canary"
    hostile = pickle.dumps(_Canary(canary))
    pickle.loads(hostile)
    assert canary.exists()  # it would bite
    canary.unlink()
    _rewrite(copied / "model", "model.safetensors", hostile)
    for verb in (["evaluate", str(copied), "digits"], ["report", str(copied / "model")]):
        fails(verb, 4, capsys=capsys)
    assert not canary.exists()


def test_no_run_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["evaluate", str(tmp_path / "none"), "digits"], 4, "does not exist", capsys=capsys)


def test_labels_that_are_not_there(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "flat", 12)
    fails(["evaluate", str(tiny_run), str(folder)], 3, "labels", capsys=capsys)


def _rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its checksum with it, as an attacker would."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "", "--out", "x"], 2, "DATA is empty"),
        (["train", "digits", "--out", ""], 2, "--out is empty"),
        (["evaluate", "", "digits"], 2, "RUN is empty"),
        (["train", "~nosuchuser/x", "--out", "x"], 3, "no file or folder"),
        (["train", "z" * 256, "--out", "x"], 3, "no file or folder"),
        (["train", "digits", "--out", "x" * 256], 4, "too long"),
        (["evaluate", "x" * 256, "digits"], 4, "too long"),
        (["train", "digits", "--out", "x", "--epochs", "1e308"], 2, "at most 1,000,000,000"),
        (["train", "digits", "--out", "x", "--budget", "9" * 300 + "h"], 2, "no duration"),
        (["train", "digits", "--out", "x", "--image-side", "100000"], 2, "at most 4,096 pixels"),
        (["train", "digits", "--out", "x", "--views.side", "100000"], 2, "1 to 4,096 pixels"),
        (["train", "digits", "--out", "x", "--patches", "1000000000"], 2, "at most 100,000"),
        (["train", "digits", "--out", "x", "--batch", "1" + "0" * 18], 2, "at most 1,000,000"),
        (["bench", "--batch", "1" + "0" * 18], 2, "at most 1,000,000"),
        (["bench", "--patches", "1" + "0" * 18], 2, "at most 100,000"),
        (["bench", "--image-side", "100000"], 2, "at most 4,096"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_a_sentence(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fails(words, code, said, capsys=capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_run_may_lie_where_paths_are_no_text(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "\udcff\x1b[31m" / "run")
    words = [str(run), "digits", "--probes", "knn", "--no-baselines", "--layers", "head"]
    assert main(["evaluate", *words]) == 0
    assert main(["report", str(run), "--images", "20"]) == 0
    out, _ = capsys.readouterr()
    assert out.isascii()
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("error", "code"), [(MemoryError(), 7), (RuntimeError("can't allocate memory: 1 TB"), 7),
                        (OSError(5, "Input/output error", "/disk/x"), 4)],
)  # fmt: skip
def test_what_the_machine_refuses_is_a_sentence(
    error: Exception, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("empssl.training.train.open_images", refuse)
    fails(train("digits", tmp_path / "run"), code, str(error), capsys=capsys)


def test_a_configuration_with_references_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "options.yaml").write_text("views: &a {name: patches}\nbackbone: *a\n")
    words = train("digits", tmp_path / "run", "--config", str(tmp_path / "options.yaml"))
    fails(words, 2, "*a is a reference", capsys=capsys)
