"""What this machine has, what will be slow on it, and whether its processes agree."""

import copy
import json
import locale
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import Tensor, nn

from empssl._version import __version__
from empssl.device import (
    Fabric,
    cores,
    cpu_flags,
    cpu_name,
    free_bytes,
    resolve_device,
    resolve_precision,
)
from empssl.distributed.collectives import gather
from empssl.distributed.launch import launch
from empssl.distributed.processes import Call, reap_children
from empssl.errors import CheckpointError, UsageError
from empssl.models import Network, build_network
from empssl.models.batchnorm import convert_to_global_batchnorm
from empssl.objectives import build_objective
from empssl.progress import paragraph, preformatted
from empssl.runs.files import free_disk, nearest_existing, writing
from empssl.training.cpu_load import OTHERS, CpuReading, advice, reading, taken_by_others
from empssl.training.preflight import AMPLE_CHECKPOINTS, checkpoint_bytes, mebibytes
from empssl.training.recipes import DEFAULT, load
from empssl.training.step import objective_loss

Verdict = Literal["ok", "slow", "problem"]

LIBRARIES = ("torch", "lightning-fabric", "numpy", "pillow", "pyarrow", "safetensors",
             "scikit-learn", "timm")  # fmt: skip
# As in pyproject.toml. Older ones have holes, too: torch 2.10 closed CVE-2026-24747.
LEAST = {"torch": (2, 11)}
LEAST_MEMORY = 2 * 2**30
LEAST_FILES = 256
LEAST_SHARED = 64 * 2**20  # of two processes under NCCL; images never travel through it
LARGEST_DIFFERENCE = 1e-10  # of float64 sums in another order; 1e-15 is usual
PATCHES, SIDE, IMAGES_EACH = 3, 32, 4  # of the batch that processes are compared on


@dataclass(frozen=True)
class Check:
    """One line.

    Attributes:
        what: was looked at.
        verdict: ok; slow: it works, but not as fast as it could; problem: it does not work.
        found: what was found.
        advice: what to do; empty where all is well.
    """

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, repr=False)
class Checkup:
    """All that was found.

    Attributes:
        findings: in the order of the table.
    """

    findings: tuple[Check, ...]

    def __getitem__(self, what: str) -> Check:
        return {finding.what: finding for finding in self.findings}[what]

    @property
    def exit_code(self) -> int:
        """2 where something does not work, else 0."""
        return 2 if any(f.verdict == "problem" for f in self.findings) else 0

    def to_json(self) -> str:
        """One object; the exit code, and a list of findings."""
        findings = [asdict(finding) for finding in self.findings]
        return json.dumps({"exit_code": self.exit_code, "findings": findings}, indent=1)

    def of(self, verdict: Verdict) -> list[Check]:
        """The findings with a verdict, in the order of the table."""
        return [finding for finding in self.findings if finding.verdict == verdict]

    @property
    def verdict(self) -> str:
        """All of it in a sentence."""
        wrong, slow = (
            ", ".join(finding.what for finding in self.of(kind)) for kind in ("problem", "slow")
        )
        if wrong:
            return f"Not ready: something does not work here ({wrong})."
        if slow:
            return f"Ready, but slower than it could be ({slow})."
        return "Ready: all is well here."

    def table(self) -> str:
        """The verdict, what does not work or is slow with what to do, and what is well below."""
        lines = [self.verdict, ""]
        for f in (*self.of("problem"), *self.of("slow")):
            lines.append(paragraph(f"{f.what}: {f.found}", f"{f.verdict:8} "))
            if f.advice:
                lines.append(paragraph(f.advice, f"{'':8} -> "))
        if len(lines) > 2:
            lines.append("")
        well = {f.what: f for f in self.of("ok")}
        versions = [f"{name} {well.pop(name).found}" for name in LIBRARIES if name in well]
        for f in well.values():
            lines.append(paragraph(f"{f.what}: {f.found}", f"{'ok':8} "))
            if f.advice:
                lines.append(paragraph(f.advice, f"{'':8} -> "))
        if versions:
            lines.append(paragraph(", ".join(versions), f"{'ok':8} "))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Checkup: {self.verdict}>"

    def _repr_html_(self) -> str:
        return preformatted(self.table())


