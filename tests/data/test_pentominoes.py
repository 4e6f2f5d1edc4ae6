import hashlib

import torch

from empssl.data import MemoryImages, open_images
from empssl.data.pentominoes import PENTOMINOES


def opened(split: str) -> MemoryImages:
    images = open_images("pentominoes", split=split)  # type: ignore[arg-type]
    assert isinstance(images, MemoryImages)
    assert images.labels is not None
    return images


def test_pentominoes_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(opened("test").pixels.numpy().tobytes()).hexdigest()
    assert digest[:16] == "664d9360d09ef2a7"


def test_splits_are_balanced_and_share_no_image() -> None:
    train, test, every = (opened(split) for split in ("train", "test", "all"))
    for images, count in ((train, 200), (test, 50)):
        assert torch.bincount(images.labels).tolist() == [count] * 10  # type: ignore[arg-type]
    assert torch.equal(every.pixels, torch.cat([train.pixels, test.pixels]))
    assert len({image.numpy().tobytes() for image in every.pixels}) == 2500


def test_shapes_have_five_squares_that_hang_together_and_none_is_another_turned() -> None:
    def turned(rows: tuple[str, ...]) -> set[tuple[str, ...]]:
        found = set()
        for _ in range(4):
            rows = tuple("".join(column) for column in zip(*rows[::-1], strict=True))
            found |= {rows, tuple(row[::-1] for row in rows)}
        return found

    for letter, rows in PENTOMINOES.items():
        squares = {
            (i, j) for i, row in enumerate(rows) for j, mark in enumerate(row) if mark == "#"
        }
        assert len(squares) == 5
        reached = {min(squares)}
        while (
            more := {
                (i + a, j + b) for i, j in reached for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))
            }
            & squares - reached
        ):
            reached |= more
        assert reached == squares
        others = [rows for name, rows in PENTOMINOES.items() if name != letter]
        assert not turned(rows) & set(others)


def test_nothing_but_the_shape_tells_the_class() -> None:
    """Neither brightness nor contrast differs between classes by more than chance makes it."""
    images = opened("train")
    pixels = images.pixels.float().mean(1).flatten(1)
    for values in (pixels.mean(1), pixels.std(1)):
        means = torch.stack([values[images.labels == label].mean() for label in range(10)])
        assert float(means.std()) < 0.35 * float(values.std())
