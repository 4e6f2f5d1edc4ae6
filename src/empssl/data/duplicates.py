"""Images that are there twice."""

import hashlib

import torch
from jaxtyping import UInt8
from torch import Tensor

from empssl.shapes import Images, Valid

Others = UInt8[Tensor, "other 3 height width"]


def found_in(images: Images, others: Others) -> Valid:
    """Which of the images are, to the last pixel, among the others.

    Decoded and scaled, so that neither the format nor the name of a file hides a copy. What was
    compressed anew is not found.

    >>> pair = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).byte()
    >>> found_in(pair, pair[1:]).tolist()
    [False, True]
    """
    known = {_digest(image) for image in others}
    return torch.tensor([_digest(image) in known for image in images], dtype=torch.bool)


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()
