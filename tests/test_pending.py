import torch

from empssl.pending import EVERY_ELSEWHERE, Pending

SAMPLES = torch.tensor([3, 4])


def test_on_the_cpu_each_step_is_read_at_once() -> None:
    pending = Pending(torch.device("cpu"))
    pending.add({"loss": torch.tensor(0.1)}, SAMPLES)
    assert pending.due


def test_elsewhere_steps_wait_to_be_read_together() -> None:
    pending = Pending(torch.device("meta"))
    for step in range(EVERY_ELSEWHERE):
        assert not pending.due
        pending.add({"step": step}, SAMPLES)
    assert pending.due
    assert [measured.entry["step"] for measured in pending.read()] == list(range(EVERY_ELSEWHERE))
    assert not pending.due


def test_numbers_keep_their_names_order_and_every_bit() -> None:
    pending = Pending(torch.device("cpu"))
    loss, finite = torch.tensor(0.1), torch.tensor(False)
    pending.add({"step": 7, "loss": loss.requires_grad_(), "lr": 0.3, "finite": finite}, SAMPLES)
    pending.add({"step": 8, "loss": torch.tensor(1e300, dtype=torch.float64)}, SAMPLES)
    first, second = pending.read()
    assert first.entry == {"step": 7, "loss": loss.detach().item(), "lr": 0.3, "finite": 0.0}
    assert list(first.entry) == ["step", "loss", "lr", "finite"]
    assert second.entry["loss"] == 1e300
    assert first.samples is SAMPLES
