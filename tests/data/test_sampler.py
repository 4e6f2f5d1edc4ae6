import itertools
import sys
from collections.abc import Sequence

import pytest
import torch

from empssl.data.base import BadSample, ImageBatch, ImageSet, MemoryImages
from empssl.data.in_memory import resident
from empssl.data.sampler import Drawn, Sampler
from empssl.errors import DataError, UsageError


class Flaky(ImageSet):
    """Images whose only pixel value is their index; some cannot be read."""

    def __init__(self, count: int, broken: Sequence[int] = ()) -> None:
        self.count, self.broken = count, set(broken)

    def __len__(self) -> int:
        return self.count

    def sample_name(self, index: int) -> str:
        return f"image {index}"

    def read(self, indices: Sequence[int]) -> ImageBatch:
        pixels = torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        bad = [BadSample(i, f"image {i}", "broken", "why") for i in indices if i in self.broken]
        valid = torch.tensor([i not in self.broken for i in indices])
        return ImageBatch(pixels.clone(), valid, tuple(bad))


def sampler(images: ImageSet, batch: int, *, rank: int = 0, world: int = 1) -> Sampler:
    return Sampler(images, batch=batch, seed=0, rank=rank, world=world)


def drawn(images: ImageSet, batch: int, steps: int, *, world: int = 1) -> list[list[int]]:
    """The samples of each step, over all processes."""
    ranks = [sampler(images, batch, rank=rank, world=world) for rank in range(world)]
    batches = [torch.cat([r.draw(step).samples for r in ranks]).tolist() for step in range(steps)]
    for rank in ranks:
        rank.close()
    return batches


def test_each_image_is_drawn_at_most_once_an_epoch_whatever_the_sizes() -> None:
    combinations = 0
    for count, batch, world in itertools.product(range(2, 41, 6), range(2, 13, 2), (1, 2, 3, 4)):
        if batch > count or batch % world:
            continue
        steps = count // batch
        batches = drawn(Flaky(count), batch, 2 * steps, world=world)
        for epoch in (batches[:steps], batches[steps:]):
            seen = [i for one in epoch for i in one]
            assert len(set(seen)) == len(seen) == steps * batch
        combinations += 1
    assert combinations > 60


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one_process(world: int) -> None:
    images = Flaky(50, broken=[3, 4, 5, 40])
    assert drawn(images, 12, 8, world=world) == drawn(images, 12, 8)


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    batches = drawn(Flaky(8), 8, 3)
    assert batches[0] != batches[1] != batches[2]
    assert batches == drawn(Flaky(8), 8, 3)


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    images = Flaky(20, broken=[7, 8])
    in_order = drawn(images, 6, 9)
    jumping = sampler(images, 6)
    for step in (8, 0, 5, 4, 3, 8):
        assert jumping.draw(step).samples.tolist() == in_order[step]
    jumping.close()


def test_a_broken_image_is_named_and_replaced_by_one_that_can_be_read() -> None:
    images = Flaky(30, broken=[1, 2, 3])
    one = sampler(images, 10)
    steps = [one.draw(step) for step in range(3)]
    one.close()
    assert {bad.index for step in steps for bad in step.bad} == {1, 2, 3}
    for step in steps:
        assert not images.broken & set(step.samples.tolist())
        assert step.pixels[:, 0, 0, 0].tolist() == step.samples.tolist()


def test_images_known_to_be_broken_are_never_asked_for() -> None:
    valid = torch.arange(20) % 4 != 0
    images = MemoryImages(
        torch.zeros(20, 3, 2, 2, dtype=torch.uint8), name="x", split="all", fingerprint="x",
        valid=valid,
    )  # fmt: skip
    one = sampler(images, 5)
    assert one.steps_per_epoch == 3
    found: list[Drawn] = [one.draw(step) for step in range(3)]
    one.close()
    assert sorted(i for step in found for i in step.samples.tolist()) == [
        i for i in range(20) if i % 4
    ]


def test_where_nothing_can_be_read_the_last_image_is_named() -> None:
    one = sampler(Flaky(8, broken=range(8)), 4)
    with pytest.raises(DataError, match=r"step 0: 20 images .*'image \d' \(broken: why\)"):
        one.draw(0)
    one.close()


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"a batch of 9 images .* only 8 can be used"):
        sampler(Flaky(8), 9)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 8 images cannot be shared by 3 processes"):
        sampler(Flaky(8), 8, world=3)


def test_images_in_memory_are_read_when_they_are_drawn() -> None:
    class Counted(MemoryImages):
        read_rows = 0

        def read(self, indices: Sequence[int]) -> ImageBatch:
            self.read_rows += len(indices)
            return super().read(indices)

    images = Counted(
        torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 2, 2), name="x",
        split="all", fingerprint="x",
    )  # fmt: skip
    one = sampler(images, 4)
    step = one.draw(0)
    one.close()
    assert images.read_rows == 4  # not those of the next step, in another thread
    assert step.pixels[:, 0, 0, 0].tolist() == step.samples.tolist()


def test_images_stay_where_they_are_if_there_is_no_gpu() -> None:
    images = MemoryImages(
        torch.zeros(8, 3, 2, 2, dtype=torch.uint8), name="x", split="all", fingerprint="x"
    )
    assert resident(images, torch.device("cpu")) is images


def test_images_that_fit_move_as_bytes_and_leave_the_set_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = MemoryImages(
        torch.zeros(8, 3, 2, 2, dtype=torch.uint8), name="x", split="all", fingerprint="x"
    )
    module = sys.modules["empssl.data.in_memory"]  # the package has the function by that name
    monkeypatch.setattr(module, "has_room", lambda size, device: size <= 96)
    moved = resident(images, torch.device("meta"))
    assert isinstance(moved, MemoryImages)
    assert (moved.pixels.device.type, moved.pixels.dtype) == ("meta", torch.uint8)
    assert images.pixels.device.type == "cpu"
    monkeypatch.setattr(module, "has_room", lambda size, device: size <= 95)
    assert resident(images, torch.device("meta")) is images