@reap_children()
def doctor(*, out: str | Path = ".", device: str = "auto", distributed: int = 0) -> Checkup:
    """Say what this machine has, and what will be slow on it.

    Args:
        out: where runs would be written.
        device: auto, cpu, cuda or mps.
        distributed: compare loss and gradients of one batch in this many processes with those in
            one, before a long run; 0 does not. On the CPU, if not on a device that is given.

    Raises:
        UsageError: the device is not to be had here.
    """
    if distributed < 0 or distributed == 1:
        raise UsageError(f"distributed is {distributed}, expected 2 or more processes, or 0")
    chosen, first = resolve_device(device), reading()
    findings = [
        *_versions(), _threads(), _memory(chosen), _processor(), _gpu(chosen), _shared_memory(),
        _disk(Path(out)), _files(), _text(), _others(first, reading()),
    ]  # fmt: skip
    if distributed:
        call = Call("doctor", {"out": out, "device": device, "distributed": distributed})
        own = "cpu" if device == "auto" else chosen
        findings += [_restarts(), _agreement(distributed, own, call)]
    return Checkup(tuple(findings))


def _versions() -> Iterator[Check]:
    yield Check("empssl", "ok", f"{__version__}, Python {platform.python_version()}, "
                                  f"{platform.platform()}")  # fmt: skip
    for name in LIBRARIES:
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Check(name, "ok", "not installed")
            continue
        least = LEAST.get(name)
        if least and tuple(int(n) for n in found.split(".")[:2]) < least:
            wanted = ".".join(map(str, least))
            yield Check(name, "problem", found, f"update with: pip install -U '{name}>={wanted}'")
        else:
            yield Check(name, "ok", found)


def _threads() -> Check:
    threads, allowed = torch.get_num_threads(), cores()
    found = f"{threads} of torch, {allowed} cores for this process, {psutil.cpu_count()} in all"
    if threads > allowed:
        return Check("threads", "slow", found, f"set OMP_NUM_THREADS={allowed}: more threads "
                       "than cores wait for each other")  # fmt: skip
    if 2 * threads < allowed:
        return Check("threads", "slow", found, f"on the CPU, set OMP_NUM_THREADS={allowed}, or "
                       "fewer if other programs need some")  # fmt: skip
    return Check("threads", "ok", found)


def _others(first: CpuReading | None, now: CpuReading | None) -> Check:
    """Whether others took the cores while all else was looked at."""
    if first is None or now is None or now.wall <= first.wall:
        return Check("other programs", "ok", "this system does not tell what they take")
    others = taken_by_others(first, now)
    found = f"take {others:.1f} of the {now.cores} cores that this one would use"
    if others < OTHERS:
        return Check("other programs", "ok", "leave it the cores that it needs")
    return Check("other programs", "slow", found,
                   advice(others, now.cores, torch.get_num_threads()))  # fmt: skip


def _memory(device: str) -> Check:
    free = free_bytes(torch.device(device))
    if free is None:
        return Check("memory", "ok", "this system does not tell how much is free")
    if free < LEAST_MEMORY:
        return Check(
            "memory", "slow", f"{mebibytes(free)} free",
            f"below {mebibytes(LEAST_MEMORY)}; end other programs, or train with --memory exact",
        )  # fmt: skip
    return Check("memory", "ok", f"{mebibytes(free)} free")


def _processor() -> Check:
    flags = set(cpu_flags().split())
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    found = f"{cpu_name()}; {' '.join(known) or 'no known vector instructions'}; precision 'auto' "
    found += f"is {resolve_precision('auto', 'cpu')}"
    if flags and not flags & {"avx512_bf16", "amx_bf16"}:
        return Check("processor", "slow", found, "it does not multiply bfloat16: on the CPU, "
                       "train small networks, or for one epoch")  # fmt: skip
    return Check("processor", "ok", found)


def _gpu(device: str) -> Check:
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, CUDA "
        found += f"{torch.version.cuda}, {mebibytes(free)} of {mebibytes(total)} free"
        if resolve_precision("auto", "cuda") != "bf16-mixed":
            return Check("gpu", "slow", found, "it does not multiply bfloat16")
        return Check("gpu", "ok", found)
    if device == "mps":
        return Check("gpu", "ok", "Apple")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        return Check("gpu", "slow", "there may be one, but this torch is built for the CPU",
                       "install torch with CUDA, from pytorch.org")  # fmt: skip
    return Check("gpu", "slow", "none that torch finds",
                   "ResNet-18 is slow on a CPU; --recipe laptop suits it")  # fmt: skip


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "ok", "none here, and none is needed")
    free = free_disk(place)
    if free < LEAST_SHARED and torch.cuda.device_count() > 1:
        return Check(
            "shared memory", "problem",
            f"{mebibytes(free)} free, below the {mebibytes(LEAST_SHARED)} of processes on GPUs",
            "give the container more, such as docker run --shm-size=1g",
        )  # fmt: skip
    return Check("shared memory", "ok",
                   f"{mebibytes(free)} free; images are read by threads and need none")  # fmt: skip


