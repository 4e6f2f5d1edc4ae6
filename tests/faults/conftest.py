import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lives
import pytest


@pytest.fixture
def quick() -> Iterator[Path]:
    yield from in_memory()


def in_memory() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses nothing of what it wrote."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lives.make_images(tmp_path_factory.mktemp("faults") / "images")
