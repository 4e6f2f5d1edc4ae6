"""The training loop."""

import copy
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from empssl.config import build
from empssl.data import BadSamples
from empssl.data.base import BadSample, ImageSet
from empssl.data.checks import near_constant_share
from empssl.data.sampler import Sampler
from empssl.device import Fabric, environment, is_out_of_memory, send, synchronize
from empssl.distributed.collectives import (
    all_gather_object,
    all_reduce_max,
    check_same,
    on_rank_zero,
)
from empssl.distributed.processes import torchrun_launch
from empssl.distributed.signals import StopRequest
from empssl.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    OutOfMemoryError,
    StoppedError,
)
from empssl.metrics.projections import CollapseWatch, spectrum_steps
from empssl.models import Network
from empssl.models.ema import EMANetwork
from empssl.objectives.base import Objective
from empssl.optim import (
    SCHEDULES,
    Schedule,
    build_optimizers,
    flatten_state,
    lay_out_as_weights,
    set_lr,
    unflatten_state,
)
from empssl.progress import progress, say
from empssl.rng import uniform
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.training.budget import Budget, format_duration, parse_duration
from empssl.training.cpu_load import ThreadControl, threads_are_given
from empssl.training.failures import all_finite, diverged, out_of_memory, until_not_finite
from empssl.training.memory import MemoryPlan, lower_memory_mode
from empssl.training.metrics_buffer import MetricsBuffer
from empssl.training.sharding import Share
from empssl.training.step import Augment, StepResult, begin_step, training_step
from empssl.training.trained_images_log import TrainedImagesLog
from empssl.types import Division
from empssl.views import Policy

CHECKPOINT_SECONDS = 300.0
WHITENING_IMAGES = 5000  # ten of the patches that whitening is measured on come from each
FoundBadSample = tuple[BadSample, int, int]  # a bad image, and the epoch and step it was read for


