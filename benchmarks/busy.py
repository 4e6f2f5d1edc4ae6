"""Speed of training beside other programs, which this script starts itself.

    python benchmarks/busy.py [--seconds 40] [--rounds 2] [--write]

The recipe `laptop` on random images of 32 pixels, with nothing else running and beside one and two
programs that keep a core busy each; once with threads that follow the free cores, which is what
`train` does, and once with a thread for each core whatever happens. Rounds take turns. What counts
are the steps after the first fifteen seconds, in which the cores are looked at three times.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from claim import claim

from empssl.device import cores

SETTLED = 15.0  # seconds of training
PATCHES = 8 * 40  # of a step of the recipe
CHOICES = {"follow": None, "fixed": cores()}


def train_here(out: str, threads: str) -> None:
    """Train until a signal comes."""
    import empssl

    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    empssl.train(images, out=out, recipe="laptop", epochs=1000, threads=CHOICES[threads])


def patches_per_second(threads: str, busy: int, seconds: float) -> float:
    """Of the steps of one run after it has settled, beside so many busy programs."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [sys.executable, __file__, "--train", str(out), "--threads", threads]
        run = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        try:
            metrics = out / "metrics.jsonl"
            lines: list[dict[str, float]] = []
            while not lines or lines[-1]["seconds"] < SETTLED + seconds:
                if run.poll() is not None:
                    raise RuntimeError(f"training ended with {run.returncode}")
                time.sleep(1)
                if metrics.is_file():
                    whole = metrics.read_text().rpartition("\n")[0]
                    lines = [json.loads(line) for line in whole.splitlines()]
        finally:
            for process in (run, *others):
                process.send_signal(signal.SIGKILL)
                process.wait()
    late = [line for line in lines if line["seconds"] > SETTLED]
    took = late[-1]["seconds"] - late[0]["seconds"]
    return PATCHES * (late[-1]["step"] - late[0]["step"]) / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--threads", choices=CHOICES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train_here(args.train, args.threads)
    found: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for busy in (0, 1, 2):
            for threads in CHOICES:
                rate = patches_per_second(threads, busy, args.seconds)
                print(f"{busy} busy, {threads}: {rate:,.0f} patches/s", flush=True)
                found.setdefault(f"{busy} busy, {threads}", []).append(round(rate, 1))
    rate = {name: statistics.median(values) for name, values in found.items()}
    quiet = rate["0 busy, fixed"]
    claim(
        "busy", [100 * each / quiet for each in (rate["1 busy, follow"],)],
        "percent of the quiet rate, beside one busy program, threads following", write=args.write,
        patches_per_second=found,
        percent={name: round(100 * value / quiet, 1) for name, value in rate.items()},
    )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
