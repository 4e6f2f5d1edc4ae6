"""What a training step costs on this machine, and which part of it costs what."""

import json
import math
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from empssl.config import Spec, build, names_in_docstring
from empssl.device import (
    Compile,
    Fabric,
    Precision,
    environment,
    has_room,
    is_out_of_memory,
    resolve_compile,
    resolve_precision,
    send,
    synchronize,
)
from empssl.diagnostics.reference import SlowPipeline
from empssl.distributed.launch import launch
from empssl.errors import UsageError
from empssl.models import Network, build_network
from empssl.models.ema import EMANetwork
from empssl.objectives import build_objective
from empssl.objectives.base import Objective
from empssl.optim import build_optimizers, set_lr
from empssl.progress import say
from empssl.rng import uniform
from empssl.training.flops import flops_per_view
from empssl.training.memory import WHOLE
from empssl.training.recipes import resolve, spec_tables
from empssl.training.step import (
    Augment,
    begin_step,
    compile_failure,
    compiled,
    gradient_norm,
    objective_loss,
    training_step,
)
from empssl.types import MOST_BATCH, MOST_PATCHES, MOST_SIDE
from empssl.views import POLICIES

PARTS = ("views", "objective", "optimizer", "transfer")
WARMUP = 3  # repetitions that are not counted
PRODUCT_SECONDS = 0.2  # of the matrix product that stands for what the hardware can do
PRODUCTS = 5
MOST_PRODUCT_SIDE = 2**14

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        what: its name.
        value: the median.
        unit: of value, low and high.
        n: repetitions that were counted.
        low: the least of them.
        high: the greatest of them.
    """

    what: str
    value: float
    unit: str
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Bench:
    """What was measured, in one run on one machine.

    Attributes:
        claims: in the order of the table.
        conditions: hardware, versions and settings, the same for all claims.
        seconds: every counted repetition of every part.
    """

    claims: tuple[Measurement, ...]
    conditions: dict[str, Any]
    seconds: Seconds

    def __getitem__(self, what: str) -> Measurement:
        return {claim.what: claim for claim in self.claims}[what]

    def to_json(self) -> str:
        """One line for each claim, each with all it depends on."""
        return "\n".join(json.dumps(asdict(claim) | self.conditions) for claim in self.claims)

    def table(self) -> str:
        """A line for each claim, for a person."""
        lines = [f"{'measured':34} {'median':>10} {'from':>10} {'to':>10}  {'unit':12} {'n':>3}"]
        for claim in self.claims:
            numbers = " ".join(f"{x:10.4g}" for x in (claim.value, claim.low, claim.high))
            lines.append(
                f"{claim.what.replace('_', ' '):34} {numbers}  {claim.unit:12} {claim.n:3}"
            )
        c = self.conditions
        lines.append(
            f"{c['recipe']}: {c['patches']} patches of each of {c['batch']} images of noise, views "
            f"of {c['view_side']} px, {c['backbone']}, {c['precision']}"
        )
        lines.append(f"{c['hardware']}, {c['threads']} threads, torch {c['versions']['torch']}")
        return "\n".join(lines)


@names_in_docstring(**spec_tables())
def bench(
    *,
    recipe: str | None = None,
    patches: int | None = None,
    batch: int | None = None,
    image_side: int = 32,
    views: Spec | str | None = None,
    backbone: Spec | str | None = None,
    projector: Spec | str | None = None,
    objective: Spec | str | None = None,
    optimizer: Spec | str | None = None,
    steps: int = 30,
    slow: bool = True,
    slow_steps: int = 3,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    compile: Compile = "auto",  # noqa: A002 (torch's word)
) -> Bench:
    """Measure what a training step costs here, part by part, on images of noise.

    Whole steps take turns with forward and backward alone, with every part alone and with a large
    matrix product, so that a machine that slows down does so for all. The learning rate is zero.
    The slow pipeline comes last: its processes would disturb the others.

    As in `train`, views and network are compiled, and images stay on a GPU that has room for them.

    Args:
        recipe: demo, fast, laptop (the default), paper or official. It decides what is not given.
        patches: patches of each image in a step.
        batch: images in a step.
        image_side: pixels of the images.
        views: one of {views}, and its options.
        backbone: one of {backbone}, and its options.
        projector: one of {projector}, and its options.
        objective: as in `train`.
        optimizer: one of {optimizer}, and its options.
        steps: repetitions of everything but the slow pipeline.
        slow: also measure EMP-SSL as people do write it: Pillow in loader processes, float32.
        slow_steps: rounds of the slow pipeline; in each, every loader process fills one batch.
        seed: of the images, the weights and the views.
        device: auto, cpu, cuda or mps.
        precision: auto is bfloat16 where the hardware multiplies it, else float32.
        compile: none, or a mode of torch.compile, as in `train`; never of the slow pipeline.

    Raises:
        UsageError: settings that cannot be carried out.
    """
    settings = resolve(
        recipe,
        {"patches": patches, "batch": batch, "image_side": image_side, "views": views,
         "backbone": backbone, "projector": projector, "objective": objective,
         "optimizer": optimizer},
    )  # fmt: skip
    counted = {
        "patches": (settings["patches"], 2, MOST_PATCHES),
        "batch": (settings["batch"], 2, MOST_BATCH),
        "image_side": (image_side, 2, MOST_SIDE),
        "steps": (steps, 1, math.inf),
        "slow_steps": (slow_steps, 1, math.inf),
    }
    for name, (value, least, most) in counted.items():
        if value < least:
            raise UsageError(f"{name} is {value}, expected {least} or more")
        if value > most:
            raise UsageError(f"{name} is {value}, expected at most {most:,}")
    if slow and settings["objective"]["name"] != "emp":
        raise UsageError(
            f"the slow pipeline knows only the objective emp, not {settings['objective']['name']}; "
            "leave it out with --no-slow"
        )
    if slow and settings["views"]["name"] != "patches":
        raise UsageError(
            f"the slow pipeline knows only the views patches, not {settings['views']['name']}; "
            "leave it out with --no-slow"
        )
    fabric = launch(device=device, devices=1, precision=precision)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        256, (settings["batch"], 3, image_side, image_side), dtype=torch.uint8, generator=generator
    )
    policy = build(POLICIES, settings["views"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(settings["backbone"], settings["projector"])
        lowered = build_objective(settings["objective"], dim=network.projector.dim)
    side = policy.view_side(image_side)
    flops = flops_per_view(
        network, lowered, settings["patches"], side, settings["batch"], settings["optimizer"]
    )
    parts = _Parts(fabric, settings, images, network, lowered, precision, seed)
    parts.compile(resolve_compile(compile, fabric))
    seconds = parts.measure(steps)
    product_flops = 2.0 * parts.product_side**3
    kept = "on the device" if parts.stays else "sent in each step"
    mode = parts.mode
    del parts
    if slow:
        pipeline = SlowPipeline(settings, images, seed=seed, device=str(fabric.device))
        seconds["slow"] = _slow_seconds(pipeline, fabric, slow_steps)
    per_step = settings["patches"] * settings["batch"]
    here = environment(fabric, precision)
    conditions = {
        "hardware": here["device"],
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "empssl": here["empssl"]},
        "threads": here["threads"], "precision": here["precision"],
        "recipe": settings["recipe"], "patches": settings["patches"], "batch": settings["batch"],
        "image_side": image_side, "view_side": side,
        "backbone": settings["backbone"]["name"], "settings": settings,
        "gflop_per_patch": flops / 1e9, "data": f"uniform noise, seed {seed}, {kept}",
        "compiled": mode,
    }  # fmt: skip
    claims = _claims(seconds, per_step, flops * per_step, product_flops)
    return Bench(tuple(claims), conditions, seconds)


def _claims(
    seconds: Seconds, per_step: int, step_flops: float, product_flops: float
) -> Iterator[Measurement]:
    """All numbers that follow from the times."""
    whole, bare = seconds["whole"], seconds["bare"]
    middle = statistics.median(whole)
    product = statistics.median(seconds["product"])

    def claim(what: str, values: list[float], unit: str) -> Measurement:
        return Measurement(
            what, statistics.median(values), unit, len(values), min(values), max(values)
        )

    yield claim("step", [1e3 * t for t in whole], "ms")
    yield claim("patches_per_second", [per_step / t for t in whole], "patches/s")
    yield claim("bare", [1e3 * t for t in bare], "ms")
    yield claim("bare_over_step", [b / w for b, w in zip(bare, whole, strict=True)], "ratio")
    for part in PARTS:
        yield claim(part, [1e3 * t for t in seconds[part]], "ms")
        yield claim(f"{part}_over_step", [t / middle for t in seconds[part]], "ratio")
    yield claim("views_per_patch", [1e6 * t / per_step for t in seconds["views"]], "us/patch")
    yield claim("step_flops", [step_flops / t / 1e12 for t in whole], "TFLOP/s")
    yield claim("product_flops", [product_flops / t / 1e12 for t in seconds["product"]], "TFLOP/s")
    peak = product_flops / product
    yield claim("step_over_product_flops", [step_flops / t / peak for t in whole], "ratio")
    if "slow" in seconds:
        yield claim("slow_step", [1e3 * t for t in seconds["slow"]], "ms")
        yield claim("slow_over_step", [t / middle for t in seconds["slow"]], "ratio")


class _Parts:
    """A step and its parts, each as a function that can be timed alone."""

    def __init__(
        self,
        fabric: Fabric,
        settings: dict[str, Any],
        images: Tensor,
        network: Network,
        objective: Objective,
        precision: Precision,
        seed: int,
    ) -> None:
        self.fabric, self.images, self.seed = fabric, images, seed
        self.patches, self.round = settings["patches"], 0
        exact = resolve_precision(precision, fabric.device.type)
        self.dtype = torch.float64 if exact == "64-true" else torch.float32
        network.to(self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network, self.plain = network, fabric.setup(network)
        self.module: nn.Module = self.plain
        self.stays = has_room(images.nbytes, fabric.device)
        self.policy, self.mode = build(POLICIES, settings["views"]), "none"
        self.augment: Augment = self.policy
        self.objective = objective.to(fabric.device, self.dtype)
        self.target = EMANetwork(network) if objective.target == "momentum" else None
        # Labels of noise: half of the images are of the one class, half of the other.
        of = torch.arange(len(images), device=fabric.device) % 2
        self.labels = of if objective.needs_labels else None
        trained = torch.nn.ModuleList([network, objective])
        self.optimizers = build_optimizers(trained, settings["optimizer"])
        set_lr(self.optimizers, 0.0)  # every repetition finds the same network
        self.module.train()
        kind = torch.bfloat16 if exact == "bf16-mixed" else self.dtype
        self.factors = torch.randn(64, 64, device=fabric.device).to(kind)

    @property
    def product_side(self) -> int:
        return len(self.factors)

    def compile(self, mode: str) -> None:
        """Have views and network compiled; where that fails, go on without, as `train` does."""
        if mode == "none":
            return
        try:
            self.augment, network = compiled(self.policy, self.network, mode)
            self.module, self.mode = self.fabric.setup(network).train(), mode
            self._prepare()
            self._bare()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            say(compile_failure(error))
            self.module, self.augment, self.mode = self.plain, self.policy, "none"
        self.network.zero_grad(set_to_none=True)

    def _prepare(self) -> None:
        """Views for what is measured without making them."""
        self.ready = self._views()[self.objective.weak_views :].clone()  # no CUDA graph's memory
        flat = self.ready.flatten(0, 1)
        self.flat = flat.contiguous(memory_format=torch.channels_last)

    def measure(self, steps: int) -> Seconds:
        """Seconds of each part, the repetitions of all in turn."""
        self._size_product()
        self._prepare()
        with torch.no_grad():
            self.projections = self._project()
        seconds: Seconds = defaultdict(list)
        every = max(1, steps // PRODUCTS)
        for repetition in range(-WARMUP, steps):
            # What bare leaves of gradients is what the optimizer then works on.
            for part, work in (
                ("whole", self._whole), ("bare", self._bare), ("optimizer", self._optimizer),
                ("objective", self._objective), ("views", self._views),
                ("transfer", self._transfer),
            ):  # fmt: skip
                t = self._timed(work)
                if repetition >= 0:
                    seconds[part].append(t)
            if repetition >= 0 and repetition % every == 0:
                seconds["product"].append(self._timed(self._product))
        return dict(seconds)

    def _timed(self, work: Callable[[], object]) -> float:
        synchronize(self.fabric)
        began = time.perf_counter()
        work()
        synchronize(self.fabric)
        return time.perf_counter() - began

    def _whole(self) -> None:
        self.round += 1
        views = self._views(send_too=not self.stays)
        training_step(
            self.fabric, self.module, self.objective, self.optimizers, views, WHOLE, self.target,
            self.labels,
        )  # fmt: skip

    def _views(self, *, send_too: bool = False) -> Tensor:
        samples = torch.arange(len(self.images))
        u = uniform(
            samples, seed=self.seed, epoch=self.round, views=range(self.patches),
            draws=self.policy.draws,
        )  # fmt: skip
        if send_too or self.round == 0:
            self.sent = send(self.images, self.fabric.device)
        begin_step(self.mode)
        u, weak = send(u, self.fabric.device), self.objective.weak_views
        views = self.augment(self.sent, u[weak:], weak)
        if weak:
            views = torch.cat([self.policy.weak()(self.sent, u[:weak]), views])
        return views.to(self.dtype)

    def _project(self) -> Tensor:
        projections: Tensor = self.plain(self.flat).unflatten(0, self.ready.shape[:2])
        return projections

    def _bare(self) -> None:
        begin_step(self.mode)
        self.fabric.backward(self.module(self.flat).square().mean())

    def _objective(self) -> None:
        cut = self.projections.detach().requires_grad_()
        targets = cut.detach()[: self.objective.target_views] if self.objective.target else None
        objective_loss(self.objective, cut, targets, self.labels).total.backward()

    def _optimizer(self) -> None:
        gradient_norm(self.network, self.objective)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _transfer(self) -> None:
        send(self.images, self.fabric.device)

    def _product(self) -> None:
        self.factors @ self.factors

    def _size_product(self) -> None:
        """Find a side with which one product takes about `PRODUCT_SECONDS`."""
        side, took = 64, 0.0
        kind = self.factors.dtype
        while took < PRODUCT_SECONDS / 4 and side < MOST_PRODUCT_SIDE:
            side *= 2
            self.factors = torch.randn(side, side, device=self.fabric.device).to(kind)
            self._product()  # the first is slower
            took = self._timed(self._product)
        side = int(side * (PRODUCT_SECONDS / took) ** (1 / 3)) // 64 * 64
        side = min(max(64, side), MOST_PRODUCT_SIDE)
        self.factors = torch.randn(side, side, device=self.fabric.device).to(kind)
        self._product()


def _slow_seconds(pipeline: SlowPipeline, fabric: Fabric, rounds: int) -> list[float]:
    """Seconds a step of the slow pipeline, in its stride.

    Loader processes work side by side, so that batches come in bursts: a round is one batch from
    each of them. The first round fills the queues, and is not counted.
    """
    each = max(1, pipeline.workers)
    batches, seconds = pipeline.batches(), []
    for counted in range(rounds + 1):
        began = time.perf_counter()
        for views in islice(batches, each):
            pipeline.step(views)
        synchronize(fabric)
        if counted:
            seconds.append((time.perf_counter() - began) / each)
    return seconds