def _disk(out: Path) -> Check:
    try:
        free = free_disk(out)
        place = nearest_existing(out)
        with writing(out):
            if not os.access(place, os.W_OK):
                raise PermissionError(f"no permission to write to {place}")
    except CheckpointError as error:
        return Check("disk", "problem", str(error), "choose another --out")
    network, recipe = _network()
    size = checkpoint_bytes([network], recipe["optimizer"])
    found = f"{mebibytes(free)} free; a checkpoint of recipe {DEFAULT} takes {mebibytes(size)}"
    if free < AMPLE_CHECKPOINTS * size:
        return Check("disk", "problem", found,
                       f"below {AMPLE_CHECKPOINTS:g} checkpoints; make room")  # fmt: skip
    return Check("disk", "ok", found)


def _files() -> Check:
    if not hasattr(psutil.Process, "rlimit"):  # as on macOS and Windows
        return Check("open files", "ok", "this system does not tell how many")
    soft, hard = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)
    if soft < LEAST_FILES:
        return Check("open files", "slow", f"at most {soft}",
                       f"set ulimit -n {min(hard, 1024) if hard > 0 else 1024}")  # fmt: skip
    return Check("open files", "ok", f"at most {soft}")


def _text() -> Check:
    found = f"{locale.getpreferredencoding(False)}, standard error in {sys.stderr.encoding}"
    return Check("text", "ok", found)


def _restarts() -> Check:
    """Torch's own rendezvous keeps the keys of processes that died (pytorch issue 135712)."""
    if os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1":
        return Check("torchrun", "ok", "restarts find a store of their own")
    return Check(
        "torchrun",
        "ok",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE is not set",
        "set it to 1 before torchrun --max-restarts; restarts may fail without",
    )


def _network() -> tuple[Network, dict[str, Any]]:
    """That of the default recipe, and the recipe."""
    recipe = load(DEFAULT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(recipe["backbone"], recipe["projector"], recipe["whitened"]), recipe


def _agreement(processes: int, device: str, call: Call) -> Check:
    """Loss and gradients of one batch: in this process, and over all of them."""
    fabric = launch(device=device, devices=processes, precision="64-true", call=call)
    world, rank = fabric.world_size, fabric.global_rank
    single = _network()[0].to(fabric.device, torch.float64).train()
    joint = copy.deepcopy(single)
    convert_to_global_batchnorm(joint)
    generator = torch.Generator().manual_seed(0)
    shape = (PATCHES, IMAGES_EACH * world, 3, SIDE, SIDE)
    views = torch.randn(shape, generator=generator, dtype=torch.float64)
    views *= torch.linspace(0.5, 2, shape[1], dtype=torch.float64)[:, None, None, None]
    views = views.to(fabric.device)  # of unlike contrast, so that statistics of a share differ
    expected = _results(single, single, views, None)
    share = views[:, IMAGES_EACH * rank : IMAGES_EACH * (rank + 1)]
    found = _results(joint, fabric.setup(joint), share, fabric)
    # Of the largest gradient: that of a bias before a norm is rounding and nothing else.
    largest = torch.stack([x.abs().max() for x in list(expected.values())[1:]]).max()
    apart = torch.stack([
        (found[name] - x).abs().max() / (largest if x.dim() else x.abs())
        for name, x in expected.items()
    ])  # fmt: skip
    torch.distributed.all_reduce(apart, torch.distributed.ReduceOp.MAX)
    worst = int(apart.argmax())
    what = list(expected)[worst]
    text = (
        f"{world} processes on {device}: the largest difference of loss and gradients from one "
        f"process is {float(apart[worst]):.1e} of the largest, in {what}"
    )
    # Not <=: a difference that is no number is none that is small.
    if float(apart[worst]) <= LARGEST_DIFFERENCE:
        return Check("processes", "ok", text)
    return Check("processes", "problem", text,
                   f"more than {LARGEST_DIFFERENCE:g}; train in one process")  # fmt: skip


def _results(
    network: Network, module: nn.Module, views: Tensor, fabric: Fabric | None
) -> dict[str, Tensor]:
    """The loss and every gradient of a batch, of which each process has a share."""
    objective = build_objective(load(DEFAULT)["objective"], dim=network.projector.dim)
    projections = module(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    if fabric is None:
        loss = objective_loss(objective, projections).total
        loss.backward()
    else:
        loss = objective_loss(objective, gather(fabric, projections)).total
        fabric.backward(loss)
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return {"the loss": loss.detach(), **gradients}
