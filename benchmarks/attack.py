"""What a stranger's files, a bad machine and bad luck do to `empssl`: tried, and survived.

    python benchmarks/attack.py [--seed 0] [--kills 10] [--kinds links odd-files] [--write]

Each trial is a command as a user types it, with something wrong. It is survived if it ends by
itself, in time, without a traceback, with a documented exit code, and if nothing outside of its
own directories has changed. A kill is survived if the run goes on to the same weights.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, for this process and its children

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from claim import ROOT, claim

sys.path.insert(0, str(ROOT / "tests"))
from bad_images import photo

PATIENCE = 180.0  # seconds; with three programs on a core no command here takes more
MEMORY = 3 * 2**30  # bytes beyond which what is small is out of proportion
CODES = {0, 2, 3, 4, 5, 7, 8, 10}
SMALL = ["--recipe", "demo", "--patches", "2", "--batch", "8", "--image-side", "16",
         "--backbone.width", "4", "--projector.hidden", "16", "--projector.dim", "8",
         "--precision", "32-true"]  # fmt: skip
FILES = (".lock", "config.yaml", "plan.json", "environment.json", "metrics.jsonl",
         "bad_samples.jsonl", "trained_images.safetensors", "report.html", "model/state.json",
         "model/model.safetensors")  # fmt: skip
FOLDERS = ("checkpoints", "model", "epochs", "evaluations", "quality")
VALUES = (None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J", [], {},
          [[]], {"x": [1]})  # fmt: skip


@dataclass
class Place:
    """Where trials are made.

    Attributes:
        folder: of the trial; empty.
        images: two classes of them.
        run: trained on these; not to be changed.
        draw: seeded for the trial.
    """

    folder: Path
    images: Path
    run: Path
    draw: random.Random
    wrong: list[str] = field(default_factory=list)

    def copy(self) -> Path:
        return Path(shutil.copytree(self.run, self.folder / "run"))

    def verbs(self, run: Path) -> dict[str, list[str]]:
        return {
            "resume": ["train", str(self.images), "--out", str(run), "--resume"],
            "overwrite": ["train", str(self.images), "--out", str(run), "--overwrite", *SMALL],
            "evaluate": ["evaluate", str(run), str(self.images), "--probes", "knn",
                         "--no-baselines"],
            "examine": ["examine", str(run), "--images", "8", "--no-random"],
            "report": ["report", str(run), "--images", "8"],
            "embed": ["embed", str(run), str(self.images), "--out",
                      str(self.folder / "out.parquet")],
            "compare": ["compare", str(run), "--data", str(self.images), "--probes", "knn",
                        "--out", str(self.folder / "compared")],
        }  # fmt: skip

    def survives(self, words: list[str], codes: set[int] = CODES, **options: Any) -> None:
        """Note what is wrong with the end of a command."""
        code, error = command(words, **options)
        if code not in codes or "Traceback" in error:
            last = " | ".join(error.strip().splitlines()[-3:])
            self.wrong.append(f"empssl {' '.join(words)}: {code}, {last[-400:]}")


def command(words: list[str], **options: Any) -> tuple[int | str, str]:
    """The exit code of a command, and its error stream; `hung` where it took too long."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        if "file_size" in options:
            resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_size"],) * 2)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-m", "empssl", *words], stdout=options.get("out", subprocess.DEVNULL),
        stderr=options.get("error", subprocess.PIPE), stdin=subprocess.DEVNULL, text=True,
        preexec_fn=limits, env=os.environ | options.get("environment", {}),
    )  # fmt: skip
    try:
        _, error = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hung", ""
    return process.returncode, error or ""


# Kinds of trials: each yields the names of its cases, which are tried one at a time

Kind = Iterator[tuple[str, Callable[[Place], None]]]


