from pathlib import Path

import pytest
from tiny import train_tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tests read and do not change."""
    return train_tiny(tmp_path_factory.mktemp("tiny") / "run", steps=6)
