"""The verb `train`: images to a run directory."""

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from empssl.commands import command, objects_of
from empssl.config import Spec, names_in_docstring
from empssl.data import DATASETS, Decoding, ImagesLike, in_memory, open_images
from empssl.data.base import ImageSet
from empssl.data.checks import class_counts
from empssl.data.objects import GivenImages
from empssl.data.open import resolve_data
from empssl.data.run_images import check_fingerprint, data_location, known_data_dir
from empssl.data.value_range import MAX_PIXELS, RangeWords
from empssl.device import Compile, Fabric, Precision, resolve_compile
from empssl.distributed.collectives import check_same, on_rank_zero
from empssl.distributed.launch import launch
from empssl.distributed.processes import Call, reap_children
from empssl.distributed.signals import stop_requests
from empssl.distributed.watchdog import watchdog
from empssl.metrics.verdict import LEAST_SHARE, Verdict, percent, verdict
from empssl.progress import progress, say, status
from empssl.runs.run import Run
from empssl.training.budget import format_duration, parse_duration
from empssl.training.cpu_load import torch_threads
from empssl.training.memory import Memory
from empssl.training.recipes import spec_tables
from empssl.training.settings import plugins_of, resolve_settings, restarted_by_torchrun
from empssl.training.setup import build_trainer, check_room, compile_step
from empssl.training.sharding import Shard

_ADVICE = {
    "healthy": "images are told apart{measured}",
    "collapsed": "the projections {collapse}. Do not use its embeddings: lower the learning rate, "
    "or strengthen what keeps images apart",
    "barely trained": "too little to judge it by{measured}. Train for longer, such as --epochs "
    "{epochs}, which takes about {time}",
    "not measured": "no collapse metrics were recorded",
}


