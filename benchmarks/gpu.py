"""Everything this package claims on a GPU, measured in one command of under ten minutes.

    python benchmarks/gpu.py [--data-dir data] [--out DIR] [--minutes 9] [--parts ...] [--smoke]

One JSON line for each measurement as it is made, so that a kill loses nothing, and a table at the
end. Each part has a time limit; what does not fit or fails is named and skipped. Without --data-dir
nothing is trained, and everything is measured on noise. `--smoke` is the same on any machine with
sizes that mean nothing. Times are medians after warm-up, in one process; on a GPU by its events.
"""

import argparse
import json
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import empssl
from empssl.config import build
from empssl.device import Fabric, environment, send
from empssl.distributed.launch import launch
from empssl.models import build_network
from empssl.objectives import build_objective
from empssl.objectives.emp import EMP
from empssl.optim import OPTIMIZERS, build_optimizers, set_lr
from empssl.rng import uniform
from empssl.runs.run import Run
from empssl.training.flops import step_flops, training_flops
from empssl.training.recipes import resolve
from empssl.training.step import objective_loss, training_step
from empssl.views import POLICIES, Patches

MODES = ("none", "default", "reduce-overhead", "max-autotune-no-cudagraphs")


@dataclass
class Bench:
    """Where to measure, how large, and what has been measured."""

    fabric: Fabric
    smoke: bool
    data_dir: str | None
    out: Path | None
    until: float
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def say(self, what: str, value: float | None, unit: str, **details: Any) -> None:
        shown = None if value is None else float(f"{value:.5g}")
        line = {"what": what, "value": shown, "unit": unit} | details
        self.lines.append(line)
        print(json.dumps(line, default=str), flush=True)
        if self.out is not None:
            with (self.out / "gpu.jsonl").open("a") as file:
                file.write(json.dumps(line, default=str) + "\n")

    def seconds(self, action: Callable[[], Any], *, most: float = 2.0) -> float:
        """Median seconds of an action, after three unmeasured ones."""
        cuda = self.device.type == "cuda"
        for _ in range(1 if self.smoke else 3):
            action()
        self.wait()
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < (2 if self.smoke else 5) or (
            time.perf_counter() - began < most and len(times) < 100 and not self.smoke
        ):
            if cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                action()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) / 1e3)
            else:
                at = time.perf_counter()
                action()
                times.append(time.perf_counter() - at)
        return statistics.median(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Free what the last part held, and start its peak of memory anew."""
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        if self.device.type != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)


class TimeUp(BaseException):
    """Not an Exception, so that nobody takes it for a failure to compile and goes on."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """TimeUp in what takes longer."""

    def stop(*_: Any) -> None:
        raise TimeUp(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sizes(bench: Bench) -> list[tuple[int, int, int]]:
    """Patches, batch and view side of each step that is measured."""
    if bench.smoke:
        return [(2, 4, 16)]
    return [(20, 100, 32), (20, 100, 16), (20, 500, 16), (20, 500, 32)]


def settings_for(bench: Bench, side: int, **changes: Any) -> dict[str, Any]:
    small = {"backbone": {"name": "resnet18", "width": 4}, "projector": {"hidden": 16, "dim": 8}}
    given = {"views": {"side": side}} | (small if bench.smoke else {}) | changes
    return resolve("official", given)


def noise(bench: Bench, batch: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    return images.to(bench.device)


def numbers(bench: Bench, policy: Patches, count: int, batch: int) -> Tensor:
    u = uniform(torch.arange(batch), seed=0, epoch=0, views=range(count), draws=policy.draws)
    return u.to(bench.device)


def compiled(module: Any, mode: str, **options: Any) -> Any:
    return module if mode == "none" else torch.compile(module, mode=mode, dynamic=False, **options)


def limits_of_the_machine(bench: Bench) -> None:
    """A large matrix product, and the network's main convolution alone."""
    side = 128 if bench.smoke else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = bench.seconds(lambda: a @ b)
    bench.say("matmul-bf16", 2 * side**3 / seconds / 1e12, "TFLOP/s", side=side)
    image, channels = (4, 8) if bench.smoke else (2000, 128)
    x = torch.randn(image, channels, 16, 16, device=bench.device, dtype=torch.bfloat16)
    w = torch.randn(channels, channels, 3, 3, device=bench.device, dtype=torch.bfloat16)
    x, w = (t.contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, w))

    def convolve() -> None:
        out = F.conv2d(x, w, padding=1)
        torch.autograd.grad(out, (x, w), out)

    flop = 3 * 2 * image * 16 * 16 * channels**2 * 9
    bench.say("conv-bf16", flop / bench.seconds(convolve) / 1e12, "TFLOP/s", channels=channels)


