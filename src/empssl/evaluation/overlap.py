"""What of the images that are scored the encoder was trained on."""

from dataclasses import dataclass
from pathlib import Path

from empssl.data import MemoryImages, open_images
from empssl.data.duplicates import listed, nearly_listed
from empssl.data.objects import GivenImages
from empssl.errors import DataError
from empssl.runs.run import Run

# Below this share, two data sets are two all the same: of CIFAR-100's 10,000 test images, CIFAR-10
# has two.
_SHARED_BY_CHANCE = 0.001


@dataclass(frozen=True)
class Overlap:
    """Images that a run was trained on, among those of an evaluation.

    Attributes:
        train: how many of the train images; None where the run does not say which it was
            trained on, as those of versions before do not.
        test: how many of the test images, likewise.
        near: how many of the other test images nearly equal one of its images; None where that was
            not asked for either.
        transfer: whether these are other data than those of training.
        familiar: whether all train images are among those of training, or may well be.
        saw_test: whether test images are among those of training, as far as can be told.
    """

    train: int | None
    test: int | None
    near: int | None
    transfer: bool
    familiar: bool
    saw_test: bool

    @classmethod
    def of(
        cls,
        run: Run,
        data: str | GivenImages,
        test_data: str | GivenImages | None,
        train: MemoryImages,
        test: MemoryImages,
        *,
        data_dir: str | Path | None,
        near_copies: bool,
    ) -> "Overlap":
        """Compare by what the images show, or else by what the data are called.

        Args:
            run: which was trained.
            data: as `evaluate` was given it.
            test_data: as `evaluate` was given it.
            train: images that probes learn from, of the encoder's side.
            test: images that they are scored on.
            data_dir: where a data set known by name lies.
            near_copies: whether to look for those too.
        """
        known, config = run.trained_images, run.config
        unchanged = run.plan.get("fingerprint") == train.fingerprint
        same = unchanged or _is_called_so(run, data, data_dir)
        held = None if known is None else listed(train.pixels, known.rows)
        if known is None or held is None or (unchanged and not held.any()):
            # In the last case another decoder was at work: the files are those of training.
            same = same or _same_files(run, data, data_dir)
            familiar, saw_test = same, same and config["split"] == "all"
            if test_data is not None:  # then all images are train, and all of these test
                familiar, saw_test = unchanged or saw_test, _same_files(run, test_data, data_dir)
            other = not (same or (test_data is not None and saw_test))
            return cls(None, None, None, other, familiar=familiar, saw_test=saw_test)
        seen = listed(test.pixels, known.rows)
        near = int((nearly_listed(test.pixels, known.rows) & ~seen).sum()) if near_copies else None
        both = int(held.sum()) + int(seen.sum())
        strange = both <= _SHARED_BY_CHANCE * (len(train) + len(test))
        return cls(
            int(held.sum()), int(seen.sum()), near,
            # Of a set that did not fit in memory, a few steps have drawn few images.
            transfer=strange and (known.whole or not same),
            familiar=bool(held.all()) if known.whole else same,
            saw_test=bool(seen.any()),
        )  # fmt: skip


def _is_called_so(run: Run, data: str | GivenImages, data_dir: str | Path | None) -> bool:
    if isinstance(data, GivenImages):
        return _same_files(run, data, data_dir)
    return _same_place(run.config["data"], data)


def _same_place(trained: str, data: str) -> bool:
    return trained == data or Path(trained).resolve() == Path(data).resolve()


def _same_files(run: Run, data: str | GivenImages, data_dir: str | Path | None) -> bool:
    """Whether the data are those of training by names and sizes."""
    try:
        images = open_images(
            data, split=run.config["split"], data_dir=data_dir, side=run.plan.get("image_side"),
            division=run.division,
        )  # fmt: skip
    except DataError:
        return False
    return images.fingerprint == run.plan.get("fingerprint")
