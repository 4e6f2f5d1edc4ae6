import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def test_the_script_for_a_gpu_measures_every_part_at_tiny_sizes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--smoke", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert {line["what"] for line in lines} >= {
        "environment", "matmul-bf16", "conv-bf16", "bare", "whole-step", "views", "objective",
        "optimizer", "images-to-device", "accuracy",
    }  # fmt: skip
    measured = [line for line in lines if line["what"] != "environment"]
    assert all(line["value"] > 0 for line in measured)
    assert "whole-step" in done.stdout.splitlines()[-1] or "conditions" in done.stdout
