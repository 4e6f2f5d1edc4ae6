from collections.abc import Callable
from typing import Any

import pytest

from empssl.training import trainer


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Do something right before a step, counted from the start of the process."""

    def plant(step: int, action: Callable[[], None]) -> None:
        original, taken = trainer.training_step, iter(range(10**6))

        def planted(*arguments: Any, **options: Any) -> Any:
            if next(taken) == step:
                action()
            return original(*arguments, **options)

        monkeypatch.setattr(trainer, "training_step", planted)

    return plant
