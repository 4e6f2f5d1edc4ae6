import shlex

from empssl.metrics.verdict import verdict
from empssl.training.train import closing_lines

HEALTHY = {"embedding_std": 0.9, "participation_ratio": 12.0, "coding_rate_ratio": 0.8}
PLAN = {"steps_per_epoch": 600, "usable_samples": 60_000}


def lines(steps: int, *, seconds: float = 60.0, run: str = "run", **measured: float) -> list[str]:
    last = {"step": steps - 1, "seconds": seconds} | HEALTHY | measured
    return closing_lines(verdict(last, PLAN, batch=100), run)


def test_a_healthy_run_is_called_so_with_its_collapse_metrics() -> None:
    assert lines(1200)[0] == (
        "healthy: images are told apart (embedding std 0.9, participation ratio 12, "
        "coding rate ratio 0.8)"
    )


def test_a_collapsed_run_is_called_so_with_what_to_do() -> None:
    first = lines(1200, embedding_std=0.05)[0]
    assert first.startswith("collapsed: the projections are nearly all alike: their embedding std")
    assert "lower the learning rate" in first


def test_a_budget_that_covers_few_images_says_so_with_what_all_would_take() -> None:
    first, seen, _ = lines(17)
    assert first.startswith("barely trained: too little to judge it by")
    assert first.endswith("Train for longer, such as --epochs 1, which takes about 35m18s")
    assert seen == (
        "1,700 of 60,000 images seen (2.8 %), in 1m; a full pass takes 35m18s"
    )  # fmt: skip


def test_few_steps_of_few_images_call_for_more_passes_than_there_were() -> None:
    last = {"step": 9, "seconds": 18.0} | HEALTHY
    few = {"steps_per_epoch": 7, "usable_samples": 300}
    first, *_ = closing_lines(verdict(last, few, batch=40), "run")
    assert first.endswith("such as --epochs 3, which takes about 38s")


def test_images_seen_several_times_are_counted_once() -> None:
    assert lines(1500)[1].startswith("60,000 of 60,000 images seen (100 %), 2.5 times each")


def test_the_next_command_can_be_pasted_whatever_the_run_is_called() -> None:
    path = "my runs/it's; rm -rf $HOME"
    *_, line = lines(1200, run=path)
    assert shlex.split(line.removeprefix("next: ")) == ["empssl", "report", path]
