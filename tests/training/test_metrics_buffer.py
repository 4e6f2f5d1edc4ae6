import pytest
import torch

from empssl.device import build_fabric, synchronize
from empssl.training.metrics_buffer import SYNC_EVERY_ON_GPU, MetricsBuffer

SAMPLES = torch.tensor([3, 4])


def test_on_the_cpu_each_step_is_read_at_once() -> None:
    pending = MetricsBuffer(torch.device("cpu"))
    pending.add({"loss": torch.tensor(0.1)}, SAMPLES)
    assert pending.full


def test_elsewhere_steps_wait_to_be_read_together() -> None:
    pending = MetricsBuffer(torch.device("meta"))
    for step in range(SYNC_EVERY_ON_GPU):
        assert not pending.full
        pending.add({"step": step}, SAMPLES)
    assert pending.full
    assert [measured.entry["step"] for measured in pending.read()] == list(range(SYNC_EVERY_ON_GPU))
    assert not pending.full


def test_numbers_keep_their_names_order_and_every_bit() -> None:
    pending = MetricsBuffer(torch.device("cpu"))
    loss, finite = torch.tensor(0.1), torch.tensor(False)
    pending.add({"step": 7, "loss": loss.requires_grad_(), "lr": 0.3, "finite": finite}, SAMPLES)
    pending.add({"step": 8, "loss": torch.tensor(1e300, dtype=torch.float64)}, SAMPLES)
    first, second = pending.read()
    assert first.entry == {"step": 7, "loss": loss.detach().item(), "lr": 0.3, "finite": 0.0}
    assert list(first.entry) == ["step", "loss", "lr", "finite"]
    assert second.entry["loss"] == 1e300
    assert first.samples is SAMPLES


def test_numbers_are_read_in_float32_from_a_device_without_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack, kinds = torch.stack, []

    def noted(values: list[torch.Tensor]) -> torch.Tensor:
        kinds.extend(value.dtype for value in values)
        return stack(values)

    monkeypatch.setattr(torch, "stack", noted)
    pending, loss = MetricsBuffer(torch.device("mps")), torch.tensor(0.1)
    pending.add({"loss": loss, "finite": torch.tensor(True)}, SAMPLES)
    [step] = pending.read()
    assert step.entry == {"loss": loss.item(), "finite": 1.0}
    assert set(kinds) == {torch.float32}


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_a_clock_is_read_when_the_device_has_done_all(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    for name in ("mps", "cuda"):
        at = f"torch.{name}.synchronize"
        monkeypatch.setattr(at, lambda *_, name=name: waited.append(name))
    fabric = build_fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(fabric.strategy, "_root_device", torch.device(device))
    synchronize(fabric)
    assert waited == [device]