@dataclass
class Trainer:
    """A run in progress: what a step needs, and where it stands."""

    fabric: Fabric
    network: Network
    module: nn.Module  # the network as Fabric wraps it
    optimizers: list[torch.optim.Optimizer]
    objective: Objective
    target: EMANetwork | None  # where the objective learns towards a momentum target
    policy: Policy
    share: Share
    sampler: Sampler
    images: ImageSet
    settings: dict[str, Any]
    flops_per_view: float
    began: float  # when the budget began to run
    augment: Augment
    memory: MemoryPlan
    run: Run = field(init=False)
    bad: BadSamples = field(init=False)
    found: list[FoundBadSample] = field(default_factory=list)  # bad images that `bad` lacks
    trained: TrainedImagesLog = field(init=False)  # which images it learned from
    plan: dict[str, Any] = field(default_factory=dict)
    division: Division = "stable"  # how data without splits of their own are divided
    images_at: dict[str, str | None] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()  # modules of a user's own that it needs
    fixed_threads: bool = False  # those of torch stay as many, whatever else the cores do
    budget: Budget | None = None  # where steps follow from time
    compiled: str = "none"
    step: int = 0
    seconds: float = 0.0

    def enter(self, run: Run) -> None:
        """Write to this run directory from now on.

        Raises:
            DataError: too many images could not be read.
        """
        self.run = run
        self.trained = TrainedImagesLog(self.fabric, run, self.images)
        path = run.bad_samples_path if self.fabric.is_global_zero else None
        self.bad = BadSamples(path, len(self.images))
        for sample in getattr(self.images, "bad", {}).values():
            self.bad.add(sample, epoch=0, step=0)

    def start(self) -> None:
        """Fix the number of steps, and write down all that followed from the data."""
        if self.network.whitened is not None:
            usable = self.sampler.usable
            spread = usable[:: max(1, len(usable) // WHITENING_IMAGES)][:WHITENING_IMAGES]
            images = self.images.read(spread.tolist())
            self.network.whitened.fit(images.pixels[images.valid], seed=self.settings["seed"])
            self.trained.saw(images)
        per_epoch = self.sampler.steps_per_epoch
        if self.settings["budget"] is None:
            steps = max(1, round(self.settings["epochs"] * per_epoch))
        else:
            seconds = parse_duration(self.settings["budget"])
            steps, each = self.fabric.broadcast(self._steps_within(seconds))
        self.plan = {
            "steps": steps,
            "steps_per_epoch": per_epoch,
            "samples": len(self.images),
            "usable_samples": len(self.sampler.usable),
            "near_constant": near_constant_share(self.images, self.sampler.usable, self.say),
            "image_side": self.images.side,
            "patch_side": self.policy.patch_side(self.images.side),
            "view_side": self.policy.view_side(self.images.side),
            "gflop_per_patch": self.flops_per_view / 1e9,
            "fingerprint": self.images.fingerprint,
            "division": self.division,
            "trained_with_labels": self.objective.needs_labels,
            "decoding": asdict(self.images.decoding),
        } | self.images_at
        if self.settings["budget"] is not None:
            spent = time.monotonic() - self.began
            self.budget = Budget(seconds, [(0, steps)], spent=spent, each=each)
            self.plan |= {"startup_seconds": spent, "replanned": self.budget.planned}
        self.trained.begin(anew=True)
        if self.fabric.is_global_zero:
            self.run.plan = self.plan
            self.run.environment = (
                environment(self.fabric, self.settings["precision"])
                | {
                    "compiled": self.compiled,
                    "memory": self.memory.mode,
                    "startup_seconds": time.monotonic() - self.began,
                    "launch": torchrun_launch(),
                }
                | ({"plugins": list(self.plugins)} if self.plugins else {})
            )
        views = self.settings["patches"] * self.settings["batch"]
        self.say(
            f"{len(self.sampler.usable):,} of {len(self.images):,} images can be used "
            f"({self.images.split} split), {self.bad.count} are bad; {steps:,} steps of {views:,} "
            f"patches, {steps / per_epoch:.2f} epochs"
        )
        if self.budget is not None and steps < per_epoch:
            self.say(
                f"the budget of {self.settings['budget']} is less than a pass over the images: "
                f"{100 * steps / per_epoch:.2g} % of them will be seen, and all would take "
                f"{format_duration(per_epoch * each)}"
            )

    def restore(self) -> None:
        """Continue from the newest whole checkpoint; a run that never wrote one starts again.

        Raises:
            DataError: images that the run began with cannot be used any more.
            CheckpointError: there are checkpoints, but none is whole, or not of this run.
        """
        self.plan = self.run.plan
        usable = len(self.sampler.usable)
        if usable != (before := self.plan.get("usable_samples", usable)):
            raise DataError(
                f"{usable} of the images of {self.settings['data']} can be used, and {before} when "
                f"{self.run.path} was started; restore them, or start a new run: the order of the "
                "images would be another"
            )
        if not self.run.has_checkpoints:
            self.say(f"{self.run.path} stopped before its first checkpoint; starting again")
            if self.fabric.is_global_zero:
                self.run.trim_metrics(0)
                self.run.trim_epochs(0)  # with a budget, the steps may be others now
            self.start()
            return
        self.trained.begin(anew=False)
        saved, folder, problems = self.run.load_checkpoint()
        for problem in problems:
            self.say(f"{problem}; using {folder.name}, the one before")
        check_same({"the checkpoint to continue from": folder.name})
        for group, module in self.modules.items():
            checkpoint.load_strictly(module, saved.tensors.get(group, {}), folder)
        try:
            for index, optimizer in enumerate(self.optimizers):
                optimizer.load_state_dict(
                    unflatten_state(
                        saved.state["optimizers"][index], saved.tensors["optimizer"], index
                    )
                )
                lay_out_as_weights(optimizer)
            self.step, self.seconds = saved.state["step"], saved.state["seconds"]
            self.plan["steps"], self.plan["steps_per_epoch"]  # or KeyError
            self._restore_budget()
            if (before := self.plan["gflop_per_patch"]) != self.flops_per_view / 1e9:
                self.flops_per_view = 1e9 * before  # counted otherwise; a run has one count
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} or {self.run.path / 'plan.json'} does not hold what it takes to "
                f"continue ({error!r})"
            ) from error
        on_rank_zero(self.fabric, lambda: self.trained.warn_of_changes(self.sampler, self.step))
        if self.fabric.is_global_zero:
            self.run.trim_metrics(self.step)
            self.run.trim_epochs(self.step)
            self.run.environment = self.run.environment | {"memory": self.memory.mode}
            self.plan |= self.images_at
            if self.plan != self.run.plan:
                self.run.plan = self.plan

    def _restore_budget(self) -> None:
        """What is left of the time; steps that are taken again are planned again, too."""
        planned = self.plan.get("replanned")
        if planned is None:  # of a run that goes on for a number of steps
            return
        kept = [(step, steps) for step, steps in planned if step <= self.step]
        self.budget = Budget(
            parse_duration(self.settings["budget"]), kept, step=self.step,
            spent=self.plan["startup_seconds"] + self.seconds,
        )  # fmt: skip
        self.plan |= {"steps": self.budget.steps, "replanned": [list(plan) for plan in kept]}

    def _replan(self) -> None:
        """Have the first process say how many steps there are by now; write it down if it is new.

        The learning rate, and what else follows from the number of steps, follow from the plans.
        """
        assert self.budget is not None
        step, spent = self.step, self.plan["startup_seconds"] + self.seconds
        changed = self.fabric.is_global_zero and self.budget.replan(step, spent)
        (steps,) = all_reduce_max(self.fabric, self.budget.steps if changed else 0)
        if steps and not changed:
            self.budget.plan(step, steps)
        if steps:
            self.plan |= {"steps": steps, "replanned": self.budget.planned}
            if self.fabric.is_global_zero:
                self.run.plan = self.plan

    def fit(
        self, stop: StopRequest, heartbeat: Callable[[int], None] = lambda step: None
    ) -> dict[str, Any] | None:
        """Train to the end of the plan, with a line of metrics for each step.

        Args:
            stop: which signal has come.
            heartbeat: told of each step before it is taken.

        Returns:
            The last line of metrics; None if no step was left.
        """
        steps, budget = self.plan["steps"], self.budget
        planned = budget.planned[0][1] if budget else steps
        schedule: Schedule = build(SCHEDULES, self.settings["schedule"], steps=planned)
        watch, before = CollapseWatch(), self.seconds
        # Other processes of this run are no strangers, and a GPU does not share these cores.
        single = self.fabric.world_size == 1
        shared = single and self.fabric.device.type == "cpu"
        threads = ThreadControl(fixed=self.fixed_threads or threads_are_given())
        buffer, keep = MetricsBuffer(self.fabric.device), self._kept_at()
        spectra = spectrum_steps(steps)
        first, last = self.fabric.is_global_zero, None
        at_first = at = saved = time.monotonic()
        self.module.train()
        with threads, progress("training", steps, done=self.step, silent=not first) as advance:
            while self.step < steps:
                heartbeat(self.step)
                position = budget.position(self.step) if budget else float(self.step)
                lr = set_lr(self.optimizers, schedule(position))
                result, samples = self.train_step(
                    self.step, position / planned, with_spectrum=self.step in spectra
                )
                buffer.add(
                    result.metrics_entry(
                        step=self.step,
                        lr=lr,
                        steps_per_epoch=self.plan["steps_per_epoch"],
                        views=self._views_per_step,
                        flops_per_view=self.flops_per_view,
                        clipped=getattr(self.optimizers[0], "clip_fraction", None),
                    ),
                    samples,
                )
                self.step += 1
                kept = keep.get(self.step)
                # Several GPUs agree when numbers are read: either is to wait for what was queued.
                if not (single or buffer.full or kept or self.step == steps):
                    continue
                late = time.monotonic() - saved > CHECKPOINT_SECONDS
                signal, due, bad = all_reduce_max(self.fabric, stop.signal, late, bool(self.found))
                if bad:
                    self._write_bad()
                if not (buffer.full or signal or due or kept or self.step == steps):
                    continue
                measured = buffer.read()
                now = time.monotonic()
                self.seconds, each = before + now - at_first, (now - at) / len(measured)
                at = now
                for entry in until_not_finite(measured, self.images):
                    entry["patches_per_second"] = self._views_per_step / each
                    entry["seconds"] = self.seconds
                    if first:
                        self.run.add_metrics(entry)
                    if warning := watch.update(entry["step"], entry):
                        self.say(warning)
                last = entry
                if shared and (message := threads.update()):
                    self.say(message)
                if budget is not None:
                    self._replan()
                    steps = budget.steps
                    spectra, keep = spectrum_steps(steps), self._kept_at()
                advance(self.step, f"{self.settings['batch'] / each:,.0f} images/s, "
                                   f"loss {entry['loss']:.1f}", steps)  # fmt: skip
                if kept:  # before any checkpoint from which this step is not taken again
                    self._check_weights()
                    for epoch in kept if first else ():
                        self.run.save_epoch(epoch, self._model())
                if signal or due:
                    self._save()
                    saved = time.monotonic()
                if signal and self.step < steps:
                    raise StoppedError(
                        f"stopped after step {self.step} of {steps}; continue with --resume",
                        128 + signal,
                    )
        self.sampler.close()
        self._save()
        if first:
            self.run.save_model(self._model())
        return last

    def _write_bad(self) -> None:
        """Write down the bad images that were found in any process.

        Raises:
            DataError: there are too many by now.
        """
        every, self.found = all_gather_object(self.found), []

        def write() -> None:
            for sample, epoch, step in chain(*every):
                self.bad.add(sample, epoch=epoch, step=step)

        on_rank_zero(self.fabric, write)

    def train_step(
        self, step: int, progress: float, *, with_spectrum: bool = False
    ) -> tuple[StepResult, Tensor]:
        """A step's measurements, perhaps still to be computed, and the samples it saw."""
        begin_step(self.compiled)
        drawn = self.sampler.draw(step)
        self.found += [(sample, drawn.epoch, step) for sample in drawn.bad]
        self.trained.drew(drawn.contents)
        # On the CPU, where the samples' numbers are: on a GPU the seed would have to be copied.
        u = uniform(
            drawn.samples, seed=self.settings["seed"], epoch=drawn.epoch,
            views=self.share.views, draws=self.policy.draws,
        )  # fmt: skip
        try:
            views = self._views(drawn.pixels, u).to(next(self.network.parameters()).dtype)
            labels = self.images.labels if self.objective.needs_labels else None
            if labels is not None:
                labels = send(labels[drawn.samples], self.fabric.device)
            result = training_step(
                self.fabric, self.module, self.objective, self.optimizers, views, self.memory,
                self.target, labels, self.share.axis, with_spectrum=with_spectrum,
            )  # fmt: skip
        except DivergenceError as error:
            raise diverged(self.images, step, str(error), drawn.samples, error.rows) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self.out_of_memory(f"step {step}", error) from error
        if self.target is not None:
            self.target.update(self.network, self.objective.momentum_at(progress))
        return result, drawn.samples

    def _views(self, pixels: Tensor, u: Tensor) -> Tensor:
        """Views of a step, on the device that computes; weak ones first."""
        pixels, u = send(pixels, self.fabric.device), send(u, self.fabric.device)
        weak, first = self.objective.weak_views, self.share.views.start
        views = self.augment(pixels, u[weak:], first + weak)
        return torch.cat([self.policy.weak()(pixels, u[:weak], first), views]) if weak else views

    def out_of_memory(
        self, when: str, error: BaseException, *, begun: bool = True
    ) -> OutOfMemoryError:
        """See `failures.out_of_memory`; before the run has begun there is none to resume."""
        return out_of_memory(
            when, error, begun=begun, patches=self.settings["patches"],
            batch=self.settings["batch"], processes=self.fabric.world_size, mode=self.memory.mode,
            lower=lower_memory_mode(self.memory.mode, self.network),
        )  # fmt: skip

    @property
    def _views_per_step(self) -> int:
        return int(self.settings["patches"] * self.settings["batch"])

    def _steps_within(self, seconds: float) -> tuple[int, float]:
        """How many steps fit into what is left of a budget, and the seconds that one takes.

        From steps that are then undone.
        """
        self.say(f"measuring the speed, for the budget of {self.settings['budget']}")
        before = copy.deepcopy({g: module.state_dict() for g, module in self.modules.items()})
        set_lr(self.optimizers, 0.0)
        self.module.train()
        times: list[float] = []
        until = time.monotonic() + min(10.0, 0.04 * seconds)
        while all_reduce_max(self.fabric, len(times) < 6 or time.monotonic() < until)[0]:
            at = time.monotonic()
            self.train_step(len(times) % self.sampler.steps_per_epoch, 0.0)
            synchronize(self.fabric)
            times.append(time.monotonic() - at)
        for group, module in self.modules.items():
            module.load_state_dict(before[group])
        trained = nn.ModuleList([self.network, self.objective])
        self.optimizers = build_optimizers(trained, self.settings["optimizer"])
        typical = statistics.median(times[3:])
        left = seconds - (time.monotonic() - self.began)
        return max(1, math.floor(left / typical)), typical

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What training changes, by its file in a checkpoint."""
        found = {"model": self.network, "objective": self.objective, "target": self.target}
        return {group: module for group, module in found.items() if module is not None}

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of a checkpoint but the optimizers'; a group without any is left out."""
        states = {group: dict(module.state_dict()) for group, module in self.modules.items()}
        return {group: state for group, state in states.items() if state}

    def _kept_at(self) -> dict[int, list[float]]:
        """Epochs after which the network is kept, by step; what lies past the end is left out."""
        found: dict[int, list[float]] = defaultdict(list)
        for epoch in self.settings.get("keep_epochs", ()):
            found[max(1, round(epoch * self.plan["steps_per_epoch"]))].append(epoch)
        return {step: epochs for step, epochs in found.items() if step <= self.plan["steps"]}

    def _model(self) -> Checkpoint:
        """The network alone, as it is now."""
        return Checkpoint({"model": self._weights()["model"]}, self._identity())

    def _identity(self) -> dict[str, Any]:
        """What it takes to make the network and its views again."""
        keys = ("backbone", "projector", "whitened", "views", "patches")
        return {
            "network": {key: self.settings[key] for key in keys},
            "image_side": self.images.side,
            "decoding": asdict(self.images.decoding),
            "step": self.step,
            "seconds": self.seconds,
            "data": self.settings["data"],
        }

    def _check_weights(self) -> None:
        """Refuse to keep weights that the last update spoiled.

        Raises:
            DivergenceError: they are not finite.
        """
        if not all_finite(t for tensors in self._weights().values() for t in tensors.values()):
            raise DivergenceError(
                f"step {self.step}: the update before it made weights that are not finite. They "
                "are not kept, and checkpoints that were written are good. Lower the learning rate"
            )

    def _save(self) -> None:
        """Write a checkpoint; the processes other than the first wait for it.

        Raises:
            DivergenceError: the weights are not finite. None is written.
        """
        self._check_weights()
        self.trained.write_new()

        def save() -> None:
            flat = [flatten_state(o.state_dict(), i) for i, o in enumerate(self.optimizers)]
            tensors = {key: t for _, group in flat for key, t in group.items()}
            state = self._identity() | {"optimizers": [state for state, _ in flat]}
            self.run.save_checkpoint(
                self.step, Checkpoint(self._weights() | {"optimizer": tensors}, state)
            )

        on_rank_zero(self.fabric, save)

    def say(self, text: str) -> None:
        if self.fabric.is_global_zero:
            say(text)
