import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from tiny import train_tiny

from empssl.data import DATASETS

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _digits_once() -> Iterator[None]:
    """Enlarge the digits once for all the runs that train on them."""
    with pytest.MonkeyPatch.context() as patch:
        digits = DATASETS["digits"]
        patch.setitem(DATASETS, "digits", replace(digits, open=cache(digits.open)))
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tests read and do not change."""
    return train_tiny(tmp_path_factory.mktemp("tiny") / "run", steps=6)
