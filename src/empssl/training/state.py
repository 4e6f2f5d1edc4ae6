"""An optimizer's state as JSON and named tensors, as a checkpoint holds it."""

from typing import Any

import torch
from torch import Tensor


def flatten(state: dict[str, Any], index: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer's state as JSON and named tensors."""
    tensors, rest = {}, {}
    for key, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}.{name}"] = value
            else:
                rest[f"{key}.{name}"] = value
    return {"param_groups": state["param_groups"], "scalars": rest}, tensors


def unflatten(state: dict[str, Any], tensors: dict[str, Tensor], index: int) -> dict[str, Any]:
    """The reverse of `flatten`."""
    full: dict[int, dict[str, Any]] = {}
    named = {tuple(k.split(".", 1)): v for k, v in state["scalars"].items()}
    for key, value in tensors.items():
        owner, parameter, name = key.split(".", 2)
        if int(owner) == index:
            named[parameter, name] = value
    for (parameter, name), value in named.items():
        full.setdefault(int(parameter), {})[name] = value
    return {"state": full, "param_groups": state["param_groups"]}


def lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Lay state out in memory as its weights are: a mix slows the step of an optimizer by a third.

    Files do not know of channels last.
    """
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
