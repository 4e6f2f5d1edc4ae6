"""The 1,797 handwritten digits that come with scikit-learn: real images with no download."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from empssl.data.base import MemoryImages
from empssl.data.decode import squares
from empssl.data.download import Progress
from empssl.types import Split


def open_digits(
    *,
    split: Split,
    data_dir: Path | None = None,
    side: int = 16,
    download: bool = False,
    progress: Progress | None = None,
) -> MemoryImages:
    """8 x 8 grey digits, enlarged, in three equal channels.

    Test is a fifth of each class, drawn once with a fixed seed: 360 images, and 1,437 to train on.
    There is no file to look for and nothing to download.
    """
    # Imported here: it takes a second, and only this data set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey, labels = digits.images, digits.target  # 0 to 16
    rows = np.arange(len(labels))
    if split != "all":
        parts = train_test_split(rows, test_size=0.2, random_state=0, stratify=labels)
        rows = np.sort(parts[0] if split == "train" else parts[1])
    pixels = (grey[rows] * 255 / 16).round().astype(np.uint8)
    return MemoryImages(
        squares(np.repeat(pixels[:, None], 3, axis=1), side),
        name="digits",
        split=split,
        fingerprint=hashlib.sha256(pixels.tobytes()).hexdigest(),
        labels=torch.from_numpy(labels[rows].astype(np.int64)),
        class_names=[str(digit) for digit in range(10)],
        names=[f"digits/{row:04d}" for row in rows],
    )