def step_in(mode: str) -> Callable[[Bench], None]:
    def part(bench: Bench) -> None:
        for count, batch, side in sizes(bench):
            if mode == MODES[3] and (batch, side) != (100, 32):
                continue  # tuning takes long; one size tells whether it is worth it
            bench.forget()
            _step(bench, count, batch, side, mode)

    part.__doc__ = f"Bare network and whole step, compile mode {mode}."
    return part


def _step(bench: Bench, count: int, batch: int, side: int, mode: str) -> None:
    settings = settings_for(bench, side)
    policy: Patches = build(POLICIES, settings["views"] | {"colors": "fast"})
    torch.manual_seed(0)
    network = build_network(settings["backbone"], settings["projector"])
    flop = training_flops(network, side) * count * batch
    network.to(memory_format=torch.channels_last)
    fabric = bench.fabric
    module = fabric.setup(compiled(network, mode)).train()
    augment = compiled(policy, mode, **({} if mode == "none" else {"fullgraph": True}))
    objective = build_objective(settings["objective"], dim=settings["projector"]["dim"])
    optimizer = settings["optimizer"]
    step = step_flops(network, objective, count, side, batch, optimizer).total
    objective.to(bench.device)
    optimizers = build_optimizers(network, optimizer)
    set_lr(optimizers, 0.1)
    images, u = noise(bench, batch), numbers(bench, policy, count, batch)
    views = policy(images, u)
    flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    label = {"patches": count, "batch": batch, "side": side, "compile": mode}

    def mark() -> None:
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()

    def bare() -> None:
        mark()
        fabric.backward(module(flat).float().square().mean())
        network.zero_grad(set_to_none=True)

    def whole() -> None:
        mark()
        training_step(fabric, module, objective, optimizers, augment(images, u))

    at = time.perf_counter()
    bare()
    bench.wait()
    if mode != "none":
        bench.say("compile-network", time.perf_counter() - at, "s", **label)
    seconds = bench.seconds(bare)
    bench.say(
        "bare", flop / seconds / 1e12, "TFLOP/s", ms=round(1e3 * seconds, 3),
        patches_per_second=round(count * batch / seconds), peak_gib=bench.peak_gib(), **label,
    )  # fmt: skip
    at = time.perf_counter()
    whole()
    bench.wait()
    if mode != "none":
        bench.say("compile-views", time.perf_counter() - at, "s", **label)
    all_seconds = bench.seconds(whole)
    bench.say(
        "whole-step", count * batch / all_seconds, "patches/s", ms=round(1e3 * all_seconds, 3),
        tflops=round(step / all_seconds / 1e12, 2), bare_over_whole=round(seconds / all_seconds, 3),
        peak_gib=bench.peak_gib(), **label,
    )  # fmt: skip


