"""Where a run's images are: as it was typed, where that led to, or where somebody says by now.

Where they are is no setting. Images are those of a run if their fingerprint is, which knows names
and sizes below a folder, but not where the folder is.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from empssl.data.base import ImageSet
from empssl.data.objects import GivenImages, ImagesLike, is_recorded_object
from empssl.data.open import DATASETS, is_name, open_images, resolve_data
from empssl.data.value_range import Decoding
from empssl.errors import DataError, UsageError
from empssl.runs.run import Run
from empssl.types import Split

PLACE = ("data_path", "data_dir")  # in plan.json: where the images were when they were last read


def data_location(data: str | GivenImages, data_dir: str | Path | None) -> dict[str, str | None]:
    """What leads to the same images from any working directory: `PLACE`, for plan.json.

    Nothing leads to images that a program gave as an object.
    """
    if isinstance(data, GivenImages):
        return {"data_path": None, "data_dir": None}
    if not is_name(data) or not DATASETS[data.partition(":")[0]].needs_files:
        return {"data_path": data if is_name(data) else _absolute(data), "data_dir": None}
    name, colon, listed = data.partition(":")
    path = name + colon + (_absolute(listed) if listed else "")
    return {"data_path": path, "data_dir": _absolute(data_dir or "data")}


def check_same_kind(run: Run, data: str | GivenImages) -> None:
    """See that these may be the images that a run began with, before they are opened.

    Raises:
        UsageError: an object in place of a name or path, or the other way round; a data set known
            by name in place of another one, or of a path; or another path than that of a run that
            ended before it wrote down which images it found there.
    """
    before = run.config["data"]
    if isinstance(data, GivenImages) != is_recorded_object(before):
        what = data if isinstance(data, GivenImages) else f"'{data}'"
        raise UsageError(
            f"{run.path} was begun on {before}, and {what} is data of another kind; a resumed run "
            "keeps its images: give it the same data, or start a new run with another --out"
        )
    if isinstance(data, GivenImages):
        return  # which images they are is known by their fingerprint alone
    named = is_name(data) or is_name(before)
    if data != before and named:
        raise UsageError(
            f"{run.path} was begun on '{before}', and '{data}' is another data set; a resumed run "
            "keeps its images: give it the same data, or start a new run with another --out"
        )
    if not named and "fingerprint" not in run.plan and _absolute(data) != _absolute(before):
        raise UsageError(
            f"{run.path} ended before it wrote down which images it found at '{before}', so that "
            f"nobody knows whether those at '{data}' are the same; nothing is lost if it is begun "
            "again, with --overwrite"
        )


def check_fingerprint(run: Run, data: str | GivenImages, images: ImageSet) -> None:
    """See that images are those that a run began with, wherever they are now.

    Raises:
        DataError: they are not.
    """
    if images.fingerprint == run.plan.get("fingerprint", images.fingerprint):
        return
    before = run.plan.get("data_path") or run.config["data"]
    if isinstance(data, GivenImages):
        raise DataError(
            f"the images of {data} are not those that {run.path} was started on, {before}: an "
            "image, their number or their order differs, or they come as another kind of object; "
            "give the same object, or start a new run"
        )
    if is_name(data) or data_location(data, None)["data_path"] == _absolute(before):
        raise DataError(
            f"{data} has changed since {run.path} was started; restore the images, or start a new "
            "run"
        )
    raise DataError(
        f"the images at {data} are not those that {run.path} was started on, which were at "
        f"{before}: a name, a size or their number differs; give the same images, wherever they "
        "are now, or start a new run"
    )


def open_run_images(
    run: Run,
    *,
    data: ImagesLike | None = None,
    data_dir: str | Path | None = None,
    split: Split | None = None,
    side: int | None = None,
    decoding: Decoding | None = None,
) -> ImageSet:
    """The images that a run was trained on, or others that are asked for.

    They are looked for where they were typed, then where that led to when the run last read them.
    Those with the run's fingerprint come first: another working directory may hold a folder of the
    same name. Wherever they are, they are called as the run calls them.

    Args:
        run: that has a configuration.
        data: where images are, as in `train`; nothing else is tried then.
        data_dir: where a data set known by name is.
        split: train, test or all; that of the run by default.
        side: pixels.
        decoding: how files become 8-bit images; as the run did by default.

    Raises:
        DataError: there are none at any of these places; says how to name one.
    """
    config, plan = run.config, run.plan
    asked, wanted = split or config["split"], plan.get("fingerprint")
    options: dict[str, Any] = {
        "side": side,
        "division": run.division,
        "decoding": decoding or Decoding.recorded(plan.get("decoding", {})),
    }
    if data is None and is_recorded_object(config["data"]):
        raise DataError(
            f"{run.path} was trained on {config['data']}, which a program gave as an object and no "
            "run keeps; pass the same images as `data`, or say where they are with --data"
        )
    if data is not None:
        data = resolve_data(data)
    places: list[tuple[str | GivenImages, str | Path | None]] = [*_places(config, plan, data_dir)]
    failed: list[str] = []
    if data is not None:
        places = [(data, data_dir or (config["data_dir"] if data == config["data"] else None))]
    found: tuple[tuple[str | GivenImages, str | Path | None], ImageSet] | None = None
    for where in places:
        try:
            images = open_images(where[0], split=config["split"], data_dir=where[1], **options)
        except DataError as error:
            if data is not None:
                raise
            failed.append(str(error))
            continue
        if found is None or images.fingerprint == wanted:
            found = where, images
        if wanted in (None, images.fingerprint):
            break
    if found is None:
        raise DataError(
            f"the images of {run.path} are not where they were ({'; '.join(failed)}); say where "
            "they are now with --data"
        )
    (name, folder), images = found
    own = images.fingerprint == wanted
    if asked != config["split"]:
        images = open_images(name, split=asked, data_dir=folder, **options)
    if own:
        images.name = config["data"]
    return images


def known_data_dir(run: Run) -> str | None:
    """Where the data set known by name is that a run was begun on, if that is known."""
    typed: str | None = run.config.get("data_dir")
    last: str | None = run.plan.get("data_dir")
    if typed is not None and not Path(typed).expanduser().is_dir():
        return last or typed
    return typed or (None if Path("data").is_dir() else last)


def _places(
    config: dict[str, Any], plan: dict[str, Any], data_dir: str | Path | None
) -> Iterator[tuple[str, str | Path | None]]:
    """Where a run's images may be: the data, and the folder of a data set known by name."""
    typed = (config["data"], data_dir or config["data_dir"])
    yield typed
    path, folder = (plan.get(key) for key in PLACE)
    if path is None:  # of a run that did not write it down
        return
    last = (path, data_dir or folder)
    if data_location(*last) != data_location(*typed):
        yield last


def _absolute(path: str | Path) -> str:
    return os.path.abspath(Path(path).expanduser())
