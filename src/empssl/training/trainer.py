"""The training loop: images to a run directory."""

import copy
import inspect
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from empssl.config import Spec, build
from empssl.data import BadSamples, Decoding, MemoryImages, in_memory, open_images
from empssl.data.base import BadSample, ImageSet
from empssl.data.checks import class_counts, near_constant
from empssl.data.duplicates import contents
from empssl.data.in_memory import resident
from empssl.data.run_images import check_fingerprint, check_same_kind, known_data_dir, place
from empssl.data.sampler import Sampler
from empssl.data.value_range import MAX_PIXELS, RangeWords
from empssl.device import (
    Compile,
    Fabric,
    Precision,
    environment,
    is_out_of_memory,
    resolve_compile,
    send,
    synchronize,
)
from empssl.distributed.collectives import (
    all_gather_object,
    all_reduce_max,
    check_same,
    on_rank_zero,
)
from empssl.distributed.launch import launch
from empssl.distributed.processes import Call, alone_again, restarted, torchrun_launch
from empssl.distributed.signals import StopRequest, stop_requests
from empssl.distributed.watchdog import watchdog
from empssl.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    OutOfMemoryError,
    StoppedError,
    UsageError,
)
from empssl.metrics.projections import CollapseWatch, spectrum_steps
from empssl.models import Network, build_network
from empssl.models.batchnorm import convert_to_global_batchnorm
from empssl.models.ema import EMANetwork
from empssl.objectives import build_objective
from empssl.objectives.base import Objective
from empssl.optim import SCHEDULES, Schedule, build_optimizers, set_lr
from empssl.progress import progress, say
from empssl.rng import uniform
from empssl.runs import checkpoint
from empssl.runs.checkpoint import Checkpoint
from empssl.runs.run import Run
from empssl.runs.trained_images import TrainedImages
from empssl.training.budget import Budget, format_duration, parse_duration
from empssl.training.compilation import Augment, begin_step, compiled, failure
from empssl.training.cpu_load import LoadWatch
from empssl.training.failures import all_finite
from empssl.training.flops import flops_per_view
from empssl.training.memory import Memory, MemoryPlan, free_of_each, lower_memory_mode, plan_memory
from empssl.training.metrics_buffer import MeasuredStep, MetricsBuffer
from empssl.training.preflight import check_disk, checkpoint_bytes
from empssl.training.recipes import completed, resolve
from empssl.training.sharding import Shard, Share
from empssl.training.step import StepResult, training_step
from empssl.types import MOST_BATCH, MOST_PATCHES, MOST_SIDE, Division
from empssl.views import POLICIES, Policy

CHECKPOINT_SECONDS = 300.0
MOST_EPOCHS = 1e9  # so that steps can be counted
SAME_GRADIENTS = {"auto", "whole", "exact"}  # ways of memory between which a run may change
WHITENING_IMAGES = 5000  # ten of the patches that whitening is measured on come from each
LOOKED_AT, NEAR_CONSTANT_SHARE = 512, 0.05  # images; more of them than this are worth a warning
COMPARED_AT_ONCE = 8192  # images, with those that a run learned from
FoundBadSample = tuple[
    BadSample, int, int
]  # a bad image, and the epoch and step for which it was read


