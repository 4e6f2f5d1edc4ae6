import signal

import pytest
import torch.distributed as dist

from empssl.distributed.signals import stop_requests

MESSAGES = (
    "all_gather", "all_gather_object", "all_reduce", "barrier", "broadcast",
    "broadcast_object_list", "gather", "monitored_barrier", "recv", "reduce", "scatter", "send",
)  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_is_noted_and_nothing_is_sent(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes to one process, in the middle of anything: no other one expects a message then."""

    def sent(*_: object, **__: object) -> None:
        raise AssertionError("the other processes would wait for ever")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    for name in MESSAGES:
        monkeypatch.setattr(dist, name, sent)
    with stop_requests() as request:
        assert request.signal == 0
        signal.raise_signal(number)
        assert request.signal == number
