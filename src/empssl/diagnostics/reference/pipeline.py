"""Network, views, loss and optimizer of the slow pipeline, put together for the same settings."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from empssl.config import complete
from empssl.device import cores
from empssl.diagnostics.reference.lars import LoopLARS
from empssl.diagnostics.reference.loader import loader
from empssl.errors import DivergenceError, UsageError
from empssl.models import build_network
from empssl.optim import OPTIMIZERS
from empssl.types import Images, Projections, Scalar


class SlowPipeline:
    """The slow twin of a training run.

    In float32 our convolutions are torch's own: only under bfloat16 have they another gradient.

    Args:
        settings: as `recipes.resolve` gives them; the objective must be emp. The optimizer
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


def emp_loss(projections: Projections, *, invariance_weight: float, distortion: float) -> Scalar:
    """EMP-SSL's eq. 2 as the paper writes it: a d x d determinant a patch index, in turn.

    The plain twin of the value of `objectives.EMP`.

    Args:
        projections: of any length; they are normalised here.
        invariance_weight: lambda in eq. 2.
        distortion: eps^2 in eq. 1, already squared.
    """
    z = F.normalize(projections, dim=-1)
    center = z.mean(0)
    _, batch, dim = z.shape
    eye = torch.eye(dim, dtype=z.dtype, device=z.device)
    rates, similarities = [], []
    for Z in z:
        second_moment = eye + dim / (batch * distortion) * Z.T @ Z
        rates.append(torch.logdet(second_moment) / 2)
        similarities.append(F.cosine_similarity(Z, center, dim=-1).mean())
    rate, similarity = torch.stack(rates).mean(), torch.stack(similarities).mean()
    return -(rate + invariance_weight * similarity)