@alone_again()
def train(
    data: str,
    *,
    out: str | Path,
    recipe: str | None = None,
    patches: int | None = None,
    batch: int | None = None,
    epochs: float | None = None,
    budget: str | None = None,
    image_side: int | None = None,
    range: RangeWords = (),  # noqa: A002 (what it is)
    max_pixels: int = MAX_PIXELS,
    views: Spec | str | None = None,
    backbone: Spec | str | None = None,
    projector: Spec | str | None = None,
    whitened: int | None = None,
    objective: Spec | str | None = None,
    optimizer: Spec | str | None = None,
    schedule: Spec | str | None = None,
    split: Literal["auto", "train", "test", "all"] = "auto",
    seed: int = 0,
    keep_epochs: Sequence[float] = (),
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    precision: Precision = "auto",
    compile: Compile = "auto",  # noqa: A002 (torch's word)
    memory: Memory = "auto",
    shard: Shard = "images",
    patience: str = "10m",
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Learn an encoder from images without labels.

    Args:
        data: a folder of images, a Parquet file, or digits, pentominoes, cifar10, cifar100,
            tiny-imagenet or imagenet100. Labels, where there are any, are never used, but by an
            objective that needs them: supcon.
        out: the run directory to make.
        recipe: shapes (synthetic ones), demo, fast, laptop (the default), paper or official, either
            of the last two also with _imagenet100, or a rival's published CIFAR settings by its
            objective's name, such as simclr. It decides what is not given.
        patches: patches of each image in a step; n in the paper.
        batch: images in a step, over all processes.
        epochs: passes over the data.
        budget: train for this long instead, such as 10m: the speed is measured first and watched
            while training, and the number of steps follows it, so that the learning rate reaches
            its end on time. What comes before the first step counts, a later evaluation does not.
        image_side: pixels to which images are scaled and cropped; the data's own by default.
        range: of images with more than 8 bits a value, the two values that become black and white,
            such as 0 4095; or percentile, each image's own 0.1 and 99.9 percentiles; or full, all
            that 16 bits can hold. By default the bit depth in which a sample of the images fits, so
            that 12 bits in files of 16 are read as 12. Floats are from 0 to 1 unless this says
            otherwise. It is kept with the run, and `embed`, `evaluate` and `examine` use it too.
        max_pixels: an image with more is not decoded, and counted as bad.
        views: patches, of fixed size, or crops, of random size and shape; and how they are
            augmented.
        backbone: resnet10, resnet18, resnet34, resnet50 or timm, and its options.
        projector: paper or official, and its options.
        whitened: features of whitened patches that stand beside the network's in the joint
            embedding; 0 for none. They are measured on the images, not learned.
        objective: what training minimises: emp; barlow_twins, byol, frossl, mmcr, ressl, simclr,
            simsiam, spectral_contrastive, ssl_ey, swav, tcr, vicreg, vne or wmse; or supcon, which
            learns from labels; and its options.
        optimizer: lars, adamw, muon, muon_lars or sgd, and its options.
        schedule: cosine or linear, and its options.
        split: train leaves out what `evaluate` tests on: the test images of a known data set or of
            a folder that has some, else a fifth of a folder with classes; all leaves out nothing.
            auto is train where the data have test images of their own, else all.
        seed: of the weights, the order and the views.
        keep_epochs: after how many passes the network is also kept as it is then, such as 1 2 5;
            `evaluate --epoch` scores it. The learning rate knows nothing of them.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.
        devices: processes on this machine. Where a program or a notebook calls, the others carry
            out this call and nothing else of it.
        num_nodes: machines.
        precision: auto is bfloat16 where the hardware multiplies it, else float32.
        compile: none, or a mode of torch.compile for views and network; auto is default in one
            process on a GPU with Triton, else none. Start-up takes longer, and is reported apart.
            Only where memory is whole.
        memory: whole holds all of a step at once; exact holds a chunk of the backbone's work and
            computes the rest again, with the same gradients; auto is exact where the whole is not
            expected to fit. two-pass takes less work than exact, but normalizes each chunk by
            statistics of its own, which is another method.
        shard: what processes share of a step. images: each takes some images, and the projections
            of all travel. patches: each takes some patches of all images, and only what the
            objective adds up over patches travels; for objectives to which that is enough, and
            with the same numbers. Each process then reads all images.
        patience: where several processes have not finished a step for so long, all of them end, and
            one says where each was.
        resume: continue the run at `out`; its images may have moved, but must be the same.
        overwrite: replace the run at `out`.

    Returns:
        The run directory.

    Raises:
        UsageError: settings that cannot be carried out.
        DataError: no usable images, too many bad ones, or other images than the run began with.
        DivergenceError: a loss or gradient was not finite; the last checkpoint is good.
        OutOfMemoryError: a step did not fit; says how it will, or that nothing smaller is left.
        StoppedError: Ctrl-C or SIGTERM came; a checkpoint has been written.
    """
    call = Call("train", dict(locals()))
    given: dict[str, Any] = {
        "patches": patches, "batch": batch, "epochs": epochs, "budget": budget,
        "image_side": image_side, "views": views, "backbone": backbone, "projector": projector,
        "whitened": whitened, "objective": objective, "optimizer": optimizer, "schedule": schedule,
    }  # fmt: skip
    began, limit = time.monotonic(), parse_duration(patience)
    if not resume and _begun_before(Path(out)):
        resume, overwrite = True, False
    chosen = {
        "split": split, "seed": seed, "keep_epochs": tuple(keep_epochs), "precision": precision,
        "memory": memory, "shard": shard, "range": _together(range), "max_pixels": max_pixels,
    }  # fmt: skip
    if resume and overwrite:
        raise UsageError("a run is either resumed or overwritten; leave out one of the two")
    if resume:
        # What equals its default cannot be told from what was not given.
        defaults = inspect.signature(train).parameters
        given |= {key: value for key, value in chosen.items() if value != defaults[key].default}
        settings = _resumed_settings(Run(out), data, recipe, given)
        decoding = Decoding.recorded(Run(out).plan.get("decoding", settings))
    else:
        settings = {"data": data} | resolve(recipe, given) | chosen
        decoding = Decoding.recorded(settings)
        Run.check_free(out, overwrite=overwrite)
    division = Run(out).division if resume else "stable"
    _check(settings)
    _rehearse(settings)
    fabric = launch(device=device, devices=devices, num_nodes=num_nodes,
                    precision=settings["precision"], call=call)  # fmt: skip
    with watchdog(fabric, limit) as begin, ExitStack() as held:
        check_same(settings | {"out": str(out), "resume": resume})
        if resume and data_dir is None:
            data_dir = known_data_dir(Run(out))
        images = open_images(
            data, split=settings["split"], data_dir=data_dir, side=settings["image_side"],
            decoding=decoding, download=download, division=division,
        )  # fmt: skip
        if settings["split"] == "auto":
            settings["split"] = images.split
        if resume:
            check_fingerprint(Run(out), data, images)
        if fabric.is_global_zero:
            for line in filter(None, (class_counts(images), images.files)):
                say(line)
            images.tell()
        with progress("reading images", len(images), silent=not fabric.is_global_zero) as advance:
            images = in_memory(images, progress=advance)
            advance(len(images))
        if fabric.is_global_zero:
            images.tell()
        check_same({"the images' fingerprint": images.fingerprint, "range": images.decoding.text})
        training = Trainer.build(settings, fabric, images, began, division)
        training.images_at = place(data, data_dir)
        training.compile(resolve_compile(compile, fabric))
        elsewhere = {
            "data_dir": data_dir and str(data_dir), "download": download, "device": device,
            "devices": devices, "num_nodes": num_nodes, "compile": compile, "patience": patience,
        }  # fmt: skip
        request = held.enter_context(stop_requests())

        def open_run() -> Run:
            training.check_room(Path(out))
            if not resume:
                return held.enter_context(
                    Run.creating(out, settings | elsewhere, overwrite=overwrite)
                )
            held.enter_context(Run(out).lock())
            return Run(out)

        training.enter(on_rank_zero(fabric, open_run) or Run(out))
        if resume:
            training.restore()
        else:
            training.start()
        training.loop(request, begin)
    return training.run.path


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
    division: Division
    run: Run = field(init=False)
    bad: BadSamples = field(init=False)
    found: list[FoundBadSample] = field(
        default_factory=list
    )  # bad images that `bad` does not know yet
    trained: TrainedImages | None = None  # the run's list; None where it would have gaps
    drawn: list[Tensor] = field(default_factory=list)  # contents that the list lacks
    plan: dict[str, Any] = field(default_factory=dict)
    images_at: dict[str, str | None] = field(default_factory=dict)
    budget: Budget | None = None  # where steps follow from time
    compiled: str = "none"
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def build(
        cls,
        settings: dict[str, Any],
        fabric: Fabric,
        images: ImageSet,
        began: float,
        division: Division = "stable",
    ) -> "Trainer":
        """Everything at step 0, equal in all processes; nothing is on disk yet.

        Raises:
            UsageError: settings that cannot be carried out.
        """
        policy = build(POLICIES, settings["views"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings["seed"])
            network = build_network(
                settings["backbone"], settings["projector"], settings["whitened"]
            )
            objective = build_objective(settings["objective"], dim=network.projector.dim)
        _check_objective(objective, settings, images)
        if network.whitened is not None and images.side <= network.whitened.patch:
            raise UsageError(
                f"images have {images.side} pixels a side, and whitened patches need "
                f"{network.whitened.patch + 1}; choose a larger --image-side, or --whitened 0"
            )
        side = policy.view_side(images.side)
        flops = flops_per_view(
            network, objective, settings["patches"], side, settings["batch"], settings["optimizer"]
        )
        if fabric.world_size > 1:
            convert_to_global_batchnorm(network)
        share = Share.of(
            settings.get("shard", "images"), objective, name=settings["objective"]["name"],
            patches=settings["patches"], rank=fabric.global_rank, world=fabric.world_size,
        )  # fmt: skip
        sampler = Sampler(
            resident(images, fabric.device), batch=settings["batch"], seed=settings["seed"],
            rank=share.rank, world=share.world,
        )  # fmt: skip
        dtype = torch.float64 if settings["precision"] == "64-true" else torch.float32
        network.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective.to(fabric.device, dtype)
        module = fabric.setup(network)
        target = EMANetwork(network) if objective.target == "momentum" else None
        optimizers = build_optimizers(nn.ModuleList([network, objective]), settings["optimizer"])
        memory = cls._memory(settings, fabric, network, policy, images.side)
        return cls(
            fabric, network, module, optimizers, objective, target, policy, share, sampler, images,
            settings, flops, began, policy, memory, division,
        )  # fmt: skip

    @staticmethod
    def _memory(
        settings: dict[str, Any], fabric: Fabric, network: Network, policy: Policy, side: int
    ) -> MemoryPlan:
        """How much of a step is held at once, by what is free before the first."""
        view = policy.view_side(side)
        weight = next(network.parameters())
        return plan_memory(
            settings.get("memory", "auto"), network,
            torch.zeros(2, 3, view, view, dtype=weight.dtype, device=weight.device),
            patches=settings["patches"] * settings["batch"] // fabric.world_size,
            free=free_of_each(fabric), autocast=fabric.autocast,
        )  # fmt: skip

    def compile(self, mode: str) -> None:
        """Have views and network compiled, by trying them once; where that fails, go on without.

        Nothing of the trial stays: neither gradients nor BatchNorm's statistics.

        Args:
            mode: of `torch.compile`, or none.
        """
        if mode == "none":
            return
        if self.memory.mode != "whole":
            self._say(f"not compiled, which takes memory 'whole' and not '{self.memory.mode}'")
            return
        plain, kept = self.module, {k: v.clone() for k, v in self.network.state_dict().items()}
        weak = self.objective.weak_views
        count, before = len(self.share.views) - weak, self.share.views.start + weak
        batch = self.settings["batch"] // self.share.world
        side, device = self.images.side, self.fabric.device
        images = torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device)
        u = torch.full((count, batch, self.policy.draws), 0.5, device=device)
        try:
            self.augment, network = compiled(self.policy, self.network, mode)
            self.module = self.fabric.setup(network)
            self.module.train()
            for _ in range(3):  # a CUDA graph is recorded at the second and third
                begin_step(mode)
                views = self.augment(images, u, before).to(next(self.network.parameters()).dtype)
                flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                self.fabric.backward(self.module(flat).square().mean())
                self.network.zero_grad(set_to_none=True)
            synchronize(self.fabric)
            self.compiled = mode
        except Exception as error:  # compilers fail in many ways, and few of them need end a run
            if is_out_of_memory(error):
                raise self._too_large("trying the compiled step", error, begun=False) from error
            self._say(failure(error))
            self.module, self.augment = plain, self.policy
        self.network.zero_grad(set_to_none=True)
        self.network.load_state_dict(kept)

    def check_room(self, out: Path) -> None:
        """Warn where the disk may be too small for the run.

        Raises:
            CheckpointError: it is.
        """
        size = checkpoint_bytes(self._modules.values(), self.settings["optimizer"])
        network = sum(t.nbytes for t in self.network.state_dict().values())
        kept = network * len(self.settings.get("keep_epochs", ()))
        if warning := check_disk(out, size, kept=kept, held=Run.held_bytes(out)):
            self._say(warning)

    def enter(self, run: Run) -> None:
        """Write to this run directory from now on.

        Raises:
            DataError: too many images could not be read.
        """
        self.run = run
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
            if not isinstance(self.images, MemoryImages):
                self.drawn = [contents(images.pixels[images.valid])]
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
            "near_constant": self._near_constant(),
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
        self._begin_list(anew=True)
        if self.fabric.is_global_zero:
            self.run.plan = self.plan
            self.run.environment = environment(self.fabric, self.settings["precision"]) | {
                "compiled": self.compiled,
                "memory": self.memory.mode,
                "startup_seconds": time.monotonic() - self.began,
                "launch": torchrun_launch(),
            }
        views = self.settings["patches"] * self.settings["batch"]
        self._say(
            f"{len(self.sampler.usable):,} of {len(self.images):,} images can be used "
            f"({self.images.split} split), {self.bad.count} are bad; {steps:,} steps of {views:,} "
            f"patches, {steps / per_epoch:.2f} epochs, "
            f"{steps * views * self.flops_per_view / 1e15:.3g} PFLOP"
        )
        if self.budget is not None and steps < per_epoch:
            self._say(
                f"the budget of {self.settings['budget']} is less than a pass over the images: "
                f"{100 * steps / per_epoch:.2g} % of them will be seen, and all would take "
                f"{format_duration(per_epoch * each)}"
            )

    def _begin_list(self, *, anew: bool) -> None:
        """Have the run say which images it learns from; of a set in memory all, and at once.

        Args:
            anew: forget what it said.
        """
        memory = self.images if isinstance(self.images, MemoryImages) else None
        if not anew:
            try:
                self.trained = self.run.trained_images
            except CheckpointError as error:
                self._say(f"{error}; {'it is made anew' if memory else 'none is kept'}")
        elif not memory:
            self.trained = TrainedImages(torch.empty(0, 2, dtype=torch.int64), whole=False)
        # Of a larger set whose list is lost, what is drawn from now on would not be all.
        if memory and self.trained is None and self.fabric.is_global_zero:
            self.trained = TrainedImages.of(memory)
        if anew or memory:
            self._write_list()

    def _write_list(self) -> None:
        def write() -> None:
            if self.trained is not None:
                self.run.trained_images = self.trained

        on_rank_zero(self.fabric, write)

    def _lengthen_list(self) -> None:
        """Write down what was drawn since the last time, in any process."""
        if isinstance(self.images, MemoryImages):
            return
        every, self.drawn = all_gather_object(self.drawn), []
        if self.trained is not None and any(every):
            self.trained.add(torch.cat([*chain(*every)]))
            self._write_list()

    def _near_constant(self) -> dict[str, int]:
        """Of some images, evenly spread, how many have next to nothing to see; tells if many do."""
        usable = self.sampler.usable
        spread = usable[:: max(1, len(usable) // LOOKED_AT)][:LOOKED_AT]
        got = self.images.read(spread.tolist())
        found = {"found": int(near_constant(got.pixels[got.valid]).sum()), "of": len(spread)}
        if found["found"] > NEAR_CONSTANT_SHARE * found["of"]:
            self._say(
                f"{found['found']} of {found['of']} images looked at are nearly of one color; "
                "see whether they are what they should be: nothing can be learned from them"
            )
        return found

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
            self._say(f"{self.run.path} stopped before its first checkpoint; starting again")
            if self.fabric.is_global_zero:
                self.run.trim_metrics(0)
                self.run.trim_epochs(0)  # with a budget, the steps may be others now
            self.start()
            return
        self._begin_list(anew=False)
        saved, folder, problems = self.run.load_checkpoint()
        for problem in problems:
            self._say(f"{problem}; using {folder.name}, the one before")
        check_same({"the checkpoint to continue from": folder.name})
        for group, module in self._modules.items():
            checkpoint.load_strictly(module, saved.tensors.get(group, {}), folder)
        try:
            for index, optimizer in enumerate(self.optimizers):
                optimizer.load_state_dict(
                    _unflatten(saved.state["optimizers"][index], saved.tensors["optimizer"], index)
                )
                _as_weights(optimizer)
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
        on_rank_zero(self.fabric, self._warn_of_changed_images)
        if self.fabric.is_global_zero:
            self.run.trim_metrics(self.step)
            self.run.trim_epochs(self.step)
            self.run.environment = self.run.environment | {"memory": self.memory.mode}
            self.plan |= self.images_at
            if self.plan != self.run.plan:
                self.run.plan = self.plan

    def _warn_of_changed_images(self) -> None:
        """Say how many images show something else than when the run learned from them.

        The fingerprint of a folder knows names and sizes of files, and not what is in them. Of a
        set that is not in memory some images are looked at, evenly spread over those drawn so far.
        """
        if self.trained is None:
            return
        memory = isinstance(self.images, MemoryImages)
        sampler = self.sampler
        known = sampler.usable if self.trained.whole else sampler.drawn_before(self.step)
        if not memory:
            bad = {
                row["name"] for row in self.run.bad_samples()
            }  # others were drawn in their place
            known = known[:: max(1, len(known) // LOOKED_AT)][:LOOKED_AT]
            known = known[[self.images.sample_name(i) not in bad for i in known.tolist()]]
        other = torch.zeros(len(known), dtype=torch.bool)
        for rows in torch.arange(len(known)).split(COMPARED_AT_ONCE):
            got = self.images.read(known[rows].tolist())
            other[rows] = got.valid.cpu() & ~self.trained.holds(got.pixels)
        if not other.any():
            return
        if memory:  # others are listed when they are drawn
            for samples in known[other].split(COMPARED_AT_ONCE):
                self.trained.add(contents(self.images.read(samples.tolist()).pixels))
            self.run.trained_images = self.trained
        changed, example = int(other.sum()), self.images.sample_name(int(known[other][0]))
        self._say(
            f"{changed:,} of {len(known):,} images{'' if memory else ' looked at'} show something "
            f"else than when {self.run.path} learned from them, such as {example!r}: their files "
            "were replaced by others of the same name and size, or are decoded otherwise here; the "
            "run goes on with the images as they are now"
        )

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

    def loop(self, request: StopRequest, begin: Callable[[int], None] = lambda step: None) -> None:
        """Train to the end of the plan, with a line of metrics for each step.

        Args:
            request: which signal has come.
            begin: told of each step before it is taken.
        """
        steps, budget = self.plan["steps"], self.budget
        planned = budget.planned[0][1] if budget else steps
        schedule: Schedule = build(SCHEDULES, self.settings["schedule"], steps=planned)
        watch, load, before = CollapseWatch(), LoadWatch(torch.get_num_threads()), self.seconds
        # Other processes of this run are no strangers, and a GPU does not share these cores.
        alone = self.fabric.world_size == 1
        shared = alone and self.fabric.device.type == "cpu"
        pending, keep = MetricsBuffer(self.fabric.device), self._kept_at()
        spectra = spectrum_steps(steps)
        first = self.fabric.is_global_zero
        at_first = at = saved = time.monotonic()
        self.module.train()
        with progress("training", steps, done=self.step, silent=not first) as advance:
            while self.step < steps:
                begin(self.step)
                position = budget.position(self.step) if budget else float(self.step)
                lr = set_lr(self.optimizers, schedule(position))
                result, samples = self._take_step(
                    self.step, position / planned, with_spectrum=self.step in spectra
                )
                pending.add(self._entry(result, lr), samples)
                self.step += 1
                kept = keep.get(self.step)
                # Several GPUs agree when numbers are read: either is to wait for what was queued.
                if not (alone or pending.due or kept or self.step == steps):
                    continue
                late = time.monotonic() - saved > CHECKPOINT_SECONDS
                signal, due, bad = all_reduce_max(
                    self.fabric, request.signal, late, bool(self.found)
                )
                if bad:
                    self._write_bad()
                if not (pending.due or signal or due or kept or self.step == steps):
                    continue
                measured = pending.read()
                now = time.monotonic()
                self.seconds, each = before + now - at_first, (now - at) / len(measured)
                at = now
                for entry in self._checked(measured):
                    entry["patches_per_second"] = self._views_per_step / each
                    entry["seconds"] = self.seconds
                    if first:
                        self.run.add_metrics(entry)
                    if warning := watch.update(entry["step"], entry):
                        self._say(warning)
                if shared and (warning := load.update()):
                    self._say(warning)
                if budget is not None:
                    self._replan()
                    steps = budget.steps
                    spectra, keep = spectrum_steps(steps), self._kept_at()
                advance(self.step, f"loss {entry['loss']:.1f}, {entry['patches_per_second']:.0f} "
                                   "patches/s", steps)  # fmt: skip
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

    def _take_step(
        self, step: int, progress: float, *, with_spectrum: bool = False
    ) -> tuple[StepResult, Tensor]:
        """A step's measurements, perhaps still to be computed, and the samples it saw."""
        begin_step(self.compiled)
        drawn = self.sampler.draw(step)
        self.found += [(sample, drawn.epoch, step) for sample in drawn.bad]
        if len(drawn.contents):
            self.drawn.append(drawn.contents)
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
            raise self._diverged(step, str(error), drawn.samples, error.rows) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large(f"step {step}", error) from error
        if self.target is not None:
            self.target.update(self.network, self.objective.momentum_at(progress))
        return result, drawn.samples

    def _views(self, pixels: Tensor, u: Tensor) -> Tensor:
        """Views of a step, on the device that computes; weak ones first."""
        pixels, u = send(pixels, self.fabric.device), send(u, self.fabric.device)
        weak, first = self.objective.weak_views, self.share.views.start
        views = self.augment(pixels, u[weak:], first + weak)
        return torch.cat([self.policy.weak()(pixels, u[:weak], first), views]) if weak else views

    def _diverged(
        self, step: int, what: str, samples: Tensor, rows: Sequence[int] = ()
    ) -> DivergenceError:
        names = [
            self.images.sample_name(int(i)) for i in (samples[list(rows)] if rows else samples)
        ]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return DivergenceError(
            f"step {step}: {what}. It changed no weight that is kept, and checkpoints that were "
            f"written are good. {'It began in' if rows else 'Its images were'} "
            f"{', '.join(names[:5])}{more}. "
            "Lower the learning rate, or try --precision 32-true"
        )

    def _too_large(
        self, when: str, error: BaseException, *, begun: bool = True
    ) -> OutOfMemoryError:
        """What to do where memory was refused; before the run has begun there is none to resume."""
        patches, batch = self.settings["patches"], self.settings["batch"]
        mode = lower_memory_mode(self.memory.mode, self.network)
        if mode is not None:
            again = "continue with --resume" if begun else "start again with"
            advice = f"{again} --memory {mode}: the same gradients in more time"
        else:
            name, value = ("patches", patches) if patches > batch else ("batch", batch)
            advice = "nothing smaller has the same gradients; start anew with "
            advice += f"--{name} {max(2, value // 2)}"
        first = (str(error).strip().splitlines() or ["no memory"])[0]
        return OutOfMemoryError(
            f"{when}: out of memory ({first}) with {patches} patches of each of {batch} "
            f"images over {self.fabric.world_size} processes, memory '{self.memory.mode}'; {advice}"
        )

    def _checked(self, measured: list[MeasuredStep]) -> Iterator[dict[str, Any]]:
        """The lines of metrics up to a step that was not finite.

        Raises:
            DivergenceError: at that step. Nothing of it or of those after it is written.
        """
        for step in measured:
            if not step.entry.pop("finite", True):
                what = f"the loss is {step.entry['loss']:g} and the gradient's length is "
                what += f"{step.entry['gradient_norm']:g}"
                raise self._diverged(step.entry["step"], what, step.samples)
            yield step.entry

    @property
    def _views_per_step(self) -> int:
        return int(self.settings["patches"] * self.settings["batch"])

    def _entry(self, result: StepResult, lr: float) -> dict[str, Any]:
        """One line of metrics.jsonl, but for the clock; numbers may still be on the device."""
        patches = (self.step + 1) * self._views_per_step
        entry: dict[str, Any] = {
            "step": self.step,
            "epoch": (self.step + 1) / self.plan["steps_per_epoch"],
            "loss": result.loss.total,
        }
        entry |= result.loss.terms | result.gauge
        entry |= {"gradient_norm": result.gradient_norm, "lr": lr}
        if result.spectrum is not None:
            entry["spectrum"] = [float(f"{value:.4g}") for value in result.spectrum.tolist()]
        clipped = getattr(self.optimizers[0], "clip_fraction", None)
        if clipped is not None:
            entry["clip_fraction"] = clipped
        entry["finite"] = result.finite
        return entry | {"patches": patches, "pflop": patches * self.flops_per_view / 1e15}

    def _steps_within(self, seconds: float) -> tuple[int, float]:
        """How many steps fit into what is left of a budget, and the seconds that one takes.

        From steps that are then undone.
        """
        before = copy.deepcopy({g: module.state_dict() for g, module in self._modules.items()})
        set_lr(self.optimizers, 0.0)
        self.module.train()
        times: list[float] = []
        until = time.monotonic() + min(10.0, 0.04 * seconds)
        while all_reduce_max(self.fabric, len(times) < 6 or time.monotonic() < until)[0]:
            at = time.monotonic()
            self._take_step(len(times) % self.sampler.steps_per_epoch, 0.0)
            synchronize(self.fabric)
            times.append(time.monotonic() - at)
        for group, module in self._modules.items():
            module.load_state_dict(before[group])
        trained = nn.ModuleList([self.network, self.objective])
        self.optimizers = build_optimizers(trained, self.settings["optimizer"])
        typical = statistics.median(times[3:])
        left = seconds - (time.monotonic() - self.began)
        return max(1, math.floor(left / typical)), typical

    @property
    def _modules(self) -> dict[str, nn.Module]:
        """What training changes, by its file in a checkpoint."""
        found = {"model": self.network, "objective": self.objective, "target": self.target}
        return {group: module for group, module in found.items() if module is not None}

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of a checkpoint but the optimizers'; a group without any is left out."""
        states = {group: dict(module.state_dict()) for group, module in self._modules.items()}
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
        self._lengthen_list()

        def save() -> None:
            flat = [_flatten(o.state_dict(), i) for i, o in enumerate(self.optimizers)]
            tensors = {key: t for _, group in flat for key, t in group.items()}
            state = self._identity() | {"optimizers": [state for state, _ in flat]}
            self.run.save_checkpoint(
                self.step, Checkpoint(self._weights() | {"optimizer": tensors}, state)
            )

        on_rank_zero(self.fabric, save)

    def _say(self, text: str) -> None:
        if self.fabric.is_global_zero:
            say(text)


def _check(settings: dict[str, Any]) -> None:
    """Refuse numbers with which nothing could be learned."""
    if settings["patches"] < 2:
        raise UsageError(
            f"patches is {settings['patches']}, expected 2 or more: with one patch an image there "
            "is nothing for it to agree with"
        )
    if settings["patches"] > MOST_PATCHES:
        raise UsageError(f"patches is {settings['patches']}, expected at most {MOST_PATCHES:,}")
    if settings["batch"] < 2:
        raise UsageError(
            f"batch is {settings['batch']}, expected 2 or more: one image has no other to be "
            "told from"
        )
    if settings["batch"] > MOST_BATCH:
        raise UsageError(f"batch is {settings['batch']}, expected at most {MOST_BATCH:,}")
    if settings["budget"] is None and not 0 < settings["epochs"] <= MOST_EPOCHS:
        raise UsageError(
            f"epochs is {settings['epochs']}, expected a positive number of at most "
            f"{MOST_EPOCHS:,.0f}"
        )
    if settings["budget"] is not None:
        parse_duration(settings["budget"])
    if not -(2**63) <= settings["seed"] < 2**63:
        raise UsageError(f"seed is {settings['seed']}, expected a number of 64 bits")
    side = settings["image_side"]
    if side is not None and not 1 <= side <= MOST_SIDE:
        what = "1 pixel or more" if side < 1 else f"at most {MOST_SIDE:,} pixels"
        raise UsageError(f"image_side is {side}, expected {what}")
    if not all(0 < epoch < math.inf for epoch in settings.get("keep_epochs", ())):
        kept = ", ".join(map(str, settings["keep_epochs"]))
        raise UsageError(f"keep_epochs are {kept}; each must be a positive number")


def _rehearse(settings: dict[str, Any]) -> None:
    """Make all that settings describe, without memory.

    What is wrong with them should not wait for the images, which may take an hour to read.

    Raises:
        UsageError: a name or an option with which nothing can be made.
    """
    build(SCHEDULES, settings["schedule"], steps=1)
    build(POLICIES, settings["views"])
    with torch.device("meta"):
        network = build_network(settings["backbone"], settings["projector"], settings["whitened"])
        objective = build_objective(settings["objective"], dim=network.projector.dim)
    build_optimizers(nn.ModuleList([network, objective]), settings["optimizer"])


def _check_objective(objective: Objective, settings: dict[str, Any], images: ImageSet) -> None:
    """Refuse an objective to which patches or data have too little to give."""
    name, weak = settings["objective"]["name"], objective.weak_views
    if settings["patches"] <= weak:
        raise UsageError(
            f"patches is {settings['patches']}, of which {name} takes {weak} for its target "
            f"alone; expected {weak + 1} or more"
        )
    if objective.needs_labels and images.labels is None:
        raise UsageError(
            f"{name} learns from labels, and {settings['data']} has none; give images in one "
            "folder a class, or choose an objective that needs no labels"
        )


def _together(values: RangeWords) -> tuple[float | int | str, ...]:
    """A name is one value, and not its letters."""
    return (values,) if isinstance(values, str) else tuple(values)


def _begun_before(out: Path) -> bool:
    """Whether torchrun has started this command again, after it had begun the run at `out`."""
    launch = torchrun_launch()
    if launch is None or not (restarted() and Run.exists(out)):
        return False
    same: bool = launch == Run(out).environment.get("launch", "")
    return same


def _resumed_settings(
    run: Run, data: str, recipe: str | None, given: dict[str, Any]
) -> dict[str, Any]:
    """The settings that the run began with.

    Raises:
        UsageError: some are given anew, with other values; or another data set.
        CheckpointError: some were not written down.
    """
    config = run.config
    try:
        check_same_kind(run, data)
        made = completed(config)
        asked = resolve(recipe or config["recipe"], {**_as_given(made), **_without_none(given)})
        asked |= {"data": config["data"]}  # where images are is no setting, which they are is
        changed = [
            key for key, value in asked.items() if _plain(made.get(key)) != _plain(value)
        ]  # fmt: skip
        if "memory" in changed and {config["memory"], asked["memory"]} <= SAME_GRADIENTS:
            changed.remove("memory")
            config["memory"] = asked["memory"]
    except KeyError as error:
        raise CheckpointError(f"the configuration of {run.path} does not say {error}") from error
    if changed:
        raise UsageError(
            f"a resumed run keeps its settings, but {', '.join(changed)} would change; leave "
            "these options out, or start a new run with another --out"
        )
    return config


def _as_given(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in resolve(config["recipe"], {}) if key != "recipe"}


def _without_none(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _plain(value: Any) -> Any:
    """As YAML gives it back."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _flatten(state: dict[str, Any], index: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer's state as JSON and named tensors."""
    tensors, rest = {}, {}
    for key, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}.{name}"] = value
            else:
                rest[f"{key}.{name}"] = value
    return {"param_groups": state["param_groups"], "scalars": rest}, tensors


def _unflatten(state: dict[str, Any], tensors: dict[str, Tensor], index: int) -> dict[str, Any]:
    """The reverse of `_flatten`."""
    full: dict[int, dict[str, Any]] = {}
    named = {tuple(k.split(".", 1)): v for k, v in state["scalars"].items()}
    for key, value in tensors.items():
        owner, parameter, name = key.split(".", 2)
        if int(owner) == index:
            named[parameter, name] = value
    for (parameter, name), value in named.items():
        full.setdefault(int(parameter), {})[name] = value
    return {"state": full, "param_groups": state["param_groups"]}


def _as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Lay state out in memory as its weights are: a mix slows the step of an optimizer by a third.

    Files do not know of channels last.
    """
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
