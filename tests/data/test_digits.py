import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from empssl.data import MemoryImages, open_images
from empssl.errors import DataError, UsageError


def test_digits_are_scikit_learns() -> None:
    images = open_images("digits", split="all", side=8)
    pixels = images.read(range(len(images))).pixels
    assert pixels.shape == (1797, 3, 8, 8)
    expected = (load_digits().images * 255 / 16).round()
    for channel in range(3):
        assert np.array_equal(pixels[:, channel], expected)


def test_digits_are_enlarged_to_16() -> None:
    images = open_images("digits", split="test")
    assert (images.side, images.read([0]).pixels.shape) == (16, (1, 3, 16, 16))


def test_splits_are_whole_disjoint_and_stratified() -> None:
    train, test = (open_images("digits", split=s) for s in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    names = [{s.sample_name(i) for i in range(len(s))} for s in (train, test)]
    assert len(names[0] | names[1]) == 1797
    assert train.labels is not None
    assert test.labels is not None
    assert abs(4 * torch.bincount(test.labels) - torch.bincount(train.labels)).max() <= 5


def test_split_is_the_same_on_every_machine() -> None:
    test = open_images("digits", split="test")
    assert [test.sample_name(i) for i in range(3)] == ["digits/0021", "digits/0024", "digits/0028"]


def test_fingerprints_tell_splits_apart() -> None:
    sets = [open_images("digits", split=s) for s in ("train", "test", "all")]
    assert len({s.fingerprint for s in sets}) == 3
    assert all(isinstance(s, MemoryImages) for s in sets)


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(DataError, match=r"did you mean 'digits'.*path of a folder") as caught:
        open_images("digts", split="all")
    assert caught.value.exit_code == 3


def test_side_must_be_positive() -> None:
    with pytest.raises(UsageError, match="side is 0"):
        open_images("digits", split="all", side=0)
