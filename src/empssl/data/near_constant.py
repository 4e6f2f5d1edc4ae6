"""Images with nothing to see: a lens cap, a failed download, 16 bits read as 8."""

from empssl.shapes import Images, Valid

LEVELS = 8  # of 255: what compression makes of one color stays below


def near_constant(pixels: Images) -> Valid:
    """Which images span at most 8 of 255 levels in every channel.

    >>> import torch
    >>> white, ramp = torch.full((3, 4, 4), 255), torch.arange(48).view(3, 4, 4)
    >>> near_constant(torch.stack([white, ramp]).byte()).tolist()
    [True, False]
    """
    span = pixels.amax((2, 3)) - pixels.amin((2, 3))  # image channel
    return (span <= LEVELS).all(1)