def views(bench: Bench) -> None:
    """Faithful and fast views, plain and compiled, and how far compiling moves them."""
    for count, batch, side in sizes(bench)[:1]:
        images = noise(bench, batch)
        for colors in ("faithful", "fast"):
            policy = Patches(side=side, colors=colors)
            u = numbers(bench, policy, count, batch)
            for mode in ("none",) if bench.smoke else ("none", "default"):
                bench.forget()
                at = time.perf_counter()
                augment = compiled(policy, mode)
                away = float((augment(images, u) - policy(images, u)).abs().max())
                first = time.perf_counter() - at

                def make(augment: Any = augment, images: Tensor = images, u: Tensor = u) -> None:
                    augment(images, u)

                bench.say(
                    "views", 1e6 * bench.seconds(make, most=1.0) / (count * batch), "us/patch",
                    colors=colors, compile=mode, away_from_plain=away, batch=batch, side=side,
                    first_call_seconds=round(first, 2), peak_gib=bench.peak_gib(),
                )  # fmt: skip


def objectives(bench: Bench) -> None:
    """Ours, b x b in closed form, against n d x d log-determinants one after the other."""
    count, batch, _ = sizes(bench)[0]
    dim = 16 if bench.smoke else 1024
    objective = EMP().to(bench.device)
    z = torch.randn(count, batch, dim, device=bench.device, requires_grad=True)

    def ours() -> None:
        torch.autograd.grad(objective_loss(objective, z).total, z)

    def theirs() -> None:
        unit = F.normalize(z, dim=-1)
        eye = torch.eye(dim, device=z.device)
        scale = dim / (batch * 0.2)
        rates = [torch.logdet(eye + scale * view.T @ view) / 2 for view in unit]
        similar = F.cosine_similarity(unit, unit.mean(0, keepdim=True), dim=-1).mean()
        torch.autograd.grad(-(sum(rates) / count + 200 * similar), z)

    for name, action in {"closed-form": ours, "sequential-logdet": theirs}.items():
        seconds = bench.seconds(action, most=1.0)
        bench.say("objective", 1e3 * seconds, "ms", way=name, patches=count, batch=batch, dim=dim)


def optimizers(bench: Bench) -> None:
    """Each optimizer's step on the network of the official recipe."""
    settings = settings_for(bench, 32)
    for name in OPTIMIZERS:
        network = build_network(settings["backbone"], settings["projector"]).to(bench.device)
        network.to(memory_format=torch.channels_last)
        found = build_optimizers(network, {"name": name})
        for weight in network.parameters():
            weight.grad = 1e-3 * torch.ones_like(weight)

        def update(found: list[torch.optim.Optimizer] = found) -> None:
            for optimizer in found:
                optimizer.step()

        seconds = bench.seconds(update, most=0.5)
        bench.say("optimizer", 1e3 * seconds, "ms", name=name)


def copies(bench: Bench) -> None:
    """One step's images to the device: from ordinary and pinned memory, and read there."""
    batch = sizes(bench)[0][1]
    cpu = noise(bench, batch).cpu()
    every = noise(bench, 100 if bench.smoke else 50_000)
    rows = torch.arange(batch)
    ways: dict[str, Callable[[], Any]] = {
        "pageable": lambda: cpu.to(bench.device, copy=True),
        "pinned": lambda: send(cpu, bench.device),
        "resident": lambda: every[send(rows, bench.device)],
    }
    for name, action in ways.items():
        bench.say("images-to-device", 1e6 * bench.seconds(action, most=0.3), "us", way=name)


