"""The smoke part of the suite on the lowest versions of pyproject.toml, and on newer Pythons.

    python tests/lowest [--venvs FOLDER] [--pythons python3.11 python3.12]

The first Python gets the lowest version that pyproject.toml allows of each dependency, but for
torch, whose version is that of constraints.txt: older ones have no small CPU wheel. Each other
Python that is there gets the versions of constraints.txt. Every verb is run once, as a user types
it, then some files of tests.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")
NOT_LOWEST = ("torch",)
TESTS = ("tests/runs/test_run.py", "tests/runs/test_checkpoint.py", "tests/data/test_parquet.py",
         "tests/data/test_folder.py", "tests/test_progress.py")  # fmt: skip
RUN = "train digits --recipe demo --epochs 0.2 --whitened 8 --out run"
VERBS = (
    "--help", RUN, "evaluate run digits --breakdown --few-shot 1", "examine run --images 50",
    "embed run digits --split test --out out.parquet", "report run --images 50",
    "compare run --data digits --probes knn --out compared", "doctor",
    "reproduce --list", "bench --recipe demo --device cpu --steps 2",
)  # fmt: skip


def lowest(pyproject: str) -> list[str]:
    """The lowest versions of all dependencies, as pip's constraints.

    >>> lowest('[project]\\ndependencies = ["torch>=2.11", "numpy>=2.0"]')
    ['numpy==2.0']
    """
    found = []
    for line in tomllib.loads(pyproject)["project"]["dependencies"]:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line)
        assert match is not None, f"{line} has no lowest version"
        if match[1] not in NOT_LOWEST:
            found.append(f"{match[1]}=={match[2]}")
    return found


def constraints(*, of_lowest: bool) -> str:
    """For pip: those of constraints.txt, with the lowest versions in place of its own."""
    known = (ROOT / "constraints.txt").read_text()
    if not of_lowest:
        return known
    low = lowest((ROOT / "pyproject.toml").read_text())
    names = {_normal(line.partition("==")[0]) for line in low}
    kept = [line for line in known.splitlines() if _normal(line.partition("==")[0]) not in names]
    return "\n".join([*kept, *low]) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(python: str, folder: Path, *, of_lowest: bool) -> Path:
    """The Python of a virtual environment with these versions, made where it is not there yet."""
    wanted, stamp = constraints(of_lowest=of_lowest), folder / "installed"
    own = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return own
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    (folder / "constraints.txt").write_text(wanted)
    pip = [str(own), "-m", "pip", "install", "-qq"]
    subprocess.run([*pip, "--upgrade", "pip"], check=True)
    words = ["--constraint", str(folder / "constraints.txt"), "--group", "dev", "--editable", "."]
    subprocess.run([*pip, *words], check=True, cwd=ROOT)
    stamp.write_text(wanted)
    return own


def smoke(python: Path) -> list[str]:
    """What failed."""
    failed = []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for verb in VERBS:
            done = subprocess.run(
                [str(python), "-m", "empssl", *verb.split()], cwd=folder, env=environment,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                failed.append(f"empssl {verb}: {done.returncode}, {done.stderr[-800:]}")
    # Old versions warn of what newer ones have changed: no reason to refuse them. Nor has the
    # oldest jaxtyping the hook that checks shapes in tests.
    words = ["-q", "-W", "default", "-o", "addopts=", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        [str(python), "-m", "pytest", *words], cwd=ROOT, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        failed.append(f"pytest {' '.join(TESTS)}: {done.stdout[-2000:]}{done.stderr[-500:]}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venvs", type=Path, default=ROOT / ".venv-lowest")
    parser.add_argument("--pythons", nargs="+", default=PYTHONS)
    args = parser.parse_args()
    there = [python for python in args.pythons if shutil.which(python) and _starts(python)]
    wrong = 0
    for at, python in enumerate(there):
        what = "lowest versions" if at == 0 else "versions of constraints.txt"
        own = installed(python, args.venvs / python, of_lowest=at == 0)
        failed = smoke(own)
        wrong += len(failed)
        print(f"{python}, {what}: {len(VERBS) + 1 - len(failed)} of {len(VERBS) + 1} passed")
        print("".join(f"FAILED {line}\n" for line in failed), end="", flush=True)
    return 1 if wrong or not there else 0


def _starts(python: str) -> bool:
    """Whether it is a Python, and not only a name of one that is not installed."""
    done = subprocess.run([python, "--version"], capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
