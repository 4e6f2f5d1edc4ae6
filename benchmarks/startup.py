"""CPU time that commands take to start: user and system seconds of the whole process.

    python benchmarks/startup.py [--runs 5] [--write]

Commands that do next to nothing, so that what is measured is what they import. `torch` is a process
that imports torch and does nothing else, in the same run.
"""

import argparse
import resource
import statistics
import subprocess
import sys

from claim import claim

COMMANDS = {
    "torch": ["-c", "import torch"],
    "--help": ["-m", "empssl", "--help"],
    "train --help": ["-m", "empssl", "train", "--help"],
    "embed --help": ["-m", "empssl", "embed", "--help"],
    "train with a mistyped option": ["-m", "empssl", "train", "digits", "--out", "x", "--patchs"],
    "importing what train needs": ["-c", "import empssl; empssl.train"],
}


def cpu_seconds(words: list[str]) -> float:
    """User and system time of a process and those that it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    cpu_seconds(COMMANDS["importing what train needs"])  # bytecode is written, files are cached
    # In turns, so that a machine that slows down does so for all of them.
    rounds = [{name: cpu_seconds(words) for name, words in COMMANDS.items()}
              for _ in range(args.runs)]  # fmt: skip
    each = {name: [found[name] for found in rounds] for name in COMMANDS}
    claim(
        "startup", each["train --help"], "CPU-seconds", write=args.write,
        median={name: round(statistics.median(values), 2) for name, values in each.items()},
        lowest={name: round(min(values), 2) for name, values in each.items()},
        highest={name: round(max(values), 2) for name, values in each.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
