"""Sums over all views of a step, of which a process may hold a part."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from empssl.distributed.collectives import all_reduce_autograd


@dataclass(frozen=True)
class ViewAxis:
    """The first axis of a step's projections.

    All sums and means are the same in every process, and so are the gradients of what is computed
    from them. A sum is as large as what one view has: of projections, (batch, dim).

    Attributes:
        processes: over which the views are spread, equally many in each.

    >>> import torch
    >>> z = torch.tensor([[1.0], [2.0], [6.0]])
    >>> LOCAL_VIEWS.count(z), LOCAL_VIEWS.sum(z).item(), LOCAL_VIEWS.mean(z).item()
    (3, 9.0, 3.0)
    """

    processes: int = 1

    def count(self, x: Float[Tensor, "view ..."]) -> int:
        """How many views there are in all."""
        return len(x) * self.processes

    def sum(self, x: Float[Tensor, "view ..."]) -> Float[Tensor, "..."]:
        """Over all views."""
        own = x.sum(0)
        return own if self.processes == 1 else all_reduce_autograd(own)

    def mean(self, x: Float[Tensor, "view ..."]) -> Float[Tensor, "..."]:
        """Over all views."""
        return x.mean(0) if self.processes == 1 else self.sum(x) / self.count(x)


LOCAL_VIEWS = ViewAxis()  # all views in this process
