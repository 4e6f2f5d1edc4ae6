"""Where a step stopped being finite: the first place on its way, and the images it began in."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from empssl.data.base import ImageSet
from empssl.device import Fabric
from empssl.distributed.collectives import all_gather_object
from empssl.errors import DivergenceError, EmpsslError, OutOfMemoryError, RankError
from empssl.training.metrics_buffer import MeasuredStep

AT_ONCE = 256  # views; no gradients are kept
SEEN = "the views are not finite"


def diagnose(
    fabric: Fabric,
    network: nn.Module,
    objective: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    images: Tensor,
    loss: float,
    *,
    batch: int,
) -> EmpsslError:
    """The error for a step that is not finite; its weights and gradients are as the step left them.

    Looks at views, weights, what each layer makes of the views, the loss, the gradients and what
    the optimizers remember, in this order, and names the first that is not finite. Where the loss
    is not finite the network runs once more, so then every process of a run has to ask; the one
    in which it began then says so, as what others see is what came of it.

    Args:
        fabric: of the run.
        network: what the step ran.
        objective: whose weights are trained too.
        optimizers: of all weights.
        images: (view*batch, 3, side, side), as the network saw them.
        loss: of the step; NaN where the objective could not go on.
        batch: images of each view.
    """
    nobody: Tensor = torch.empty(0, dtype=torch.long)
    original = getattr(network, "module", network)  # names without those of Fabric's wrappers
    named = [*original.named_parameters(), *objective.named_parameters(prefix="objective")]
    layer, spoiled = (
        (None, nobody) if math.isfinite(loss) else _first_layer(fabric, original, images)
    )
    seen = _rows(~images.flatten(1).isfinite().all(1))
    weights = [name for name, p in named if not p.isfinite().all()]
    gradients = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
    rows = nobody
    if len(seen):
        where, rows = SEEN, seen
    elif weights:
        where = f"the weight {weights[0]} is not finite"
    elif layer is not None:
        where, rows = f"what {layer} makes of the views is not finite", spoiled
    elif not math.isfinite(loss):
        where = "the projections are finite, the loss is not"
    elif gradients:
        # Backward comes from the loss: the last weight on the way forward is the first it spoils.
        where = f"the first bad gradient is that of {gradients[-1]}"
    elif not remembered_finite(optimizers):
        where = "what the optimizer remembers of earlier gradients is not finite"
    else:
        where = "the gradients are finite, their length is not"
    if not math.isfinite(loss):
        began = all_gather_object(where != SEEN)
        first = began.index(min(began))
        if began[fabric.global_rank] and not began[first]:
            return RankError(f"process {first} knows where it began", DivergenceError.exit_code)
    alike = (rows % batch).unique()
    return DivergenceError(
        f"the loss is {loss:g} and {where}", alike.tolist() if len(alike) < batch else []
    )


def remembered_finite(optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Whether momenta and the like are finite: finite gradients do not mend those that are not."""
    return all_finite(
        value
        for optimizer in optimizers for state in optimizer.state.values()
        for value in state.values() if isinstance(value, Tensor)
    )  # fmt: skip


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number is NaN or infinite, nor so large that its square is."""
    floats = [x for x in tensors if x.is_floating_point() and x.numel()]
    return not floats or bool(torch.stack(torch._foreach_norm(floats)).isfinite().all())


def _first_layer(fabric: Fabric, network: nn.Module, images: Tensor) -> tuple[str | None, Tensor]:
    """The first module whose output is not finite, and the rows of the images in which."""
    found: list[tuple[str, Tensor]] = []

    def watch(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and not found and not output.isfinite().all():
            bad = ~output.flatten(1).isfinite().all(1) if output.dim() > 1 else torch.tensor([])
            found.append((name or "the network", _rows(bad) + start))

    start = 0
    with ExitStack() as hooks, torch.no_grad(), fabric.autocast():
        for name, module in network.named_modules():
            hook = module.register_forward_hook(lambda _, __, out, name=name: watch(name, out))
            hooks.callback(hook.remove)
        for part in images.tensor_split(math.ceil(len(images) / AT_ONCE)):
            network(part)
            start += len(part)
    return found[0] if found else (None, torch.empty(0, dtype=torch.long))


def _rows(bad: Tensor) -> Tensor:
    return bad.nonzero()[:, 0].cpu() if bad.dim() else bad


def diverged(
    images: ImageSet, step: int, what: str, samples: Tensor, rows: Sequence[int] = ()
) -> DivergenceError:
    """The error for a step that is not finite, with the images that it saw.

    Args:
        images: of the run.
        step: which it was.
        what: was not finite.
        samples: int64, the images of the step.
        rows: those of them that it began in, where that is known.
    """
    names = [images.sample_name(int(i)) for i in (samples[list(rows)] if rows else samples)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return DivergenceError(
        f"step {step}: {what}. It changed no weight that is kept, and checkpoints that were "
        f"written are good. {'It began in' if rows else 'Its images were'} "
        f"{', '.join(names[:5])}{more}. "
        "Lower the learning rate, or try --precision 32-true"
    )


def out_of_memory(
    when: str,
    error: BaseException,
    *,
    begun: bool,
    patches: int,
    batch: int,
    processes: int,
    mode: str,
    lower: str | None,
) -> OutOfMemoryError:
    """What to do where memory was refused.

    Args:
        when: it was.
        error: as torch has it.
        begun: whether there is a run to resume.
        patches: of each image in a step.
        batch: images of a step.
        processes: that share it.
        mode: of the memory plan.
        lower: the mode with the same gradients in less memory, if there is one.
    """
    if lower is not None:
        again = "continue with --resume" if begun else "start again with"
        advice = f"{again} --memory {lower}: the same gradients in more time"
    else:
        name, value = ("patches", patches) if patches > batch else ("batch", batch)
        advice = "nothing smaller has the same gradients; start anew with "
        advice += f"--{name} {max(2, value // 2)}"
    first = (str(error).strip().splitlines() or ["no memory"])[0]
    return OutOfMemoryError(
        f"{when}: out of memory ({first}) with {patches} patches of each of {batch} "
        f"images over {processes} processes, memory '{mode}'; {advice}"
    )


def until_not_finite(
    measured: Iterable[MeasuredStep], images: ImageSet
) -> Iterator[dict[str, Any]]:
    """The lines of metrics up to a step that was not finite.

    Raises:
        DivergenceError: at that step. Nothing of it or of those after it is written.
    """
    for step in measured:
        if not step.entry.pop("finite", True):
            what = f"the loss is {step.entry['loss']:g} and the gradient's length is "
            what += f"{step.entry['gradient_norm']:g}"
            raise diverged(images, step.entry["step"], what, step.samples)
        yield step.entry
