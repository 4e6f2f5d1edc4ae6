"""A measured claim: one JSON line, with everything it depends on."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from empssl.device import cpu_name

ROOT = Path(__file__).resolve().parent.parent


def claim(
    what: str, values: list[float], unit: str, *, write: bool = False, **details: Any
) -> None:
    """Print a claim and, if asked to, keep it in docs/results.

    Args:
        what: a name that can be a file name.
        values: one for each seed or repetition; the median and the range are reported.
        unit: of the values.
        write: also write docs/results/WHAT.json.
        details: conditions, and whatever else was measured.
    """
    record = {
        "what": what,
        "value": round(statistics.median(values), 4),
        "unit": unit,
        "n": len(values),
        "values": [round(v, 4) for v in values],
        "hardware": cpu_name() if not torch.cuda.is_available() else torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "command": _command(),
    } | details
    print(json.dumps(record), flush=True)
    if write:
        path = ROOT / "docs" / "results" / f"{what}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


def _command() -> str:
    """What was typed, without where this machine keeps things."""
    words = [word if not os.path.isabs(word) else Path(word).name for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