@names_in_docstring(datasets=DATASETS, **spec_tables())
@reap_children()
def train(
    data: ImagesLike,
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
    backbone: Spec | str | nn.Module | None = None,
    projector: Spec | str | None = None,
    whitened: int | Spec | str | None = None,
    objective: Spec | str | nn.Module | None = None,
    optimizer: Spec | str | Callable[..., Optimizer] | None = None,
    schedule: Spec | str | None = None,
    split: Literal["auto", "train", "test", "all"] = "auto",
    seed: int = 0,
    keep_epochs: Sequence[float] = (),
    data_dir: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    threads: int | None = None,
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
        data: a folder of images, a Parquet file, or a data set known by name:
            {datasets}.
            From Python also images as objects, which a run does not keep: an array, a list of paths
            or images, either of these with labels as a pair, an ImageSet, or a PyTorch or Hugging
            Face Dataset; see empssl.data.images_from. Labels, where there are any, are never used,
            but by an objective that needs them: supcon.
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
        views: one of {views}, and how views are augmented: patches are of fixed size, crops of
            random size and shape.
        backbone: one of {backbone}, and its options; or, from Python,
            a module from images to embeddings or maps, which is trained itself, from its weights.
        projector: one of {projector}, and its options.
        whitened: whitened patches that stand beside the network's layers in the joint embedding:
            plain or mirrored, and their options; or a number of features of plain ones, 0 for none.
            They are measured on the images, not learned.
        objective: what training minimises:
            {objective};
            supcon learns from labels; and its options; or, from Python, an Objective or a module
            from projections (view, batch, dim) to a loss, which is used itself.
        optimizer: one of {optimizer}, and its options; or, from Python, a
            function from parameters to an optimizer, whose rate is the peak that the schedule
            scales.
        schedule: one of {schedule}, and its options.
        split: train leaves out what `evaluate` tests on: the test images of a known data set or of
            a folder that has some, else a fifth of a folder with classes; all leaves out nothing.
            auto is train where the data have test images of their own, else all.
        seed: of the weights, the order and the views.
        keep_epochs: after how many passes the network is also kept as it is then, such as 1 2 5;
            `evaluate --epoch` scores it. The learning rate knows nothing of them.
        data_dir: where a data set known by name lies.
        download: fetch a data set known by name if it is not there.
        device: auto, cpu, cuda or mps.
        threads: of this process on the CPU, fixed: a run repeats bit for bit with the same number.
            By default OMP_NUM_THREADS where that is set; else one for each core, and fewer while
            other programs keep cores busy.
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
    data = resolve_data(data)
    call = Call("train", dict(locals()))
    began, limit = time.monotonic(), parse_duration(patience)
    if not resume and restarted_by_torchrun(Path(out)):
        resume, overwrite = True, False
    settings, decoding = resolve_settings(
        Path(out), data, recipe, resume=resume, overwrite=overwrite,
        explicit={
            "patches": patches, "batch": batch, "epochs": epochs, "budget": budget,
            "image_side": image_side, "views": views, "backbone": backbone,
            "projector": projector, "whitened": whitened, "objective": objective,
            "optimizer": optimizer, "schedule": schedule,
        },
        chosen={
            "split": split, "seed": seed, "keep_epochs": tuple(keep_epochs),
            "precision": precision, "memory": memory, "shard": shard,
            "range": (range,) if isinstance(range, str) else tuple(range),
            "max_pixels": max_pixels,
        },
        defaults={p.name: p.default for p in inspect.signature(train).parameters.values()},
    )  # fmt: skip
    runtime = {
        "data_dir": data_dir and str(data_dir), "download": download, "device": device,
        "threads": threads, "devices": devices, "num_nodes": num_nodes, "compile": compile,
        "patience": patience,
    }  # fmt: skip
    call = replace(call, modules=plugins_of(settings))
    fabric = launch(device=device, devices=devices, num_nodes=num_nodes,
                    precision=settings["precision"], call=call)  # fmt: skip
    with torch_threads(threads), watchdog(fabric, limit) as heartbeat, ExitStack() as held:
        check_same(settings | {"out": str(out), "resume": resume})
        resumed = Run(out) if resume else None
        if resumed and data_dir is None:
            data_dir = known_data_dir(resumed)
        images = load_images(
            data, settings, decoding, fabric, resumed, data_dir=data_dir, download=download
        )
        trainer = build_trainer(settings, fabric, images, began)
        trainer.plugins, trainer.fixed_threads = call.modules, threads is not None
        trainer.images_at = data_location(data, data_dir)
        trainer.division = resumed.division if resumed else "stable"
        compile_step(trainer, resolve_compile(compile, fabric))
        stop = held.enter_context(stop_requests())

        def open_run() -> Run:
            check_room(trainer, Path(out))
            if resumed is None:
                return held.enter_context(
                    Run.creating(out, settings | runtime, overwrite=overwrite)
                )
            held.enter_context(resumed.lock())
            return resumed

        trainer.enter(on_rank_zero(fabric, open_run) or Run(out))
        trainer.restore() if resumed else trainer.start()
        last = trainer.fit(stop, heartbeat)
        if fabric.is_global_zero:
            last = last or trainer.run.metrics()[-1]
            done = verdict(last, trainer.plan, settings["batch"])
            objects = objects_of(trainer.run.config)
            for line in closing_lines(done, trainer.run.path, objects):
                say(line)
    return trainer.run.path


def load_images(
    data: str | GivenImages,
    settings: dict[str, Any],
    decoding: Decoding,
    fabric: Fabric,
    resumed: Run | None,
    *,
    data_dir: str | Path | None,
    download: bool,
) -> ImageSet:
    """The images of a run, in memory where they fit; the first process says what they are.

    Args:
        data: as in `train`.
        settings: of the run; a split of `auto` becomes the one that was taken.
        decoding: how pixels are read.
        fabric: of the run.
        resumed: the run that is continued, whose images they must be.
        data_dir: where a data set known by name lies.
        download: fetch it if it is not there.

    Raises:
        DataError: there are none, or other ones than the run began with.
    """
    with status("listing the images"):
        images = open_images(
            data, split=settings["split"], data_dir=data_dir, side=settings["image_side"],
            decoding=decoding, download=download,
            division=resumed.division if resumed else "stable",
        )  # fmt: skip
    if settings["split"] == "auto":
        settings["split"] = images.split
    if resumed:
        check_fingerprint(resumed, data, images)
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
    return images


def closing_lines(
    verdict: Verdict, run: str | Path, objects: Mapping[str, Any] | None = None
) -> list[str]:
    """Three lines at the end of training.

    Args:
        verdict: on the run.
        run: its path.
        objects: what it was given as such; see `commands.objects_of`.

    >>> from empssl.metrics.verdict import verdict
    >>> plan = {"steps_per_epoch": 15, "usable_samples": 600}
    >>> last = {"step": 29, "embedding_std": 0.89, "participation_ratio": 18.9, "seconds": 50.0}
    >>> for line in closing_lines(verdict(last, plan, batch=40), "runs/my photos"):
    ...     print(line)
    healthy: images are told apart (embedding std 0.89, participation ratio 18.9)
    600 of 600 images seen (100 %), 2.0 times each, in 50s; a full pass takes 25s
    next: empssl report 'runs/my photos'
    """
    values = ", ".join(f"{name} {value:.3g}" for name, value in verdict.measured.items())
    # A pass where it was not even half; where few images made few steps, twice as many passes.
    epochs = 1 if verdict.passes < LEAST_SHARE else math.ceil(2 * verdict.passes)
    advice = _ADVICE[verdict.state].format(
        collapse=verdict.collapse,
        measured=f" ({values})" if values else "",
        epochs=epochs,
        time=format_duration(epochs * verdict.seconds_per_pass),
    )
    times = f", {verdict.passes:.1f} times each" if verdict.passes > 1 else ""
    needed = {name: (objects or {}).get(name) for name in ("data", "backbone")}
    return [
        f"{verdict.state}: {advice}",
        f"{verdict.seen:,} of {verdict.images:,} images seen ({percent(verdict.share)} %){times}, "
        f"in {format_duration(verdict.seconds)}; a full pass takes "
        f"{format_duration(verdict.seconds_per_pass)}",
        f"next: {command('report', {'run': run}, needed)}",
    ]
