"""What a stranger's files, a bad machine and bad luck do to `empssl`: tried, and survived.

    python benchmarks/attack.py [--seed 0] [--kills 10] [--kinds links odd-files] [--only TEXT]
                                [--workers 2] [--write]

Each trial is a command as a user types it, with something wrong. It is survived if the command
ends by itself with an exit code that is documented for this, says in one line what is wrong if
that is not 0, needs no more time and memory than such commands do, and leaves everything else as
it was. A kill is survived if the same command then leads to the same result as without it.
"""

import argparse
import functools
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, for this process and its children

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from claim import ROOT, claim

sys.path.insert(0, str(ROOT / "tests"))
from bad_images import photo, png_chunk

PATIENCE = 180.0  # seconds; with three programs on a core no command here takes more
CPU_SECONDS = 40.0  # of one command; most take 3, a comparison 10
MEMORY = 3 * 2**30  # bytes of address space with data, so that a bomb does not take the machine
MOST_RESIDENT = 2**30  # bytes; commands of this size take 300 to 600 MB
CODES = {0, 2, 3, 4, 5, 7, 8, 10}
SMALL = ["--recipe", "demo", "--patches", "2", "--batch", "8", "--image-side", "16",
         "--backbone.width", "4", "--projector.hidden", "16", "--projector.dim", "8",
         "--precision", "32-true"]  # fmt: skip
FILES = (".lock", "config.yaml", "plan.json", "environment.json", "metrics.jsonl",
         "bad_samples.jsonl", "trained_images.safetensors", "report.html", "model/state.json",
         "model/manifest.json", "model/model.safetensors")  # fmt: skip
FOLDERS = ("checkpoints", "model", "epochs", "evaluations", "quality")
VALUES = (None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J", [], {},
          [[]], {"x": [1]})  # fmt: skip
READERS = ("evaluate", "examine", "report", "embed", "compare")
ESCAPES = "\x1b[2J\x1b]0;x\x07"  # clears a terminal and renames its window
MARKUP = "<img src=x onerror=alert(1)>"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | str
    out: str
    error: str


