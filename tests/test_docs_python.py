"""The examples of docs/python.md, from the top to the bottom, and the search of the README."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import start

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_examples_of_the_python_page_run(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.S | re.M)
    assert len(examples) > 10
    script = tmp_path / "examples.py"
    script.write_text(f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(examples))
    made = start(script=script)
    out, err = made.communicate(timeout=240)
    assert made.returncode == 0, err
    assert "weight: 3.0" in out
    assert "give the same again from Python, as backbone=" in out


def test_the_command_of_the_python_page_lists_its_plugin(tmp_path: Path) -> None:
    (plugin,) = re.findall(r'write\("""\n(.*?)^"""\)', PAGE.read_text(), flags=re.S | re.M)
    (tmp_path / "my_module.py").write_text(plugin)
    words = "train digits --plugin my_module --objective mine --objective.weight 3 --print-config"
    made = subprocess.run(
        [sys.executable, "-m", "empssl", *words.split(), "--out", "runs/mine"], cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "name: mine\n  weight: 3.0" in made.stdout


def test_the_search_of_the_readme_finds_the_images_most_like_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = np.random.default_rng(0).permutation(np.linspace(0.1, 3, 11))
    lengths = np.random.default_rng(1).uniform(0.5, 2, 12)
    directions = np.concatenate([[0], angles])
    embeddings = np.stack([np.cos(directions), np.sin(directions)], axis=1) * lengths[:, None]
    np.save(tmp_path / "photos.npy", embeddings.astype(np.float32))
    monkeypatch.chdir(tmp_path)
    page = (PAGE.parents[1] / "README.md").read_text()
    (search,) = re.findall(r"^```python\n(import numpy.*?)^```", page, flags=re.S | re.M)
    names: dict[str, np.ndarray] = {}
    exec(search, names)
    assert names["nearest"].tolist() == (1 + angles.argsort()[:9]).tolist()
