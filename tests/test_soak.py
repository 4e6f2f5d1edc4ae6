import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_the_soak_tries_every_kind_and_says_what_it_tried() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--trials", "1", "--seed", "3"], capture_output=True,
        text=True, timeout=600, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["trials"], found["seeds"], found["failures"]) == (5, [3, 3], [])
    for kind in ("train", "embed", "images", "checkpoints", "configurations"):
        assert not found["tried"][kind].startswith("0 "), kind