@dataclass
class Place:
    """Where a trial is made.

    Attributes:
        folder: of the trial; empty.
        images: two classes of them; not to be changed.
        run: trained on these; not to be changed.
        embeddings: of these; not to be changed.
        draw: seeded for the trial.
        wrong: what is not as it should be.
    """

    folder: Path
    images: Path
    run: Path
    embeddings: Path
    draw: random.Random
    wrong: list[str] = field(default_factory=list)

    def copy(self, name: str = "run") -> Path:
        return Path(shutil.copytree(self.run, self.folder / name))

    def verbs(self, run: Path, images: Path | None = None) -> dict[str, list[str]]:
        data = str(images or self.images)
        return {
            "train": ["train", data, "--out", str(self.folder / "new"), *SMALL],
            "resume": ["train", data, "--out", str(run), "--resume"],
            "overwrite": ["train", data, "--out", str(run), "--overwrite", *SMALL],
            "evaluate": ["evaluate", str(run), data, "--probes", "knn", "--no-baselines"],
            "examine": ["examine", str(run), "--images", "8", "--no-random"],
            "report": ["report", str(run), "--images", "8"],
            "embed": ["embed", str(run), data, "--out", str(self.folder / "out.parquet")],
            "compare": ["compare", str(run), "--data", data, "--probes", "knn", "--out",
                        str(self.folder / "compared")],
        }  # fmt: skip

    def survives(self, words: list[str], codes: set[int] = CODES, **options: Any) -> Outcome:
        """Carry out a command and note what is wrong with its end."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = command(words, **options)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found = faults(ended, codes)
        if took > CPU_SECONDS:
            found.append(f"{took:.0f} s of work")
        if after.ru_maxrss > max(before.ru_maxrss, MOST_RESIDENT // 1024):
            found.append(f"{after.ru_maxrss / 1024:.0f} MB of memory")
        self.wrong += [f"empssl {' '.join(words)}: {what}" for what in found]
        return ended

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.wrong.append(otherwise)


def faults(ended: Outcome, codes: set[int]) -> list[str]:
    """What is not documented about the end of a command."""
    lines = ended.error.strip().splitlines()
    found = []
    if ended.code not in codes:
        found.append(f"{ended.code}, not {sorted(codes)}")
    if "Traceback" in ended.error:
        found.append("a traceback")
    # The last line, but where there are results with a reservation, which was said before them.
    told = [re.match(r"empssl( \w+)?: .{10}", line) for line in lines]
    if ended.code != 0 and ended.error and not any(told if ended.out.strip() else told[-1:]):
        found.append("its last line is no message")
    if any(not c.isprintable() and c not in "\n\r" for c in ended.out + ended.error):
        found.append("a control character")
    return [f"{what} ({' | '.join(lines[-3:])[-400:]})" for what in found]


def command(words: list[str], **options: Any) -> Outcome:
    """How a command ends; with `hung` for its code where it took too long.

    Args:
        words: after `empssl`.
        options: `out` and `error`, handles in place of the streams; `environment`, variables;
            `file_size`, the most bytes of a file; `before`, words that lead to the command.
    """

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        if "file_size" in options:
            resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_size"],) * 2)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = subprocess.Popen(
        [*options.get("before", []), sys.executable, "-m", "empssl", *words],
        stdout=options.get("out", subprocess.PIPE), stderr=options.get("error", subprocess.PIPE),
        stdin=subprocess.DEVNULL, preexec_fn=limits,
        env=os.environ | options.get("environment", {}),
    )  # fmt: skip
    try:
        out, error = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Outcome("hung", "", "")
    return Outcome(process.returncode, *((s or b"").decode(errors="replace") for s in (out, error)))


# Kinds of trials: each yields the names of its cases, which are tried one at a time

Case = Callable[[Place], None]
Kind = Iterator[tuple[str, Case]]


def kills(draw: random.Random, count: int) -> Kind:
    """A command is killed at a random instant, and made again."""

    def training(place: Place) -> None:
        run = place.folder / "run"
        words = ["train", str(place.images), "--out", str(run), "--epochs", "4"]
        wanted = place.draw.choice(["config.yaml", "plan.json", "metrics.jsonl", "checkpoints"])
        killed([*words, *SMALL], lambda: (run / wanted).exists(), place.draw.uniform(0, 0.1))
        if (run / "config.yaml").exists():
            place.survives([*words[:4], "--resume"], {0})
        else:
            place.survives([*words, *SMALL], {0})
        same = weights(run) == weights(place.run)
        place.expect(same, f"a kill after {wanted} was there: the weights are others")

    def other(verb: str) -> Case:
        def attempt(place: Place) -> None:
            # Embeddings say which run made them.
            run = place.run if verb == "embed" else place.copy()
            words = place.verbs(run)[verb]
            # Most of its time a command imports modules; what it writes, it writes at the end.
            began = [p for p in place.folder.rglob("*") if p.is_file()]
            wrote = lambda: any(p not in began for p in place.folder.rglob("*"))  # noqa: E731
            killed(words, wrote, place.draw.uniform(0, 0.2))
            if verb == "embed" and (place.folder / "out.parquet").exists():
                words = [*words, "--overwrite"]
            place.survives(words, {0})
            left = [str(p.name) for p in place.folder.rglob("*.partial-*")]
            place.expect(not left, f"{verb} after a kill leaves {left}")
            if verb == "embed":
                same = (place.folder / "out.parquet").read_bytes() == place.embeddings.read_bytes()
                place.expect(same, "embed after a kill makes other bytes")
            for path in place.folder.rglob("*.json"):
                json.loads(path.read_text())
            for path in place.folder.rglob("*.html"):
                place.expect(path.read_text().rstrip().endswith("</html>"), f"{path} is cut")

        return attempt

    for number in range(count):
        yield f"train, kill {number}", training
    for verb in READERS:
        for number in range(max(count // 5, 1)):
            yield f"{verb}, kill {number}", other(verb)


def killed(words: list[str], ready: Callable[[], bool], delay: float) -> None:
    """Start a command and kill it so many seconds after something is true."""
    process = subprocess.Popen(
        [sys.executable, "-m", "empssl", *words], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until and not ready():
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.wait()


def links(draw: random.Random, count: int) -> Kind:
    """Names in a run lead to a file or folder of the user, which stays as it is."""

    def of_run(name: str, verb: str, make: Callable[..., None]) -> Case:
        def attempt(place: Place) -> None:
            run, mine = place.copy(), place.folder / "mine"
            if name in FOLDERS:
                shutil.rmtree(run / name, ignore_errors=True)
                (mine / "step-000000001").mkdir(parents=True)
                (mine / ".x.partial-1").mkdir()
                (mine / "x.json").write_text("{}")
            else:
                for path in run.glob(name):
                    path.unlink()
                mine.write_text("years of work")
            before = contents(mine)
            path = run / name.replace("*", "x")
            path.parent.mkdir(exist_ok=True)
            make(mine, path)
            place.survives(place.verbs(run)[verb], {0, 2, 4, 10})
            place.expect(contents(mine) == before, f"{verb} changed what {name} leads to")

        return attempt

    def of_comparison(name: str) -> Case:
        def attempt(place: Place) -> None:
            mine = place.folder / "mine"
            mine.write_text("years of work")
            path = place.folder / "compared" / name.replace("RUN", place.run.name)
            path.parent.mkdir(parents=True)
            path.symlink_to(mine)
            place.survives(place.verbs(place.copy())["compare"], {0, 4, 10})
            place.expect(mine.read_text() == "years of work", f"compare overwrote through {name}")

        return attempt

    writers = ["resume", "overwrite", "report", "evaluate", "examine"]
    for name in (*FILES, "evaluations/*.json", "quality/*.json", *FOLDERS):
        verbs = {"evaluations": ["evaluate"], "quality": ["examine"], "report.html": ["report"]}
        verb = draw.choice(verbs.get(name.partition("/")[0], writers))
        yield f"{name} as a link, {verb}", of_run(name, verb, os.symlink)
        if name not in FOLDERS:
            yield f"{name} as a hard link, {verb}", of_run(name, verb, os.link)
    for name in ("cells/RUN.lock", "cells/RUN.failed", "cells/RUN.map", "compare.json",
                 "compare.html", "compare.md"):  # fmt: skip
        yield f"{name} as a link, compare", of_comparison(name)


def pipes(draw: random.Random, count: int) -> Kind:
    """Names in a run, or among the data, are pipes."""

    def of_run(name: str, verb: str) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            (run / name).unlink(missing_ok=True)
            os.mkfifo(run / name)
            place.survives(place.verbs(run)[verb], {0, 4, 10})

        return attempt

    def of_data(name: str, codes: set[int]) -> Case:
        def attempt(place: Place) -> None:
            data = place.folder / "data"
            if 3 not in codes or name.endswith((".csv", ".jsonl", ".txt")):
                shutil.copytree(place.images, data)
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(data / name)
            place.survives(place.verbs(place.run, data)["train"], codes)

        return attempt

    for name in FILES:
        verb = draw.choice(["resume", "report", "evaluate", "compare"])
        yield f"{name} as a pipe, {verb}", of_run(name, verb)
    for name, codes in {"train.parquet": {3}, "0.png": {3}, "0/x.png": {0}, "metadata.csv": {0, 3},
                        "metadata.jsonl": {0, 3}, "labels.csv": {0, 3}, "wnids.txt": {0, 3},
                        "cifar-10-python.tar.gz": {0, 3}}.items():  # fmt: skip
        yield f"{name} as a pipe", of_data(name, codes)


def bombs(draw: random.Random, count: int) -> Kind:
    """Small files that stand for gigabytes."""

    def parquet(place: Place) -> None:
        value, rows = photo(0) + bytes(2**20), 1500
        write_images(place.folder / "bomb.parquet", [value] * rows)
        place.survives(place.verbs(place.run, place.folder / "bomb.parquet")["train"], {3})

    def nulls(place: Place) -> None:
        write_images(place.folder / "bomb.parquet", [None] * 3_000_000)
        place.survives(place.verbs(place.run, place.folder / "bomb.parquet")["train"], {3})

    def pixels(side: int, codes: set[int]) -> Case:
        def attempt(place: Place) -> None:
            data = Path(shutil.copytree(place.images, place.folder / "data"))
            head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
            packer = zlib.compressobj(9)
            rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side))
            body = png_chunk(b"IDAT", rows + packer.flush())
            (data / "0" / "bomb.png").write_bytes(
                b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + body + png_chunk(b"IEND", b"")
            )
            ended = place.survives(place.verbs(place.run, data)["train"], codes)
            place.expect("1 are bad" in ended.error or "1 is bad" in ended.error, "it is not named")

        return attempt

    def aliases(name: str, words: Callable[[Place, Path], list[str]], code: int) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            lines = ["a0: &a0 [x, x]"]
            lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)]
            (run / name).write_text("\n".join(lines))
            place.survives(words(place, run), {code})

        return attempt

    def state(change: Callable[[dict[str, Any]], object], verb: str) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            found = json.loads((run / "model" / "state.json").read_text())
            change(found)
            reseal(run / "model", "state.json", json.dumps(found).encode())
            place.survives(place.verbs(run)[verb], {4})

        return attempt

    def tensors(name: str, many: int) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            header = json.dumps({f"t{k}": empty for k in range(many)}).encode()
            content = len(header).to_bytes(8, "little") + header
            if "/" in name:
                reseal(run / "model", "model.safetensors", content)
            else:
                (run / name).write_bytes(content)
            verb = "evaluate" if "/" in name else "resume"
            # A list of trained images that cannot be read is said, and made anew.
            place.survives(place.verbs(run)[verb], {4} if "/" in name else {0})

        return attempt

    yield "a megabyte in 1,500 rows", parquet
    yield "three million rows of nothing", nulls
    yield "a PNG of 60,000 pixels a side", pixels(60_000, {0})
    yield "references in a run's YAML", aliases(
        "config.yaml", lambda place, run: place.verbs(run)["resume"], 4)  # fmt: skip
    yield "references in --config", aliases(
        "mine.yaml", lambda place, run: [*place.verbs(run)["train"], "--config",
                                         str(run / "mine.yaml")], 2)  # fmt: skip
    yield "200,000 tensors", tensors("model/model.safetensors", 200_000)
    yield "200,000 tensors of trained images", tensors("trained_images.safetensors", 200_000)
    for name, change in {
        "width 4000": lambda s: s["network"]["backbone"].update(width=4000),
        "images of 20,000 pixels": lambda s: s.update(image_side=20_000),
        "views of 100,000 pixels": lambda s: s["network"]["views"].update(side=100_000),
        "a billion whitened patches": lambda s: s["network"].update(whitened=8 * 10**9),
    }.items():
        yield name, state(change, draw.choice(["evaluate", "embed"]))


def odd_files(draw: random.Random, count: int) -> Kind:
    """A file that is read says something that it never says."""
    readers = {"evaluations/*.json": ["report", "compare"], "quality/*.json": ["report"],
               "metrics.jsonl": ["resume", "report"], "config.yaml": ["resume", "report", "embed"],
               "plan.json": ["resume", "report", "evaluate"], "environment.json": ["report"],
               "model/state.json": ["embed", "evaluate"],
               "model/manifest.json": ["embed", "evaluate"]}  # fmt: skip

    def of_run(name: str, verb: str, change: Callable[[str, random.Random], str]) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            path = next(iter(run.glob(name)))
            changed = change(path.read_text(), place.draw)
            path.write_text(changed)
            if name == "model/state.json":
                reseal(run / "model", "state.json", path.read_bytes())
            place.survives(place.verbs(run)[verb], {0, 4, 10})

        return attempt

    def of_config(text: str) -> Case:
        def attempt(place: Place) -> None:
            (place.folder / "mine.yaml").write_text(text)
            words = [*place.verbs(place.run)["train"], "--config", str(place.folder / "mine.yaml")]
            place.survives(words, {2})

        return attempt

    def of_data(name: str, write: Callable[[Path], object], codes: set[int]) -> Case:
        def attempt(place: Place) -> None:
            data = place.folder / name
            if data.suffix != ".parquet":
                shutil.copytree(place.images, place.folder / "data")
                data = place.folder / "data" / name
            write(data)
            verb = place.draw.choice(["train", "evaluate"])
            at = data if data.suffix == ".parquet" else data.parent
            place.survives(place.verbs(place.copy(), at)[verb], codes)

        return attempt

    def of_embeddings(change: Callable[[pa.Table], pa.Table]) -> Case:
        def attempt(place: Place) -> None:
            path = place.folder / "odd.parquet"
            pq.write_table(change(pq.read_table(place.embeddings)), path)
            place.survives(["evaluate", str(path), "--probes", "knn"], {0, 2, 3, 4})

        return attempt

    whole = {"a number": "5", "a list": "[]", "nothing in it": "{}", "no text": "", "null": "null",
             "deep": "[" * 100_000, "broken": '{"a": ', "infinity": '{"schema": Infinity}',
             "a long number": "1" * 5_000}  # fmt: skip
    for name, verbs in readers.items():
        for what in ("deep", *draw.sample(sorted(whole.keys() - {"deep"}), 2)):
            verb = draw.choice(verbs)
            rest = name == "metrics.jsonl"
            yield f"{name}: {what}, {verb}", of_run(
                name, verb,
                lambda old, _, what=what, rest=rest: whole[what] + ("\n" + old if rest else ""),
            )  # fmt: skip
    state = {
        "views []": {"views": []},
        "a backbone as text": {"backbone": "resnet10"},
        "a width that is infinite": {"backbone": {"name": "resnet10", "width": float("inf")}},
    }
    for what, change in state.items():
        yield f"model/state.json: {what}", of_run(
            "model/state.json", "embed",
            lambda old, _, change=change: json.dumps(
                (found := json.loads(old)) | {"network": found["network"] | change}),
        )  # fmt: skip
    yield (
        "model/manifest.json: schema NaN",
        of_run(
            "model/manifest.json",
            "evaluate",
            lambda old, _: json.dumps(json.loads(old) | {"schema": float("nan")}),
        ),
    )
    for what, key, value in (("data 5", "data", 5), ("views null", "views", None),
                             ("seed a", "seed", "a")):  # fmt: skip
        yield (
            f"config.yaml: {what}",
            of_run(
                "config.yaml",
                "resume",
                lambda old, _, key=key, value=value: yaml.safe_dump(
                    yaml.safe_load(old) | {key: value}
                ),
            ),
        )
    for text in ("seed: a", "views: []", "5", "[" * 1_000, "epochs: .inf", "\x00", "!!python/x 1"):
        yield f"--config {text[:12]!r}", of_config(text)
    for number in range(2 * count):
        name = list(readers)[number % len(readers)]
        verb = draw.choice(readers[name])
        yield f"{name}: another value, {verb}", of_run(name, verb, spoil)
    for name, (write, codes) in odd_data().items():
        yield name, of_data(name.partition(":")[0], write, codes)
    for name, change in odd_embeddings().items():
        yield f"embeddings: {name}", of_embeddings(change)


def odd_data() -> dict[str, tuple[Callable[[Path], object], set[int]]]:
    """Odd files of data, by their names, and the codes that they may lead to."""
    good = [photo(number, side=16) for number in range(32)]
    halves = [number % 2 for number in range(32)]

    def table(*, meta: dict[str, Any] | str | None = None, **columns: Any) -> Callable[..., None]:
        def write(path: Path) -> None:
            made = pa.table({"image": images_column(good), **columns})
            if meta is not None:
                text = meta if isinstance(meta, str) else json.dumps(meta)
                made = made.replace_schema_metadata({"huggingface": text})
            pq.write_table(made, path, store_schema=False)

        return write

    def declared(**features: Any) -> dict[str, Any]:
        return {"info": {"features": {"image": {"_type": "Image"}, **features}}}

    def only(column: pa.Array) -> Callable[..., None]:
        features = {"x": {"_type": "Image"}}
        meta = {"huggingface": json.dumps({"info": {"features": features}})}
        return lambda path: pq.write_table(
            pa.table({"x": column}).replace_schema_metadata(meta), path
        )

    label = {"_type": "ClassLabel", "names": ["a", "b"]}
    found: dict[str, Callable[[Path], object]] = {
        "no rows": lambda path: write_images(path, []),
        "no file": lambda path: path.write_bytes(b""),
        "no parquet": lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
        "half of one": lambda path: (table()(path), path.write_bytes(path.read_bytes()[:-9])),
        "rows of nothing": lambda path: write_images(path, [None] * 32),
        "texts declared images": only(pa.array(["x"] * 32)),
        "numbers declared images": only(pa.array(range(32))),
        "floats declared images": only(pa.array([0.5] * 32)),
        "lists declared images": only(pa.array([[1]] * 32)),
        "labels of 64 bits": table(label=pa.array([2**64 - 1] * 32, pa.uint64())),
        "labels below 0": table(label=pa.array([-7] * 32)),
        "labels that are no numbers": table(label=pa.array([float("nan")] * 32)),
        "labels that are lists": table(label=pa.array([[1]] * 32)),
        "labels that are null": table(label=pa.nulls(32)),
        "labels that are dates": table(label=pa.array([0] * 32, pa.timestamp("s"))),
        "labels beyond their names": table(label=pa.array([5] * 32), meta=declared(label=label)),
        "two labels": table(a=pa.array(halves), b=pa.array(halves),
                            meta=declared(a=label, b=label)),
        "names that are numbers": table(label=pa.array(halves),
                                        meta=declared(label=label | {"names": [1, 2]})),
        "names that are null": table(label=pa.array(halves),
                                     meta=declared(label=label | {"names": None})),
        "deep metadata": table(label=pa.array(halves), meta="[" * 100_000),
        "metadata that is a list": table(label=pa.array(halves), meta="[]"),
        "metadata with other things": table(label=pa.array(halves),
                                            meta='{"info": {"features": 5}}'),
    }  # fmt: skip
    files = {f"odd.parquet: {name}": (write, {0, 2, 3}) for name, write in found.items()}
    for name, content in {
        "metadata.jsonl: a number": b"5\n", "metadata.jsonl: deep": b"[" * 100_000 + b"\n",
        "metadata.csv: no text": b"file_name,label\n\xff\xfe,\xff\n",
        "metadata.csv: a long field": b"file_name,label\n" + b"x" * 200_000 + b",1\n",
        "metadata.csv: a null": b"file_name,label\n\x00,1\n",
    }.items():  # fmt: skip
        files[name] = (functools.partial(_write_bytes, content=content), {0, 2, 3})
    return files


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def odd_embeddings() -> dict[str, Callable[[pa.Table], pa.Table]]:
    """Changes of a table of embeddings."""

    def put(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.set_column(table.schema.get_field_index(name), name, values)

    rows = 32
    return {
        "no rows": lambda table: table.slice(0, 0),
        "no metadata": lambda table: table.replace_schema_metadata(None),
        "deep metadata": lambda table: table.replace_schema_metadata({"empssl": "[" * 100_000}),
        "none valid": put("valid", pa.array([False] * rows)),
        "no column of labels": lambda table: table.drop_columns(["label"]),
        "labels as text": put("label", pa.array(["a", "b"] * (rows // 2))),
        "labels as lists": put("label", pa.array([[1]] * rows)),
        "embeddings as text": put("embedding", pa.array(["x"] * rows)),
        "embeddings of many lengths": put("embedding", pa.array([[0.5] * k for k in range(rows)])),
        "embeddings without end": put("embedding", pa.array([[float("inf")] * 4] * rows)),
        "empty embeddings": put("embedding", pa.array([[]] * rows, pa.list_(pa.float32(), 0))),
    }


def storage(draw: random.Random, count: int) -> Kind:
    """The disk is full, no file may grow beyond a size, or the run cannot be written to."""
    codes = {verb: {4} for verb in ("train", "overwrite", "report", "embed", "evaluate", "examine")}
    codes |= {"compare": {4, 10}, "resume": {0, 4}}
    shown = ("evaluate", "examine")  # results that are computed are shown, wherever they are kept

    def judge(place: Place, verb: str, ended: Outcome) -> None:
        if verb in shown and ended.code == 4:
            place.expect(bool(ended.out.strip()), f"{verb} computed results and shows none")

    def small(verb: str, size: int) -> Case:
        def attempt(place: Place) -> None:
            words = place.verbs(place.copy())[verb]
            judge(place, verb, place.survives(words, {0, 4, 10}, file_size=size))

        return attempt

    def full(verb: str) -> Case:
        """On a disk of 8 MB, which is filled; the run lies there, too."""

        def attempt(place: Place) -> None:
            disk = place.folder / "disk"
            disk.mkdir()
            same = "true" if verb == "overwrite" else "sha256sum --status -c ../sums"
            script = f"""mount -t tmpfs -o size=8m none {disk} && cp -r {place.run} {disk}/run &&
                (cd {disk}/run && find . -type f ! -name .lock -exec sha256sum {{}} + > ../sums) &&
                (cat /dev/zero > {disk}/filled 2>/dev/null; "$@"; code=$?
                 cd {disk}/run && {same} || code=99; exit $code)"""
            moved = Place(disk, place.images, place.run, place.embeddings, place.draw, place.wrong)
            words = moved.verbs(disk / "run")[verb]
            before = [*NAMESPACE, script, "sh"]
            judge(place, verb, place.survives(words, codes[verb], before=before))

        return attempt

    def read_only(verb: str) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            script = f'mount --bind {run} {run} && mount -o remount,bind,ro {run} && exec "$@"'
            allowed = {0} if verb in ("embed", "compare") else {4}
            ended = place.survives(
                place.verbs(run)[verb], allowed, before=[*NAMESPACE, script, "sh"]
            )
            judge(place, verb, ended)

        return attempt

    def unwritable(verb: str, name: str) -> Case:
        def attempt(place: Place) -> None:
            run = place.copy()
            shutil.rmtree(run / name)
            (run / name).write_text("a file")
            judge(place, verb, place.survives(place.verbs(run)[verb], {4}))

        return attempt

    for verb in ("train", *READERS):
        size = draw.choice([0, 100, 1_000, 10_000])
        yield f"files of at most {size} bytes, {verb}", small(verb, size)
    if has_namespaces():
        for verb in codes:
            yield f"a full disk, {verb}", full(verb)
        for verb in ("resume", "overwrite", *READERS):
            yield f"a run that is read-only, {verb}", read_only(verb)
    yield "a file in place of evaluations, evaluate", unwritable("evaluate", "evaluations")
    yield "a file in place of quality, examine", unwritable("examine", "quality")


@functools.cache
def has_namespaces() -> bool:
    """Whether a full disk and a read-only one can be had without being root."""
    with tempfile.TemporaryDirectory() as at:
        try:
            return not subprocess.run(
                [*NAMESPACE, f"mount -t tmpfs -o size=64k none {at}"], capture_output=True,
                check=False,
            ).returncode  # fmt: skip
        except OSError:
            return False


def streams(draw: random.Random, count: int) -> Kind:
    """The error stream, or that of results, is full or has no reader."""

    def case(verb: str, stream: str, kind: str) -> Case:
        def attempt(place: Place) -> None:
            words = place.verbs(place.copy())[verb]
            reader, writer = os.pipe()
            os.close(reader)
            handle = writer if kind == "gone" else os.open("/dev/full", os.O_WRONLY)
            closed = {} if kind != "closed" else {
                "before": ["sh", "-c", f'exec "$@" {"2" if stream == "error" else "1"}>&-', "sh"]
            }  # fmt: skip
            # A stream that was closed on purpose is not missed; a result that is lost is told.
            code = 4 if stream == "out" and kind != "closed" else 0
            place.survives(words, {code}, **closed or {stream: handle})
            os.close(writer)
            if verb == "train":
                made = (place.folder / "new" / "model").is_dir()
                place.expect(made, f"training did not end without its {stream} stream")

        return attempt

    for stream in ("error", "out"):
        for verb in ("train", "evaluate", "embed", "compare"):
            kind = draw.choice(["full", "gone", "closed"])
            yield f"{stream} {kind}, {verb}", case(verb, stream, kind)


def outputs(draw: random.Random, count: int) -> Kind:
    """What is to be written lies where something else is, which stays as it is."""

    def case(make: Callable[[Path], object], suffix: str) -> Case:
        def attempt(place: Place) -> None:
            out = place.folder / f"out{suffix}"
            make(out)
            before = out.lstat()
            words = ["embed", str(place.run), str(place.images), "--out", str(out), "--overwrite"]
            place.survives(words, {2})
            after = out.lstat()
            same = [getattr(after, key) == getattr(before, key)
                    for key in ("st_ino", "st_mode", "st_size", "st_rdev")]  # fmt: skip
            place.expect(all(same), "what --out named was replaced")

        return attempt

    def no_run(place: Place) -> None:
        out = place.folder / "new"
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
        before = contents(out)
        place.survives([*place.verbs(out)["train"], "--overwrite"], {2})
        place.expect(contents(out) == before, "train --overwrite removed what is no run")

    def device(path: Path) -> None:
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError:  # only root may make one
            path.symlink_to("/dev/null")

    for name, make in {"a device": device, "a link to one": lambda p: p.symlink_to("/dev/full"),
                       "a pipe": os.mkfifo, "a folder": Path.mkdir}.items():  # fmt: skip
        suffix = draw.choice([".parquet", ".csv", ".npy"])
        yield f"embed --overwrite onto {name}, {suffix}", case(make, suffix)
    yield "train --overwrite of a folder that is no run", no_run


def names(draw: random.Random, count: int) -> Kind:
    """Names that are long, that a terminal would obey, or that a page would."""

    def data(of_class: str, of_image: str, verb: str) -> Case:
        def attempt(place: Place) -> None:
            images = Path(shutil.copytree(place.images, place.folder / of_class / "data"))
            (images / "0").rename(images / of_class)
            for name in (f"{of_image}.png", f"{of_image}-.png"):
                (images / of_class / name).write_bytes(b"no image")
            run = place.copy()
            check_page(place, place.survives(place.verbs(run, images)[verb], {0}))

        return attempt

    def run(name: str, verb: str) -> Case:
        def attempt(place: Place) -> None:
            at = place.copy(name)
            words = place.verbs(at)["train" if verb == "train" else verb]
            if verb == "train":
                words[words.index("--out") + 1] = str(place.folder / f"{name[:-1]}2")
            check_page(place, place.survives(words, {0}))

        return attempt

    def check_page(place: Place, ended: Outcome) -> None:
        for path in (*place.folder.rglob("*.html"), *place.folder.rglob("*.md")):
            place.expect(MARKUP not in path.read_text(), f"{path.name} has the markup of a name")

    def out(name: str) -> Case:
        def attempt(place: Place) -> None:
            words = place.verbs(place.run)["embed"]
            words[words.index("--out") + 1] = str(place.folder / name)
            place.survives(words, {0, 2, 4})

        return attempt

    long, markup = "x" * 250, MARKUP.replace("/", "")
    for verb in ("train", *READERS):
        name = draw.choice([ESCAPES, markup])
        yield f"classes and images of 250 letters, {verb}", data(long, long[:245], verb)
        yield f"classes and images called {name[:4]!r}, {verb}", data(name, name, verb)
        yield f"a run of 250 letters, {verb}", run(long, verb)
        yield f"a run called {name[:4]!r}, {verb}", run(name, verb)
    yield "a file of embeddings of 250 letters", out("x" * 242 + ".parquet")
    yield "a file of embeddings of 256 letters", out("x" * 248 + ".parquet")


def words(draw: random.Random, count: int) -> Kind:
    """Numbers and paths that make no sense."""

    def case(added: list[str], codes: set[int]) -> Case:
        def attempt(place: Place) -> None:
            place.survives([*place.verbs(place.run)["train"], *added], codes)

        return attempt

    def empty(place: Place) -> None:
        place.survives(["train", "", "--out", str(place.folder / "new")], {2})

    for added in (["--epochs", "1e308"], ["--image-side", "100000"], ["--patches", "1" + "0" * 9],
                  ["--batch", "1" + "0" * 18], ["--backbone.width", "1" + "0" * 6],
                  ["--out", "x" * 256], ["--out", ""], ["--out", "~nosuchuser/x/\0"],
                  ["--seed", "1" + "0" * 30], ["--config", "/dev/null/x"],
                  ["--budget", "9" * 200 + "d"]):  # fmt: skip
        if "\0" not in added[1]:  # which no command line can hold
            yield " ".join(added)[:40], case(added, {2, 3, 4, 7})
    yield "data without a name", empty


def surroundings(draw: random.Random, count: int) -> Kind:
    """Environments in which commands are not usually started."""

    def lone(verb: str, environment: dict[str, str]) -> Case:
        def attempt(place: Place) -> None:
            ended = place.survives(place.verbs(place.copy())[verb], {0}, environment=environment)
            place.expect(bool(ended.out.strip()), f"{verb} prints nothing")

        return attempt

    def taken(place: Place) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = str(listening.getsockname()[1])
            environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            words = [*place.verbs(place.run)["train"], "--devices", "2"]
            ended = place.survives(words, {2}, environment=environment)
            place.expect(f"port {port} is in use" in ended.error, "the port is not named")

    def unreachable(address: str, number: signal.Signals) -> Case:
        def attempt(place: Place) -> None:
            with socket.socket() as silent:  # takes connections and says nothing
                silent.bind(("127.0.0.1", 0))
                silent.listen()
                port = str(silent.getsockname()[1])
                environment = {"MASTER_ADDR": address, "MASTER_PORT": port, "RANK": "1",
                               "WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}  # fmt: skip
                process = subprocess.Popen(
                    [sys.executable, "-m", "empssl", *place.verbs(place.run)["train"],
                     "--devices", "2"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    env=os.environ | environment,
                )  # fmt: skip
                assert process.stderr is not None
                said = process.stderr.readline()
                while said and b"waiting for" not in said:
                    said = process.stderr.readline()
                process.send_signal(number)
                try:
                    _, error = process.communicate(timeout=PATIENCE / 6)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    place.wrong.append(f"{address}: {number.name} was ignored")
                    return
            ended = Outcome(process.returncode, "", (said + error).decode(errors="replace"))
            place.wrong += faults(ended, {128 + number, 9})
            place.expect(b"MASTER_ADDR" in said + error, "what is waited for is not named")

        return attempt

    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for verb in ("train", "evaluate", "examine", "report", "compare"):
        yield f"an ASCII locale, {verb}", lone(verb, ascii_only)
    for verb in READERS:
        yield f"SLURM_PROCID=1, {verb}", lone(verb, {"SLURM_PROCID": "1", "RANK": "1"})
    yield "a terminal one column wide", lone("compare", {"TERM": "dumb", "COLUMNS": "1"})
    yield "a taken MASTER_PORT", taken
    yield "a MASTER_ADDR that does not answer", unreachable("192.0.2.1", signal.SIGTERM)
    yield "a MASTER_ADDR that says nothing", unreachable("127.0.0.1", signal.SIGINT)


KINDS = {
    "kills": kills, "links": links, "pipes": pipes, "bombs": bombs, "odd-files": odd_files,
    "storage": storage, "streams": streams, "outputs": outputs, "names": names, "words": words,
    "surroundings": surroundings,
}  # fmt: skip


def spoil(text: str, draw: random.Random) -> str:
    """JSON, lines of it or YAML, with another value in one place, or without it."""
    lines = text.splitlines()
    try:
        content, rest = json.loads(text), None
    except json.JSONDecodeError:
        try:
            content, rest = json.loads(lines[0]), lines[1:]
        except json.JSONDecodeError:
            content, rest = yaml.safe_load(text), None
    places = [(content, key) for key in content]
    for owner, key in list(places):
        value = owner[key]
        if isinstance(value, dict | list) and value:
            keys = value if isinstance(value, dict) else range(min(len(value), 3))
            places += [(value, inner) for inner in keys]
    owner, key = draw.choice(places)
    if draw.random() < 0.25:
        del owner[key]
    else:
        owner[key] = draw.choice(VALUES)
    return "\n".join([json.dumps(content), *(rest or [])]) + "\n"  # JSON is YAML, too


def write_images(path: Path, values: list[bytes | None]) -> None:
    """A Parquet file of encoded images; equal ones are stored once, and held once to write them."""
    table = pa.table({"image": images_column(values)})
    pq.write_table(table, path, compression="zstd", store_schema=False)


def images_column(values: list[bytes | None]) -> pa.Array:
    unique = list(dict.fromkeys(value for value in values if value is not None))
    where = {value: at for at, value in enumerate(unique)}
    rows = pa.array([where.get(value) for value in values], pa.int32())
    column = pa.DictionaryArray.from_arrays(rows, pa.array(unique, pa.binary()))
    paths = pa.nulls(len(values), pa.string())
    return pa.StructArray.from_arrays([column, paths], ["bytes", "path"])


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


def prepare(at: Path) -> Place:
    """Images, a run with all that verbs add to it, and embeddings."""
    images, run = at / "images", at / "run"
    for number in range(32):
        folder = images / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.png").write_bytes(photo(number, side=16))
    place = Place(at, images, run, at / "out.parquet", random.Random(0))
    verbs = place.verbs(run)
    made = ["train", str(images), "--out", str(run), "--epochs", "4", *SMALL]
    for line in (made, [*verbs["evaluate"], "--breakdown"], verbs["examine"], verbs["report"],
                 verbs["embed"]):  # fmt: skip
        ended = command(line)
        assert ended.code == 0, ended.error
    return place


def attempt(base: Place, untouched: dict[str, bytes], name: str, case: Case) -> list[str]:
    """What is wrong after a trial, each with the trial's name."""
    folder = Path(tempfile.mkdtemp(dir=base.folder, prefix="trial-"))
    place = Place(folder, base.images, base.run, base.embeddings, random.Random(name))
    try:
        case(place)
    except Exception as error:  # what a command left cannot be read
        place.wrong.append(repr(error))
    found = contents(base.run) | contents(base.images) | contents(base.embeddings)
    changed = [Path(at).name for at in found | untouched if found.get(at) != untouched.get(at)]
    place.expect(not changed, f"files that are none of its own have changed: {changed}")
    shutil.rmtree(folder, ignore_errors=True)
    return [f"{name}: {what}".replace(str(folder), "") for what in place.wrong]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", default="", help="trials with this in their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=10, help="of train; others follow from it")
    parser.add_argument("--workers", type=int, default=2, help="trials at once")
    parser.add_argument("--write", action="store_true", help="to docs/results/attack.json")
    args = parser.parse_args()
    began = time.monotonic()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as at:
        base = prepare(Path(at))
        untouched = contents(base.run) | contents(base.images) | contents(base.embeddings)
        trials = [
            (kind, f"{kind}, {name}", case) for kind in args.kinds
            for name, case in KINDS[kind](random.Random(f"{kind} {args.seed}"), args.kills)
            if args.only in f"{kind}, {name}"
        ]  # fmt: skip
        _shared.update(base=base, untouched=untouched, trials=trials)
        tried, survived, failures = Counter[str](), Counter[str](), list[str]()
        with ProcessPoolExecutor(args.workers, get_context("fork")) as pool:
            results = pool.map(_tried, range(len(trials)))
            for (kind, *_), wrong in zip(trials, results, strict=True):
                tried[kind] += 1
                survived[kind] += not wrong
                failures += [what.replace(at, "") for what in wrong]
                for what in wrong:
                    print(f"FAILED {what}", flush=True)
                if tried[kind] == sum(other == kind for other, *_ in trials):
                    count = f"{survived[kind]} of {tried[kind]}"
                    print(f"{kind}: {count}", file=sys.stderr, flush=True)
    claim(
        "attack", [survived.total()], "survived", write=args.write, tried=tried.total(),
        seed=args.seed, failures=failures, minutes=round((time.monotonic() - began) / 60, 1),
        kinds={kind: {"what": KINDS[kind].__doc__, "survived": survived[kind],
                      "tried": tried[kind]} for kind in args.kinds},
    )  # fmt: skip
    return 1 if failures else 0


_shared: dict[str, Any] = {}  # with the workers, which are forked: cases cannot be sent


def _tried(number: int) -> list[str]:
    _, name, case = _shared["trials"][number]
    return attempt(_shared["base"], _shared["untouched"], name, case)


if __name__ == "__main__":
    sys.exit(main())
