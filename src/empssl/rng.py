"""Random numbers that depend only on what they are for.

A draw is a hash of (seed, epoch, sample, patch, draw). There is no generator to seed, split or
save: workers, ranks, chunks and a resumed run all find the same numbers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014): the finalizer of
# SplitMix64, and the golden-ratio increment. Written as signed numbers, as torch has int64.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's bijection of 64-bit words."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shift_right(x, shift)) * multiplier
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """The logical shift; torch's `>>` repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(
    samples: Tensor, *, seed: int, epoch: int, views: range, draws: int
) -> Float[Tensor, "view batch draw"]:
    """Numbers in [0, 1), of 24 random bits each, for some patches of some samples.

    Args:
        samples: int64 (batch,), the samples' indices in the data set.
        seed: of the run.
        epoch: which pass over the data.
        views: indices of the patches within their image.
        draws: how many numbers a patch needs.
    """
    device = samples.device
    keys = (
        torch.full((), seed, device=device),  # a copy from the host would have it wait for a GPU
        torch.full((), epoch, device=device),
        torch.arange(views.start, views.stop, views.step, device=device)[:, None, None],
        samples[:, None],
        torch.arange(draws, device=device),
    )
    word = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        word = _mix((word + _INCREMENT) ^ _mix(key + _INCREMENT))
    return _shift_right(word, 40).float() * 2.0**-24


def permutation(count: int, *, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its samples: int64 (count,)."""
    samples = torch.arange(count)
    keys = uniform(samples, seed=seed, epoch=epoch, views=range(-1, 0), draws=2)[0].double()
    # Two draws make 48 bits, so that equal keys are out of the question.
    return torch.argsort(keys[:, 0] + keys[:, 1] * 2.0**-24, stable=True)
