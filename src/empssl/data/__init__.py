"""Images by name or path: square, uint8, RGB, by index. Bad ones are marked, never passed on."""

from empssl.data.base import BadSample, ImageBatch, ImageSet, MemoryImages
from empssl.data.checks import BadSamples
from empssl.data.in_memory import in_memory
from empssl.data.open import DATASETS, MADE, NAMES, open_images
from empssl.data.value_range import Decoding
from empssl.types import Division, Split

__all__ = [
    "DATASETS",
    "MADE",
    "NAMES",
    "BadSample",
    "BadSamples",
    "Decoding",
    "Division",
    "ImageBatch",
    "ImageSet",
    "MemoryImages",
    "Split",
    "in_memory",
    "open_images",
]
