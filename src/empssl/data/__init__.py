"""Images by name, path or object: square, uint8, RGB, by index; bad ones marked, never used."""

from empssl.data.base import BadSample, ImageBatch, ImageSet, MemoryImages
from empssl.data.checks import BadSamples
from empssl.data.in_memory import in_memory
from empssl.data.objects import ImagesLike, images_from
from empssl.data.open import DATASETS, MADE, NAMES, KnownDataset, open_images
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
    "ImagesLike",
    "KnownDataset",
    "MemoryImages",
    "Split",
    "images_from",
    "in_memory",
    "open_images",
]
