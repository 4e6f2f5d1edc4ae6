"""A long run holds no more memory than a short one."""

import json
from pathlib import Path
from statistics import mean

import lives
from victim import Victim

STEPS, SETTLED = 600, 200


def test_memory_grows_by_less_than_a_megabyte_in_100_steps(images: Path, quick: Path) -> None:
    end = Victim(lives.train_weighed, images, quick / "run", quick / "weights.json").end()
    assert end.code == 0, end.error
    held = json.loads((quick / "weights.json").read_text())
    assert len(held) == STEPS
    first, last = mean(held[SETTLED : SETTLED + 50]), mean(held[-50:])
    assert (last - first) / (STEPS - 50 - SETTLED) * 100 < 2**20