def training(bench: Bench) -> None:
    """CIFAR-10, n 20: linear probe after passes over the data; stops after the first to reach 90.

    Each run is a whole one with its own schedule. Test images are scored as they are: report these
    as they come, and choose nothing by them.
    """
    if bench.data_dir is None and not bench.smoke:
        bench.say("training", None, "", skipped="no --data-dir")
        return
    data = "digits" if bench.smoke else "cifar10"
    tiny: dict[str, Any] = {
        "patches": 2, "batch": 32, "epochs": 0.05, "backbone": {"width": 4},
        "projector": {"hidden": 16, "dim": 8},
    } if bench.smoke else {}  # fmt: skip
    plans: list[tuple[str, dict[str, Any]]] = [
        ("official", {"patches": 20, "epochs": 1.0, "views": {"colors": "fast"}}),
        ("laptop", {"patches": 20, "batch": 100, "epochs": 1.0}),
        ("official", {"patches": 20, "epochs": 10.0, "views": {"colors": "fast"}}),
    ]
    for recipe, changes in plans[:1] if bench.smoke else plans:
        if time.monotonic() > bench.until - 30:
            bench.say("training", None, "", skipped="the time is up", recipe=recipe)
            return
        bench.forget()
        out = (bench.out or Path(tempfile.mkdtemp())) / f"{recipe}-{changes['epochs']:g}"
        at = time.monotonic()
        empssl.train(data, out=out, recipe=recipe, data_dir=bench.data_dir, overwrite=True,
                     **(changes | tiny))  # fmt: skip
        trained = time.monotonic()
        found = empssl.evaluate(
            out, data, data_dir=bench.data_dir, baselines=False, crops=["grid3"],
            probes=["knn"] if bench.smoke else ["linear"],
        )  # fmt: skip
        best = max(result.accuracy for result in found.results)
        last = Run(out).metrics()[-1]
        bench.say(
            "accuracy", best, "% test, the better layer", recipe=recipe, changes=changes,
            epochs=last["epoch"], pflop=last["pflop"],
            patches_per_second=round(last["patches_per_second"]),
            training_seconds=round(last["seconds"], 2), wall_seconds=round(trained - at, 2),
            startup_seconds=Run(out).environment["startup_seconds"],
            compiled=Run(out).environment["compiled"], peak_gib=bench.peak_gib(),
            evaluation_seconds=round(time.monotonic() - trained, 2),
            by_layer={f"{r.probe} {r.layer}": r.accuracy for r in found.results},
        )  # fmt: skip
        if best >= 90:
            return


# Name, seconds, action: what matters most comes first.
PARTS: list[tuple[str, float, Callable[[Bench], None]]] = [
    ("limits", 30, limits_of_the_machine),
    ("eager", 60, step_in("none")),
    ("default", 150, step_in("default")),
    ("views", 90, views),
    ("objectives", 20, objectives),
    ("optimizers", 30, optimizers),
    ("copies", 10, copies),
    ("graphs", 120, step_in("reduce-overhead")),
    ("autotune", 120, step_in(MODES[3])),
    ("training", 500, training),
]


def table(lines: list[dict[str, Any]]) -> Table:
    shown = Table("what", "value", "unit", "conditions")
    for line in lines:
        rest = {k: v for k, v in line.items() if k not in ("what", "value", "unit")}
        value = "-" if line["value"] is None else f"{line['value']:g}"
        shown.add_row(line["what"], value, line["unit"], ", ".join(f"{k} {rest[k]}" for k in rest))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="where CIFAR-10 lies; without it nothing is trained")
    parser.add_argument("--out", type=Path, help="a folder for gpu.jsonl and the runs")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", nargs="+", choices=[name for name, *_ in PARTS])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on any machine")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    precision: Any = "32-true" if args.smoke else "bf16-mixed"
    fabric = launch(device="auto", devices=1, precision=precision)
    bench = Bench(fabric, args.smoke, args.data_dir, args.out, until)
    bench.say("environment", None, "", **environment(fabric, precision))
    for name, seconds, action in PARTS:
        if name not in (args.parts or [name]):
            continue
        if args.smoke and name in ("default", "graphs", "autotune"):
            continue  # compilers take longer than a test may
        left = until - time.monotonic()
        if left < 5:
            bench.say(name, None, "", skipped="the time is up")
            continue
        began = time.monotonic()
        try:
            with limit(min(seconds, left)):
                action(bench)
        except (
            Exception,
            TimeUp,
        ) as error:  # whatever it is, the other parts are still worth their time
            if args.smoke:
                raise
            said = (str(error).strip().splitlines() or [""])[0]
            bench.say(name, None, "", skipped=f"{type(error).__name__}: {said}")
        bench.say("part", time.monotonic() - began, "s", name=name)
        bench.forget()
    Console(width=160).print(table([line for line in bench.lines if line["what"] != "part"]))


if __name__ == "__main__":
    main()
