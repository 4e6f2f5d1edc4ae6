"""A backbone that a program gives: any module from images to embeddings or maps."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from empssl.errors import UsageError
from empssl.models.segments import Segment, segments_of


class ModuleBackbone(nn.Module):
    """A module as a backbone. It is used itself, not a copy, and keeps its weights.

    Its output is (image, feature), or (image, channel, height, width), of which the mean over
    positions is taken. The memory plan `exact` needs its chain of segments, `segments()`, as
    `models.resnet.ResNet` has it.

    Args:
        module: (image, 3, side, side) to one of the two.
        side: pixels of a view. Two views of zeros are embedded to learn the feature size, in eval
            mode, and nothing of that stays. None where it is not known yet: then `dim` is the
            module's own, or 1.

    Raises:
        UsageError: it cannot take such views, or gives something else.
    """

    def __init__(self, module: nn.Module, side: int | None) -> None:
        super().__init__()
        self.module = module
        if side is None:
            dim = getattr(module, "dim", 1)
            self.dim = dim if isinstance(dim, int) else 1
        else:
            self.dim = self._feature_size(side)

    def forward(self, images: Tensor) -> Tensor:
        return _pooled(self.module(images))

    def segments(self) -> list[Segment] | None:
        """The module's own, and the mean over positions."""
        own = segments_of(self.module)
        return None if own is None else [*own, Segment((None,), lambda x: (_pooled(x),))]

    @torch.no_grad()
    def _feature_size(self, side: int) -> int:
        name = type(self.module).__qualname__
        modes = [(module, module.training) for module in self.module.modules()]
        weight: Any = next(self.module.parameters(), torch.empty(0, device="cpu"))
        self.module.eval()
        try:
            with torch.random.fork_rng(devices=[]), weight.device:
                made = self.module(torch.zeros(2, 3, side, side, dtype=weight.dtype))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"the backbone {name} cannot take images of (2, 3, {side}, {side}): {first}; "
                "choose the side that it needs with --views.side, or another backbone"
            ) from error
        finally:
            for module, training in modes:
                module.training = training
        if not isinstance(made, Tensor) or made.dim() not in (2, 4) or len(made) != 2:
            found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UsageError(
                f"the backbone {name} makes {found} of (2, 3, {side}, {side}), expected a tensor "
                "(2, feature) or (2, channel, height, width)"
            )
        return made.shape[1]


def redrawn(module: nn.Module) -> nn.Module:
    """A copy on the CPU with weights drawn anew, by each submodule's `reset_parameters()`.

    What is inside another module is drawn before it. The draw follows torch's global generator.

    Raises:
        UsageError: a parameter belongs to a module that has no such method.
    """
    fixed = [
        name or "itself" for name, part in module.named_modules()
        if not hasattr(part, "reset_parameters") and list(part.parameters(recurse=False))
    ]  # fmt: skip
    if fixed:
        more = f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        raise UsageError(
            f"the backbone {type(module).__qualname__} cannot be drawn anew: a parameter belongs "
            f"to a module without reset_parameters(): {', '.join(fixed[:3])}{more}; give it one, "
            "which draws its parameters"
        )

    def reset(part: Any) -> None:
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()

    return copy.deepcopy(module).cpu().apply(reset)


def _pooled(made: Tensor) -> Tensor:
    return made.mean((2, 3)) if made.dim() == 4 else made
