"""Pentominoes: a synthetic shapes data set, made from a seed."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.random import PCG64, Generator

from empssl.data.base import MemoryImages
from empssl.data.decode import squares
from empssl.data.download import Progress
from empssl.types import Split

# Five squares that hang together, by the letter that they resemble. I and X are left out.
PENTOMINOES = {
    "F": (".##", "##.", ".#."),
    "L": ("####", "#..."),
    "N": ("##..", ".###"),
    "P": ("###", "##."),
    "T": ("###", ".#.", ".#."),
    "U": ("#.#", "###"),
    "V": ("#..", "#..", "###"),
    "W": ("#..", "##.", ".##"),
    "Y": (".#..", "####"),
    "Z": ("##.", ".#.", ".##"),
}
SIDE = 32  # pixels
SIZES = {"train": 2000, "test": 500}  # images

_COPIES = 4  # per side, more than an image shows
_PITCH, _STRAY = 11.0, 1.0  # pixels between copies, and how far each is off their grid
_SQUARE = (2.8, 3.2)  # pixels of a square's side
_REACH = 8  # pixels from a copy's center, within which all of it lies
_MARGIN = 2 * _REACH + 2  # pixels around the image into which copies may reach
_FINE = 2  # samples of a pixel, per side
_TURN = 0.41421356  # tangent of half of 45 degrees
_ROOM = 12  # squares per side of the table in which samples are looked up; they meet no others


def open_pentominoes(
    *,
    split: Split,
    data_dir: Path | None = None,
    side: int = SIDE,
    download: bool = False,
    progress: Progress | None = None,
) -> MemoryImages:
    """Ten classes: an image shows many copies of one pentomino, and its class is which one.

    Each copy is turned, mirrored, sized and colored at random, on a grid that lies at random. The
    ground is dark, lighter towards a random side, and noisy. All shapes have the same area, and but
    for P outlines of the same length; a window two squares wide sees the same edges and corners in
    most of them. Only how five squares lie together, over about ten pixels, tells the class: it
    was made so that local features do not suffice.

    2,000 images are train, and 500 more of the same kind test. An image depends on its split and
    its number alone, and is the same on every machine: it needs no sines, roots or long sums, which
    libraries round as they choose. There is no file to look for and nothing to download.
    """
    parts = ["train", "test"] if split == "all" else [split]
    pixels = np.concatenate([_images(part) for part in parts])
    labels = np.concatenate([np.arange(SIZES[part]) % len(PENTOMINOES) for part in parts])
    return MemoryImages(
        squares(pixels, side),
        name="pentominoes",
        split=split,
        fingerprint=hashlib.sha256(pixels.tobytes()).hexdigest(),
        labels=torch.from_numpy(labels),
        class_names=list(PENTOMINOES),
        names=[f"pentominoes/{part}/{at:04d}" for part in parts for at in range(SIZES[part])],
    )


@cache  # a second's work, and the report opens what training did
def _images(split: str) -> UInt8[np.ndarray, "image 3 32 32"]:
    count, seed = SIZES[split], list(SIZES).index(split)
    draws = [4, 10 * _COPIES**2, SIDE**2]
    u = np.stack([Generator(PCG64([seed, at])).random(sum(draws)) for at in range(count)])
    scene, copies, noise = np.split(u, np.cumsum(draws)[:2], axis=1)
    canvas = np.zeros([count, SIDE + 2 * _MARGIN, SIDE + 2 * _MARGIN, 3])
    image = canvas[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    across = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    down, right = 40 * (2 * scene[:, :2, None] - 1).swapaxes(0, 1) * across
    image += (50 + down[:, :, None] + right[:, None, :])[..., None]
    for at in range(_COPIES**2):
        place = scene[:, 2:] - 1 + divmod(at, _COPIES)
        _draw(canvas, _PITCH * place, *np.split(copies[:, 10 * at : 10 * at + 10], [6], axis=1))
    image += 30 * (noise.reshape(count, SIDE, SIDE, 1) - 0.5)
    return image.round().clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2).copy()


def _draw(
    canvas: Float[np.ndarray, "image height width 3"],
    center: Float[np.ndarray, "image 2"],
    pose: Float[np.ndarray, "image 6"],
    color: Float[np.ndarray, "image 4"],
) -> None:
    """Draw one copy in every image, the shape of image k being that of class k modulo ten.

    Args:
        canvas: images with a margin; drawn on.
        center: pixels down and right from the image's corner, before the copy strays.
        pose: numbers in [0, 1) that decide where it strays, how it is turned, mirrored and sized.
        color: the same for its brightness and its color.
    """
    center = center + _STRAY * (2 * pose[:, :2] - 1)
    t = _TURN * (2 * pose[:, 2] - 1)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)  # up to 45 degrees either way
    quarter = (4 * pose[:, 3]).astype(int)
    cos, sin = (
        np.choose(quarter, [cos, -sin, -cos, sin]),
        np.choose(quarter, [sin, cos, -sin, -cos]),
    )
    mirrored = np.where(pose[:, 4] < 0.5, -1, 1)
    square = _SQUARE[0] + (_SQUARE[1] - _SQUARE[0]) * pose[:, 5]

    first = np.floor(center).astype(int) - _REACH
    pixels = np.arange(2 * _REACH + 1)
    samples = (np.arange(len(pixels) * _FINE) + 0.5) / _FINE
    y, x = ((first + samples[:, None, None] - center) / square[:, None]).transpose(2, 1, 0)
    along = (cos[:, None] * y)[:, :, None] + (sin[:, None] * x)[:, None, :]
    aside = (cos * mirrored)[:, None, None] * x[:, None, :] - (sin * mirrored)[:, None, None] * y[
        :, :, None
    ]
    shapes, middle = _shapes()
    kind = np.arange(len(canvas)) % len(shapes)
    row, column = (
        np.floor(part + middle[kind, axis, None, None]).astype(int)
        for axis, part in enumerate((along, aside))
    )
    inside = shapes[kind[:, None, None], row, column]
    covered = inside.reshape(len(canvas), len(pixels), _FINE, len(pixels), _FINE).mean((2, 4))

    rows = (_MARGIN + first[:, :1] + pixels)[:, :, None]
    columns = (_MARGIN + first[:, 1:] + pixels)[:, None, :]
    where = (np.arange(len(canvas))[:, None, None], rows, columns)
    paint = ((180 + 75 * color[:, :1]) * (1 - 0.5 * color[:, 1:]))[:, None, None]
    canvas[where] += covered[..., None] * (paint - canvas[where])


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Where each shape has squares: (shape, row, column); and where its middle lies."""
    table = np.zeros((len(PENTOMINOES), _ROOM, _ROOM), dtype=bool)
    middle = np.zeros((len(PENTOMINOES), 2))
    first = _ROOM // 2 - 2
    for shape, rows in enumerate(PENTOMINOES.values()):
        for at, row in enumerate(rows):
            table[shape, first + at, first : first + len(row)] = [mark == "#" for mark in row]
        middle[shape] = first + len(rows) / 2, first + len(rows[0]) / 2
    return table, middle
