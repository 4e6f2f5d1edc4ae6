"""Expected calibration error against examples worked by hand."""

import pytest
import torch

from empssl.evaluation.results import Breakdown
from empssl.metrics.classification import Calibration, Predictions


def test_the_error_is_the_one_worked_by_hand() -> None:
    # Bins (0.5, 0.75]: sure by 0.6 and 0.7, one of two right: |50 - 65| = 15, of 2 images.
    # (0.75, 1]: sure by 0.8, 0.9 and 1, all right: |100 - 90| = 10, of 3 images.
    largest = torch.tensor([0.6, 0.7, 0.8, 0.9, 1.0])
    probabilities = torch.stack([largest, 1 - largest], 1)
    found = Calibration.of(probabilities, torch.tensor([0, 1, 0, 0, 0]), num_bins=4)
    assert found.expected_error == pytest.approx((2 * 15 + 3 * 10) / 5, abs=1e-4)
    assert [(part.low, part.high, part.count) for part in found.bins] == [
        (0.5, 0.75, 2), (0.75, 1.0, 3),
    ]  # fmt: skip


def test_a_probe_as_sure_as_it_is_right_has_no_error() -> None:
    probabilities = torch.tensor([[0.75, 0.25]] * 4)
    found = Calibration.of(probabilities, torch.tensor([0, 0, 0, 1]))
    assert found.expected_error == pytest.approx(0, abs=1e-6)


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    found = Calibration.of(torch.tensor([[0.6, 0.4]]), torch.tensor([0]), num_bins=5)
    assert (found.bins[0].low, found.bins[0].high) == (0.4, 0.6)


def test_all_bins_weigh_what_they_hold_as_in_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(500, 4, generator=generator)).softmax(1)
    truth = torch.randint(4, (500,), generator=generator)
    expected = 0.0
    for at in range(15):
        inside = [
            (float(row.max()), int(row.argmax()) == label)
            for row, label in zip(probabilities, truth.tolist(), strict=True)
            if at / 15 < float(row.max()) <= (at + 1) / 15
        ]
        if inside:
            gap = sum(hit for _, hit in inside) - sum(sure for sure, _ in inside)
            expected += 100 * abs(gap) / 500
    assert Calibration.of(probabilities, truth).expected_error == pytest.approx(expected, abs=1e-3)


def test_a_breakdown_names_the_classes_and_what_they_are_taken_for() -> None:
    answers = Predictions(torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1]), 3)
    found = Breakdown.of(answers, ["cat", "dog", "owl"])
    assert found.confusion == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert found.per_class == [pytest.approx(100 / 3), 50.0, None]
    assert answers.balanced_accuracy == pytest.approx((100 / 3 + 50) / 2)
    assert found.calibration is None
    assert found.lines() == [
        "  cat  33.33% of 3, the others for dog 2",
        "  dog  50.00% of 2, the others for cat 1",
    ]  # fmt: skip
