"""Network, views, loss and optimizer of the slow pipeline, put together for the same settings."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from empssl.config import complete
from empssl.device import cores
from empssl.diagnostics.reference.lars import LoopLARS
from empssl.diagnostics.reference.loader import loader
from empssl.diagnostics.reference.objective import emp_loss
from empssl.errors import DivergenceError, UsageError
from empssl.models import build_network
from empssl.optim import OPTIMIZERS
from empssl.types import Images


class SlowPipeline:
    """The slow twin of a training run.

    In float32 our convolutions are torch's own: only under bfloat16 have they another gradient.

    Args:
        settings: as `recipes.resolve` gives them; the objective must be emp. the optimizer
            is lars whatever they say, with the options that muon_lars shares with it.
        images: all of them.
        seed: of the weights, the order and the views.
        device: where the network computes; views are made on the CPU.
        workers: loader processes; one for each core by default.

    Raises:
        UsageError: an objective that the slow pipeline does not have.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        images: Images,
        *,
        seed: int = 0,
        device: str = "cpu",
        workers: int | None = None,
    ) -> None:
        objective = dict(settings["objective"])
        if objective.pop("name") != "emp":
            raise UsageError(
                f"objective is {settings['objective']['name']}, but the slow pipeline has only emp"
            )
        self.objective, self.device = objective, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(settings["backbone"], settings["projector"])
        self.network = network.to(device).train()
        lars = lars_options(settings["optimizer"])
        self.optimizer = LoopLARS(self.network.parameters(), **lars)
        options = {key: value for key, value in settings["views"].items() if key != "name"}
        self.workers = cores() if workers is None else workers
        self.loader = loader(
            images, patches=settings["patches"], batch=settings["batch"], options=options,
            seed=seed, workers=self.workers,
        )  # fmt: skip

    def batches(self) -> Iterator[Tensor]:
        """Views of one step after the other, without end: (view, batch, 3, side, side)."""
        for views in self.loader:
            yield views.to(self.device, non_blocking=True).transpose(0, 1)

    def step(self, views: Tensor) -> float:
        """Train on the views of a step, and give its loss.

        Raises:
            DivergenceError: the loss is not finite; no weight has been touched.
        """
        count, batch = views.shape[:2]
        projections = self.network(views.flatten(0, 1).contiguous())
        loss = emp_loss(projections.unflatten(0, (count, batch)), **self.objective)
        if not torch.isfinite(loss):
            raise DivergenceError(f"the loss is {loss.item():g}; lower the learning rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def lars_options(optimizer: dict[str, Any]) -> dict[str, Any]:
    """The options of LARS: those of lars and muon_lars, else its defaults."""
    options = complete(OPTIMIZERS, {"name": "lars"}, given=("network",))
    if optimizer["name"] in ("lars", "muon_lars"):
        options |= {key: optimizer[key] for key in options if key in optimizer}
    return {key: value for key, value in options.items() if key != "name"}
