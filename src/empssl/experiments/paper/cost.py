"""What a reproduction would do, and what it costs on this machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from empssl.config import build
from empssl.device import resolve_device
from empssl.diagnostics.benchmark import bench
from empssl.evaluation.pooling import Crops
from empssl.experiments.cost import TODO
from empssl.experiments.folder import Folder
from empssl.experiments.paper.plan import EvalRequest, PaperPlan
from empssl.experiments.paper.scores import Scores
from empssl.experiments.run_spec import RunSpec, RunState
from empssl.reports.charts import duration, numeral
from empssl.views import POLICIES

STEPS = 3  # of the measurement
# GFLOP that a step of it takes at most: the real step where that is small, as then the optimizer
# counts; less of a large one, so that it is over in seconds.
WORK, WORK_ELSEWHERE = {"cpu": 100.0}, 20_000.0
FORWARD = 1 / 3  # of the work of a training step's forward and backward


@dataclass(frozen=True)
class Cost:
    """One run, and all looks at it.

    Attributes:
        run: its name.
        state: where it stands; `trained` lacks some looks.
        used_by: the exhibits that it feeds.
        pflop: of training, from its start.
        train_seconds: the same as time on this machine; 0 for a trained one.
        requests: how many sets of features are left to compute.
        look_seconds: what these take, probes apart.
    """

    run: str
    state: RunState
    used_by: Sequence[str]
    pflop: float
    train_seconds: float
    requests: int
    look_seconds: float


@dataclass(frozen=True)
class PaperForecast:
    """All runs in the order in which they would be carried out.

    Attributes:
        costs: a run each.
        left_out: what is not run, by the reason.
        teraflops: what was measured of each network on this machine, in TFLOP/s.
    """

    costs: Sequence[Cost]
    left_out: dict[str, list[str]]
    teraflops: dict[str, float]

    @classmethod
    def of(cls, plan: PaperPlan, scores: Scores, folder: Folder, *, device: str) -> "PaperForecast":
        """Measures the speed of each network, for some seconds; nothing is written."""
        speeds: dict[str, float] = {}
        costs = []
        for spec in plan.runs():
            requests = plan.looks_at(spec)
            state = _state(spec, requests, scores, folder)
            network = _network(spec)
            if state != "finished" and network not in speeds:
                speeds[network] = _teraflops(spec, device)
            costs.append(_cost(spec, state, plan, scores, speeds.get(network, 1.0)))
        return cls(costs, plan.reasons(), speeds)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def table(self) -> str:
        """A line for each run, for a person."""
        width = max([3, *(len(cost.run) for cost in self.costs)])
        numbers = ("PFLOP", "training", "looks", "features")
        lines = [f"{'run':{width}}  {'to do':15}"
                 + "".join(f" {name:>12}" for name in numbers) + "  feeds"]  # fmt: skip
        for cost in self.costs:
            values = (numeral(cost.pflop), duration(cost.train_seconds), str(cost.requests),
                      duration(cost.look_seconds))  # fmt: skip
            written = "".join(f" {value:>12}" for value in values)
            feeds = " ".join(cost.used_by)
            lines.append(f"{cost.run:{width}}  {TODO[cost.state]:15}{written}  {feeds}")
        left = [cost for cost in self.costs if cost.state not in ("finished", "trained")]
        training = sum(cost.train_seconds for cost in self.costs)
        looking = sum(cost.look_seconds for cost in self.costs)
        lines.append(
            f"{len(left)} of {len(self.costs)} runs to train: at most {duration(training)}, and "
            f"{duration(looking)} of features; probes, maps and baselines apart"
        )
        for network, speed in self.teraflops.items():
            lines.append(f"measured here: {network} trains at {numeral(speed)} TFLOP/s")
        lines += [f"not run: {', '.join(names)}: {why}" for why, names in self.left_out.items()]
        return "\n".join(lines)


def _state(
    spec: RunSpec, requests: Sequence[EvalRequest], scores: Scores, folder: Folder
) -> RunState:
    if folder.failure(spec.name):
        return "failed"
    if spec.run is None:
        return "new"
    if spec.run.identity is None:
        return "begun"
    return "trained" if scores.missing(spec, requests) else "finished"


def _cost(
    spec: RunSpec, state: RunState, plan: PaperPlan, scores: Scores, teraflops: float
) -> Cost:
    assert spec.patches is not None
    pflop = spec.patches * spec.gflop_per_patch / 1e6
    left = scores.missing(spec, plan.looks_at(spec))
    seen = {request.key: request for request in left}.values()
    policy = build(POLICIES, spec.settings["views"])
    side = spec.settings["image_side"] or 32  # shares of it are what counts
    views = 0.0  # as large as those of training
    for request in seen:
        train, test = plan.sizes.get(request.on, (0, 0))
        crops = Crops.parse(request.crops)
        seen_side = crops.sides(policy, side)[1] if crops.kind == "grid" else (
            side if crops.kind == "whole" else policy.view_side(side)
        )  # fmt: skip
        size = (seen_side / policy.view_side(side)) ** 2
        images = (request.train_size or train) + test
        views += size * request.views(policy.augmentation.flip > 0) * images if request.probe else 0
    features = views * spec.gflop_per_patch * FORWARD / 1e6
    trained = state in ("finished", "trained")
    return Cost(
        spec.name, state, plan.used_by(spec), pflop, 0.0 if trained else 1e3 * pflop / teraflops,
        len(seen), 1e3 * features / teraflops,
    )  # fmt: skip


def _network(spec: RunSpec) -> str:
    s = spec.settings
    return (
        f"{s['backbone']['name']} of width {s['backbone']['width']} on {s['views']['name']}, "
        f"{s['optimizer']['name']}"
    )


def _teraflops(spec: RunSpec, device: str) -> float:
    """Of a few small training steps of the run's network, whose objective is EMP-SSL's."""
    settings: dict[str, Any] = spec.settings
    work = WORK.get(resolve_device(device), WORK_ELSEWHERE)
    count = max(4, min(spec.patches_per_step, int(work / spec.gflop_per_patch)))
    batch = min(settings["batch"], count // 2)
    found = bench(
        recipe=settings["recipe"], patches=count // batch, batch=batch,
        image_side=settings["image_side"] or 32, views=settings["views"],
        backbone=settings["backbone"], projector=settings["projector"], objective={"name": "emp"},
        optimizer=settings["optimizer"], steps=STEPS, slow=False, device=device,
    )  # fmt: skip
    return found["step_flops"].value
