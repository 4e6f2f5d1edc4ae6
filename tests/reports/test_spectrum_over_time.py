"""The spectrum of projections: a step's against its twin, kept by a run, drawn on a page."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import metrics, train_tiny
from torch import Tensor

from empssl.metrics.projections import projection_metrics, spectrum, spectrum_steps
from empssl.reports.run_report import report
from empssl.reports.sections.spectrum import spectrum_over_time
from empssl.runs.run import Run
from empssl.training.train import train


def projections(batch: int = 7, dim: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, batch, dim, generator=generator, dtype=torch.float64) + 1


@pytest.mark.parametrize(("batch", "dim"), [(7, 5), (5, 7), (6, 6)])
def test_it_is_the_variances_of_the_first_views_unit_rows(batch: int, dim: int) -> None:
    z = projections(batch, dim)
    rows = np.array([row / np.linalg.norm(row) for row in z[0].numpy()])
    rows = rows - rows.mean(0)
    expected = np.linalg.svd(rows, compute_uv=False) ** 2 / batch
    found = spectrum(z)
    assert len(found) == min(batch - 1, dim)
    assert np.allclose(found, expected[: len(found)], rtol=1e-9, atol=1e-15)


def test_coding_rate_ratio_and_participation_ratio_are_what_it_sums_to() -> None:
    z = projections()
    e, measured = spectrum(z), projection_metrics(z)
    most = 5 / 2 * math.log1p(5 / (5 * 0.2))
    assert float((1 + 5 / 0.2 * e).log().sum() / 2 / most) == pytest.approx(
        float(measured["coding_rate_ratio"])
    )
    rank = float(e.sum() ** 2 / e.square().sum())
    assert rank == pytest.approx(float(measured["participation_ratio"]))


def test_projections_that_are_not_finite_do_not_stop_the_solver() -> None:
    z = projections()
    z[0, 2, 3] = math.nan
    assert len(spectrum(z)) == 5


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 49, 50, 51, 105, 1000, 123457])
def test_the_kept_steps_begin_and_end_the_run_and_are_some_fifty(steps: int) -> None:
    kept = sorted(spectrum_steps(steps))
    assert kept[0] == 0
    assert kept[-1] == steps - 1
    assert len(kept) <= 50
    assert len(kept) >= min(steps, 35)
    assert max(np.diff(kept), default=1) <= math.ceil(steps / 24)


def test_a_run_keeps_the_spectrum_of_those_steps_alone(tmp_path: Path) -> None:
    run = Run(train_tiny(tmp_path / "run", steps=60))
    kept = {entry["step"] for entry in run.metrics() if "spectrum" in entry}
    assert kept == spectrum_steps(60)
    assert len(kept) < 60
    for entry in run.metrics():
        if "spectrum" in entry:
            values = np.array(entry["spectrum"])
            assert len(values) == 7
            assert all(np.diff(values) <= 0)
            rank = values.sum() ** 2 / (values**2).sum()
            assert rank == pytest.approx(entry["participation_ratio"], rel=1e-2)


def test_it_changes_nothing_of_the_training(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("empssl.training.trainer.spectrum_steps", lambda steps: frozenset())
    without = metrics(train_tiny(tmp_path / "run", steps=6))
    assert not any("spectrum" in entry for entry in without)
    of_all = metrics(tiny_run)
    assert all(entry.pop("spectrum") for entry in of_all)
    assert of_all == without


def test_a_resumed_run_has_each_spectrum_once(tiny_run: Path, tmp_path: Path) -> None:
    """Stopped after it wrote metrics that no checkpoint stands for."""
    whole = metrics(tiny_run)
    out = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(out / "model")
    folder = next((out / "checkpoints").glob("step-*"))
    assert folder.name == "step-000000006"
    with open(out / "metrics.jsonl", "a") as file:
        file.write(
            json.dumps({**whole[-1], "step": 6, "spectrum": [9.0] * len(whole[-1]["spectrum"])})
            + "\n"
        )
    train("digits", out=out, resume=True)
    assert metrics(out) == whole


def lines(steps: int = 6, rank: int = 9) -> list[dict[str, Any]]:
    """Direction k grows from step k on."""
    return [
        {"step": step, "spectrum": [10.0 ** (min(0, step - k) - 1) for k in range(rank)]}
        for step in range(steps)
    ]


def test_a_chart_has_a_line_for_every_power_of_two() -> None:
    found = spectrum_over_time([{"step": 0}, *lines(), {"step": 9}])
    assert found is not None
    assert [line.title for line in found.chart.lines] == [f"direction {k}" for k in (1, 2, 4, 8)]
    assert [note.text for note in found.chart.notes] == ["1st", "8th"]  # others end at 1st
    assert found.steps == 6


def test_a_line_rises_when_its_direction_is_learned() -> None:
    found = spectrum_over_time(lines())
    assert found is not None
    paths = [re.findall(r"[ML]\S+ (\S+?)(?=L|$)", line.path) for line in found.chart.lines]
    heights = [[float(y) for y in ys] for ys in paths]
    first, fourth = heights[0], heights[2]
    assert len(set(first)) == 1
    assert fourth[0] > fourth[1] > fourth[3]  # SVG counts from the top
    assert fourth[3] == fourth[-1] == first[-1]


def test_it_says_how_many_directions_share_the_variance() -> None:
    even = [
        {"step": step, "spectrum": values} for step, values in ((0, [1.0, 0.0]), (1, [1.0, 1.0]))
    ]
    found = spectrum_over_time(even)
    assert found is not None
    assert (found.first, found.last) == ("1", "2")


@pytest.mark.parametrize(
    "metrics",
    [[], [{"step": 0}], lines(1), [{"step": 0, "spectrum": [0.0]}, {"step": 1, "spectrum": [0.0]}]],
)
def test_where_there_is_nothing_to_draw_there_is_no_chart(metrics: list[dict[str, Any]]) -> None:
    assert spectrum_over_time(metrics) is None


def test_variances_far_below_a_millionth_have_their_decades() -> None:
    metrics = [{"step": step, "spectrum": [1e-4, 1e-8, 1e-12]} for step in range(3)]
    found = spectrum_over_time(metrics)
    assert found is not None
    assert [tick.text for tick in found.chart.y_ticks] == [
        "10⁻¹⁰", "10⁻⁹", "10⁻⁸", "10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴"
    ]  # fmt: skip


def test_a_report_draws_it_and_does_without(tiny_run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    drawn = report(out, images=20, device="cpu").read_text()
    assert "principal direction, 6 steps from the first on" in drawn
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in entry.items() if k != "spectrum"} for entry in entries]
    (out / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    assert "direction being learned" not in report(out, images=20, device="cpu").read_text()
