"""Break things for an hour: kill, flip, mutate, misconfigure, and see that nothing is lost.

    python benchmarks/soak.py [--minutes 60] [--kinds train embed ...] [--seed 0] [--trials N]
                              [--write]

The faults are those of `tests/faults`, with a seed that goes on: seed after seed, one trial of
each kind. A failure is printed with the words that try it again. Kills come after so many calls
that the package makes, so that they come again at the same place. All of it runs on one core with
one thread, and each trial removes what it wrote.
"""

import argparse
import io
import itertools
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from empssl.data import DATASETS
from empssl.training import setup

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, for this process and its victims

import pytest
from claim import ROOT, claim

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "faults"))
import lives
from test_configurations import fine, options
from test_crashes import mismatches
from test_disk import begun
from test_embedding_faults import results
from test_images import FORMATS, mutants, verdict
from tiny import command
from victim import Victim

from empssl.cli import main as typed

MUTANTS, FLIPS, CONFIGURATIONS = 200, 20, 5  # in a trial


@dataclass(frozen=True)
class Ground:
    """What trials are compared with.

    Attributes:
        images: a folder of them.
        run: trained on these, and never interrupted.
        embedded: the files of an embedding that was never interrupted, by name.
        calls: that the package makes for each of the two.
    """

    images: Path
    run: Path
    embedded: dict[str, bytes]
    calls: tuple[int, int]

    @classmethod
    def make(cls, folder: Path) -> "Ground":
        images, run = lives.make_images(folder / "images"), folder / "run"
        trained = finish(lives.training_run, images, run)
        (folder / "embedded").mkdir()
        embedded = finish(lives.embedding, run, images, folder / "embedded" / "out.parquet")
        return cls(images, run, results(folder / "embedded"), (trained, embedded))


Trial = tuple[int, list[str]]  # how many things were tried, and what was wrong


def finish(function: Callable[..., object], *arguments: object) -> int:
    """The calls that the package makes until the function is done."""
    end = Victim(function, *arguments, counted=True).end()
    if end.code != 0:
        raise AssertionError(f"it ended with {end.code}: {end.error[-2000:]}")
    return end.calls or 0


def train(draw: random.Random, ground: Ground, folder: Path) -> Trial:
    """Kill training up to five times, and go on: the result is that of the run left alone."""
    run, kills, every = folder / "run", 0, draw.choice([0.0, 0.02])
    for _ in range(draw.randint(1, 5)):
        calls = draw.randint(1, ground.calls[0])
        life = Victim(lives.training_run, ground.images, run, calls=calls, every=every)
        kills += life.end().code < 0
    finish(lives.training_run, ground.images, run)
    return kills, mismatches(ground.run, run)


def embed(draw: random.Random, ground: Ground, folder: Path) -> Trial:
    """Kill embedding up to five times, and go on: the files are the same to the last byte."""
    words, kills = (ground.run, ground.images, folder / "out.parquet"), 0
    for _ in range(draw.randint(1, 5)):
        life = Victim(lives.embedding, *words, calls=draw.randint(1, ground.calls[1]))
        kills += life.end().code < 0
    finish(lives.embedding, *words)
    return kills, [] if results(folder) == ground.embedded else ["the files differ"]


def images(draw: random.Random, ground: Ground, folder: Path) -> Trial:
    """Mutated images are decoded or refused, and no other error leaves the decoder."""
    for mutant in mutants(draw.choice(FORMATS), MUTANTS, seed=str(draw.random())):
        verdict(mutant)
    return MUTANTS, []


def checkpoints(draw: random.Random, ground: Ground, folder: Path) -> Trial:
    """A flipped bit, or a cut, in the newest checkpoint is named, and the one before is used."""
    run, wrong = begun(folder / "run"), []
    files = sorted((run.path / "checkpoints" / "step-000000002").iterdir())
    for path in draw.choices(files, k=FLIPS):
        whole = path.read_bytes()
        at, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        rest = b"" if draw.random() < 0.2 else bytes([whole[at] ^ bit]) + whole[at + 1 :]
        path.write_bytes(whole[:at] + rest)
        found, _, problems = run.load_checkpoint()
        if found.state["step"] != 1 or len(problems) != 1:
            wrong.append(f"{path.name} at {at} by {bit} of {len(whole)}: {problems}")
        path.write_bytes(whole)
    return FLIPS, wrong


def configurations(draw: random.Random, ground: Ground, folder: Path) -> Trial:
    """Settings of all kinds: each takes a step, or is refused in one line."""
    wrong = []
    for number in range(CONFIGURATIONS):
        out, changes = folder / str(number), options(draw)
        said, error = io.StringIO(), io.StringIO()
        with redirect_stdout(said), redirect_stderr(error):
            code = typed([*command(out, steps=0.4), *changes])
        if not fine(code, said.getvalue(), error.getvalue(), out, changes):
            wrong.append(f"{' '.join(changes)}: {code}, {error.getvalue()[-600:]}")
    return CONFIGURATIONS, wrong


KINDS: dict[str, Callable[[random.Random, Ground, Path], Trial]] = {
    "train": train, "embed": embed, "images": images, "checkpoints": checkpoints,
    "configurations": configurations,
}  # fmt: skip
UNITS = {"train": "kills", "embed": "kills", "images": "mutants", "checkpoints": "damages",
         "configurations": "configurations"}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="of the first trials")
    parser.add_argument("--trials", type=int, help="of each kind, however long they take")
    parser.add_argument("--write", action="store_true", help="to docs/results/soak.json")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    began = time.monotonic()
    until = began + 60 * args.minutes
    digits = DATASETS["digits"]
    DATASETS["digits"] = replace(digits, open=cache(digits.open))
    setup.flops_per_view = lambda *_: 1.0  # counting takes longer than a step
    trials, tried, failures = Counter[str](), Counter[str](), list[str]()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        ground = Ground.make(Path(place))
        at_first = peak()
        for seed in itertools.count(args.seed):
            for kind in args.kinds:
                if args.trials is None and time.monotonic() >= until:
                    break
                folder = Path(place) / "trial"
                folder.mkdir()
                count, wrong = attempt(kind, seed, ground, folder)
                shutil.rmtree(folder)
                trials[kind] += 1
                tried[kind] += count
                for what in wrong:
                    failures.append(f"--kinds {kind} --seed {seed} --trials 1: {what}")
                    print(f"FAILED {failures[-1]}", flush=True)
            over = time.monotonic() >= until
            if over if args.trials is None else seed + 1 - args.seed >= args.trials:
                break
            if seed % 10 == 9:
                told = f"{trials.total():,} trials, {len(failures)} failures"
                print(f"seed {seed}, {minutes_since(began)} min: {told}", file=sys.stderr)
    claim(
        "soak", [len(failures)], "failures", write=args.write, trials=trials.total(),
        minutes=minutes_since(began), seeds=[args.seed, seed],
        tried={kind: f"{tried[kind]:,} {UNITS[kind]} in {trials[kind]:,} trials"
               for kind in args.kinds},
        peak_mb={"at first": at_first, "in the end": peak()}, failures=failures,
    )  # fmt: skip
    return 1 if failures else 0


def attempt(kind: str, seed: int, ground: Ground, folder: Path) -> Trial:
    """A trial, in which every exception is a failure."""
    try:
        return KINDS[kind](random.Random(f"{kind} {seed}"), ground, folder)
    except (Exception, pytest.fail.Exception):
        return 0, [traceback.format_exc()]


def minutes_since(began: float) -> float:
    return round((time.monotonic() - began) / 60, 1)


def peak() -> int:
    """The most memory that this process, without its victims, has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
