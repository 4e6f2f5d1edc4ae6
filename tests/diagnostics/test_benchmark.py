"""`empssl bench`: what is claimed, not how long anything took."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import STATEFUL

import empssl
from empssl import cli
from empssl.diagnostics import benchmark
from empssl.diagnostics.benchmark import PARTS, Bench
from empssl.errors import UsageError
from empssl.models import Network, build_network
from empssl.objectives import build_objective
from empssl.training.flops import projecting_flops, step_flops, training_flops

TINY: dict[str, Any] = {
    "recipe": "demo", "patches": 2, "batch": 4, "image_side": 8, "backbone": {"width": 4},
    "projector": {"hidden": 16, "dim": 8}, "precision": "32-true", "steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "PRODUCT_SECONDS", 1e-4)
        patch.setattr("empssl.diagnostics.reference.pipeline.cores", lambda: 1)
        return empssl.bench(**TINY, slow_steps=1)


def test_every_part_is_measured_as_often_as_asked(found: Bench) -> None:
    for part in ("whole", "bare", *PARTS):
        assert len(found.seconds[part]) == 2
        assert min(found.seconds[part]) > 0
        assert found[{"whole": "step"}.get(part, part)].n == 2


def test_median_lies_between_least_and_greatest(found: Bench) -> None:
    for claim in found.claims:
        assert 0 < claim.low <= claim.value <= claim.high


def test_ratio_to_bare_compares_neighbors_in_time(found: Bench) -> None:
    ratios = [b / w for b, w in zip(found.seconds["bare"], found.seconds["whole"], strict=True)]
    assert found["bare_over_step"].low == min(ratios)
    assert found["bare_over_step"].high == max(ratios)


def test_achieved_flops_are_those_of_the_step(found: Bench) -> None:
    settings = found.conditions["settings"]
    network = build_network(settings["backbone"], settings["projector"])
    side, objective = found.conditions["view_side"], build_objective(settings["objective"], dim=8)
    step = step_flops(network, objective, 2, side, 4, settings["optimizer"]).total
    assert step > 8 * training_flops(network, side)
    assert found["step_flops"].high == pytest.approx(step / min(found.seconds["whole"]) / 1e12)


@pytest.mark.parametrize(("name", "seen"), [("byol", 3), ("ressl", 2)])
def test_views_of_a_target_cost_what_they_cost_in_training(
    name: str, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "PRODUCT_SECONDS", 1e-4)
    passes: list[int] = []
    forward = Network.forward

    def noted(self: Network, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and x.device.type == "cpu":
            passes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Network, "forward", noted)
    found = empssl.bench(**TINY | {"patches": 3, "objective": STATEFUL[name]}, slow=False)
    assert set(passes) == {4 * seen}  # the whole step's as the bare one's
    settings = found.conditions["settings"]
    network = build_network(settings["backbone"], settings["projector"])
    side = found.conditions["view_side"]
    objective = build_objective(settings["objective"], dim=8)
    step = step_flops(network, objective, 3, side, 4, settings["optimizer"])
    assert step.network == 4 * seen * training_flops(network, side)
    assert step.target == 4 * {"byol": 3, "ressl": 1}[name] * projecting_flops(network, side)
    assert found.conditions["gflop_per_patch"] == pytest.approx(step.total / 12 / 1e9)


def test_json_has_a_line_for_each_claim_with_its_conditions(found: Bench) -> None:
    lines = [json.loads(line) for line in found.to_json().splitlines()]
    assert [line["what"] for line in lines] == [claim.what for claim in found.claims]
    for line in lines:
        assert {"value", "unit", "n", "hardware", "versions", "precision"} <= line.keys()
        assert line["compiled"] == "none"
        assert line["versions"]["empssl"] == empssl.__version__
        assert (line["patches"], line["batch"]) == (2, 4)


def test_table_names_every_claim(found: Bench) -> None:
    for claim in found.claims:
        assert claim.what.replace("_", " ") in found.table()


def test_slow_pipeline_is_left_out_on_request_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "PRODUCT_SECONDS", 1e-4)
    fast = empssl.bench(**TINY, slow=False)
    assert "slow" not in fast.seconds
    assert "slow step" not in fast.table()
    assert not list(tmp_path.iterdir())


def test_the_step_is_compiled_as_in_training(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "PRODUCT_SECONDS", 1e-4)
    calls: Counter[str] = Counter()

    def compiled(module: Any, **options: Any) -> Any:
        assert options["mode"] == "max-autotune-no-cudagraphs"

        def call(*given: Any) -> Any:
            calls[type(module).__name__] += 1
            return module(*given)

        if not isinstance(module, torch.nn.Module):
            return call
        counting = torch.nn.Sequential(module)
        counting.register_forward_pre_hook(lambda *_: calls.update([type(module).__name__]))
        return counting

    monkeypatch.setattr(torch, "compile", compiled)
    mode: Any = "max-autotune-no-cudagraphs"
    found = empssl.bench(**TINY, slow=False, compile=mode)
    assert found.conditions["compiled"] == mode
    assert calls["Patches"] == 2 + 2 * (benchmark.WARMUP + 2)  # to prepare; whole; views
    assert calls["Network"] == 1 + 2 * (benchmark.WARMUP + 2)  # the trial; whole; bare
    monkeypatch.setattr(torch, "compile", lambda *_, **__: 1 / 0)
    assert empssl.bench(**TINY, slow=False, compile=mode).conditions["compiled"] == "none"
    assert "not compiled, and slower for it: ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["patches", "batch", "image_side", "steps", "slow_steps"])
def test_says_which_number_is_too_small(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0, expected"):
        empssl.bench(**TINY | {name: 0})


def test_one_patch_is_refused() -> None:
    with pytest.raises(UsageError, match="patches is 1, expected 2 or more"):
        empssl.bench(**TINY | {"patches": 1})


def test_views_that_the_slow_pipeline_lacks_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(UsageError, match="only the views patches, not crops; leave it out"):
        empssl.bench(**TINY | {"views": "crops"})


def test_config_that_is_printed_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--recipe", "paper", "--no-slow", "--print-config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(first)
    config = ["--config", str(tmp_path / "config.yaml")]
    assert cli.main(["bench", *config, "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert "patches: 200" in first