def kills(draw: random.Random, count: int) -> Kind:
    """Training is killed at a random instant and goes on to the weights of the run left alone."""

    def case(place: Place) -> None:
        run = place.folder / "run"
        words = ["train", str(place.images), "--out", str(run), "--epochs", "4"]
        process = subprocess.Popen(
            [sys.executable, "-m", "empssl", *words, *SMALL], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + PATIENCE
        wanted = place.draw.choice(["config.yaml", "plan.json", "metrics.jsonl", "checkpoints"])
        while not (run / wanted).exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(place.draw.uniform(0, 0.1))
        process.kill()
        process.wait()
        if (run / "config.yaml").exists():
            place.survives([*words[:4], "--resume"], {0})
        else:
            place.survives([*words, *SMALL], {0})
        if weights(run) != weights(place.run):
            place.wrong.append(f"a kill after {wanted} was there: the weights are others")

    for number in range(count):
        yield f"kill {number}", case


def links(draw: random.Random, count: int) -> Kind:
    """Names in a run lead to a file or folder of the user, which stays as it is."""

    def case(name: str, verb: str, make: str) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run, mine = place.copy(), place.folder / "mine"
            if name in FOLDERS:
                shutil.rmtree(run / name, ignore_errors=True)
                (mine / "step-000000001").mkdir(parents=True)
                (mine / "x.json").write_text("{}")
            else:
                (run / name).unlink(missing_ok=True)
                mine.write_text("years of work")
            before = contents(mine)
            (os.link if make == "hard link" else os.symlink)(mine, run / name)
            place.survives(place.verbs(run)[verb])
            if contents(mine) != before:
                place.wrong.append(f"{verb} with {name} as a {make} changed what it leads to")

        return attempt

    for name in (*FILES, *FOLDERS):
        for make in ("link",) if name in FOLDERS else ("link", "hard link"):
            verb = draw.choice(["resume", "resume", "overwrite", "report", "evaluate", "examine"])
            yield f"{name} as a {make}, {verb}", case(name, verb, make)


def pipes(draw: random.Random, count: int) -> Kind:
    """Names in a run, or among the data, are pipes."""

    def of_run(name: str, verb: str) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run = place.copy()
            (run / name).unlink(missing_ok=True)
            os.mkfifo(run / name)
            place.survives(place.verbs(run)[verb])

        return attempt

    def of_data(name: str) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            (place.folder / "data").mkdir()
            os.mkfifo(place.folder / "data" / name)
            words = ["train", str(place.folder / "data"), "--out", str(place.folder / "run")]
            place.survives([*words, *SMALL], {3})

        return attempt

    for name in FILES:
        verb = draw.choice(["resume", "report", "evaluate", "compare"])
        yield f"{name} as a pipe, {verb}", of_run(name, verb)
    for name in ("train.parquet", "0.png"):
        yield f"{name} as a pipe", of_data(name)


def bombs(draw: random.Random, count: int) -> Kind:
    """Small files that stand for gigabytes."""

    def parquet(place: Place) -> None:
        value, rows = photo(0) + bytes(2**20), 1500
        images = pa.StructArray.from_arrays(
            [pa.array([value] * rows), pa.nulls(rows, pa.string())], ["bytes", "path"]
        )
        table = pa.table({"image": images})
        pq.write_table(table, place.folder / "bomb.parquet", compression="zstd")
        words = ["train", str(place.folder / "bomb.parquet"), "--out", str(place.folder / "run")]
        place.survives([*words, *SMALL], {3})

    def aliases(place: Place) -> None:
        run = place.copy()
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)]
        (run / "config.yaml").write_text("\n".join(lines))
        place.survives(place.verbs(run)["resume"], {4})

    def state(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run = place.copy()
            found = json.loads((run / "model" / "state.json").read_text())
            change(found)
            reseal(run / "model", "state.json", json.dumps(found).encode())
            place.survives(place.verbs(run)["evaluate"], {4})

        return attempt

    def tensors(place: Place) -> None:
        run = place.copy()
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({f"t{k}": empty for k in range(200_000)}).encode()
        content = len(header).to_bytes(8, "little") + header
        reseal(run / "model", "model.safetensors", content)
        place.survives(place.verbs(run)["evaluate"], {4})

    yield "a megabyte in 1,500 rows", parquet
    yield "references in YAML", aliases
    yield "200,000 tensors", tensors
    yield "width 4000", state(lambda s: s["network"]["backbone"].update(width=4000))
    yield "images of 20,000 pixels", state(lambda s: s.update(image_side=20_000))
    yield "views of 100,000 pixels", state(lambda s: s["network"]["views"].update(side=100_000))
    yield "a billion whitened patches", state(lambda s: s["network"].update(whitened=8 * 10**9))


def odd_files(draw: random.Random, count: int) -> Kind:
    """A value somewhere in a file is another, or is not there."""
    names = ("config.yaml", "plan.json", "environment.json", "metrics.jsonl", "model/state.json",
             "model/manifest.json", "evaluations/x.json", "quality/x.json")  # fmt: skip

    def case(name: str, verb: str) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run = place.copy()
            path = run / name
            if name.startswith(("evaluations", "quality")):
                path = next((run / name.partition("/")[0]).glob("*.json"))
            text = path.read_text()
            lines = text.splitlines() if name == "metrics.jsonl" else []
            content = json.loads(lines[0]) if lines else yaml.safe_load(text)
            spoiled = spoil(content, place.draw)
            if name == "config.yaml":
                path.write_text(yaml.safe_dump(spoiled))
            elif lines:
                path.write_text("\n".join([json.dumps(spoiled), *lines[1:]]) + "\n")
            else:
                path.write_text(json.dumps(spoiled))
            if name == "model/state.json":
                reseal(run / "model", "state.json", path.read_bytes())
            place.survives(place.verbs(run)[verb])

        return attempt

    for number in range(4 * count):
        name = names[number % len(names)]
        verb = draw.choice(["resume", "report", "evaluate", "compare"])
        yield f"{name} with another value, {verb}", case(name, verb)


def storage(draw: random.Random, count: int) -> Kind:
    """No file may grow beyond a size, or the run cannot be written to."""

    def small(verb: str, size: int) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run = place.copy()
            words = place.verbs(run)[verb]
            if verb == "overwrite":
                words = ["train", str(place.images), "--out", str(place.folder / "new"), *SMALL]
            place.survives(words, {0, 4, 10}, file_size=size)

        return attempt

    def unwritable(verb: str, name: str) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run = place.copy()
            shutil.rmtree(run / name)
            (run / name).write_text("a file")
            place.survives(place.verbs(run)[verb], {4})

        return attempt

    for verb in ("overwrite", "evaluate", "examine", "report", "embed", "compare"):
        for size in (0, draw.choice([100, 1_000, 10_000])):
            yield f"files of at most {size} bytes, {verb}", small(verb, size)
    yield "a file in place of evaluations, evaluate", unwritable("evaluate", "evaluations")
    yield "a file in place of quality, examine", unwritable("examine", "quality")


def streams(draw: random.Random, count: int) -> Kind:
    """The error stream, or that of results, is full or has no reader."""

    def case(verb: str, stream: str, kind: str) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            words = place.verbs(place.copy())[verb]
            if verb == "overwrite":
                words = ["train", str(place.images), "--out", str(place.folder / "new"), *SMALL]
            reader, writer = os.pipe()
            os.close(reader)
            handle = writer if kind == "gone" else os.open("/dev/full", os.O_WRONLY)
            place.survives(words, {0} if stream == "error" else {4}, **{stream: handle})
            os.close(writer)
            if verb == "overwrite" and not (place.folder / "new" / "model").is_dir():
                place.wrong.append(f"training did not end without its {stream} stream")

        return attempt

    for stream in ("error", "out"):
        for verb in ("overwrite", "evaluate", "report"):
            kind = draw.choice(["full", "gone"])
            yield f"{stream} {kind}, {verb}", case(verb, stream, kind)


def words(draw: random.Random, count: int) -> Kind:
    """Numbers, names and surroundings that make no sense."""

    def case(added: list[str], environment: dict[str, str]) -> Callable[[Place], None]:
        def attempt(place: Place) -> None:
            run = str(place.folder / "new")
            line = ["train", str(place.images), "--out", run, *SMALL, *added]
            place.survives(line, environment=environment)

        return attempt

    for added in (["--epochs", "1e308"], ["--image-side", "100000"], ["--patches", "1" + "0" * 9],
                  ["--batch", "1" + "0" * 18], ["--backbone.width", "1" + "0" * 6],
                  ["--out", "x" * 256], ["--out", ""], ["--seed", "1" + "0" * 30],
                  ["--config", "/dev/null"], ["--budget", "9" * 200 + "d"]):  # fmt: skip
        yield " ".join(added)[:40], case(added, {})
    for environment in ({"SLURM_PROCID": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0",
                        "PYTHONCOERCECLOCALE": "0"}, {"TERM": "dumb", "COLUMNS": "1"}):  # fmt: skip
        yield " ".join(environment), case([], environment)


KINDS = {
    "kills": kills, "links": links, "pipes": pipes, "bombs": bombs, "odd-files": odd_files,
    "storage": storage, "streams": streams, "words": words,
}  # fmt: skip


def spoil(content: Any, draw: random.Random) -> Any:
    """With another value in one place, or without it."""
    places = [(content, key) for key in content] if isinstance(content, dict) else []
    for owner, key in places:
        value = owner[key]
        if isinstance(value, dict | list) and value:
            keys = value if isinstance(value, dict) else range(min(len(value), 3))
            places += [(value, inner) for inner in keys]
    owner, key = draw.choice(places)
    if draw.random() < 0.25:
        del owner[key]
    else:
        owner[key] = draw.choice(VALUES)
    return content


def reseal(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and its checksum with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def weights(run: Path) -> Any:
    manifest = run / "model" / "manifest.json"
    if not manifest.exists():
        return None
    return json.loads(manifest.read_text())["sha256"]["model.safetensors"]


def contents(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file): file.read_bytes() if file.is_file() else b"" for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=10, help="and four times as many odd files")
    parser.add_argument("--write", action="store_true", help="to docs/results/attack.json")
    args = parser.parse_args()
    tried, survived, failures = Counter[str](), Counter[str](), list[str]()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as at:
        images, run = Path(at) / "images", Path(at) / "run"
        for number in range(32):
            folder = images / str(number % 2)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:02d}.png").write_bytes(photo(number, side=16))
        place = Place(Path(at) / "trial", images, run, random.Random(args.seed))
        made = ["train", str(images), "--out", str(run), "--epochs", "4", *SMALL]
        verbs = place.verbs(run)
        for line in (made, [*verbs["evaluate"], "--breakdown"], verbs["examine"]):
            code, error = command(line)
            assert code == 0, error
        for kind in args.kinds:
            draw = random.Random(f"{kind} {args.seed}")
            for name, case in KINDS[kind](draw, args.kills):
                place = Place(Path(at) / "trial", images, run, draw)
                place.folder.mkdir()
                case(place)
                shutil.rmtree(place.folder, ignore_errors=True)
                tried[kind] += 1
                survived[kind] += not place.wrong
                failures += [f"{kind}, {name}: {what}" for what in place.wrong]
                for what in place.wrong:
                    print(f"FAILED {kind}, {name}: {what}", flush=True)
            print(f"{kind}: {survived[kind]} of {tried[kind]}", file=sys.stderr, flush=True)
    told = [failure.replace(at, "") for failure in failures]
    claim(
        "attack", [survived.total()], "survived", write=args.write, tried=tried.total(),
        seed=args.seed, kinds={kind: f"{survived[kind]} of {tried[kind]}" for kind in args.kinds},
        failures=told,
    )  # fmt: skip
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
