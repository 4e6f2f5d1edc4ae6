"""Images that a program holds as objects are used as the same images in a folder are."""

import html
import os
import re
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image as Pillow
from tiny import SETTINGS, metrics
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import empssl
from empssl import cli
from empssl.data import DATASETS, BadSamples, ImageSet, MemoryImages, images_from, open_images
from empssl.data.objects import is_recorded_object
from empssl.errors import DataError, UsageError
from empssl.evaluation.embed import embed
from empssl.evaluation.evaluate import evaluate
from empssl.evaluation.examine import examine
from empssl.objectives import EMP
from empssl.reports.run_report import report
from empssl.runs.run import Run
from empssl.training.train import train

COUNT = 40
OPTIONS: dict[str, Any] = SETTINGS | {"epochs": 1.0, "image_side": 16}
ANIMALS = ["ant", "bee", "cow", "dog"]
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 20, 18, 3)).astype(np.uint8)
PIXELS[:, :9] //= 1 + np.arange(COUNT, dtype=np.uint8)[:, None, None, None] % 4 * 20
LABELS = [index % 4 for index in range(COUNT)]
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


class Samples(Dataset[Any]):
    """A data set of PyTorch, of whatever `item` makes of an index."""

    def __init__(self, item: Callable[[int], Any], count: int = COUNT, **attributes: Any) -> None:
        self.item, self.count, self.reads = item, count, 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.item(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(PIXELS)


class Image:
    """What a column of images is declared in `features` of Hugging Face."""


class ClassLabel:
    names = ANIMALS


class Columns:
    """As much of a Hugging Face Dataset as is used."""

    def __init__(self, format: str | None = "torch", **columns: Any) -> None:  # noqa: A002
        self.columns, self.format = columns, format
        kinds = {"image": Image(), "label": ClassLabel()}
        self.features = {name: kinds.get(name) for name in columns}

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def with_format(self, kind: str | None) -> "Columns":
        return Columns(kind, **self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        assert self.format is None, "its format would be a user's own"
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def pillow(index: int) -> Pillow.Image:
    return Pillow.fromarray(PIXELS[index])


def png(index: int) -> bytes:
    data = BytesIO()
    pillow(index).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as files, in the order of their numbers."""
    root = tmp_path_factory.mktemp("images") / "photos"
    root.mkdir()
    for index in range(COUNT):
        (root / f"{index:03d}.png").write_bytes(png(index))
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return train(folder, out=folder.parent / "run", **OPTIONS)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


KINDS: dict[str, Callable[[Path], Any]] = {
    "a path": lambda folder: folder,
    "array": lambda folder: PIXELS,
    "array and labels": lambda folder: (PIXELS, LABELS),
    "array of floats": lambda folder: PIXELS.astype(np.float32) / 255,
    "tensor": lambda folder: CHANNELS_FIRST,
    "list of paths": files,
    "tuple of text": lambda folder: tuple(map(str, files(folder))),
    "array of text": lambda folder: np.array(list(map(str, files(folder)))),
    "list of PIL images": lambda folder: [pillow(index) for index in range(COUNT)],
    "list of bytes": lambda folder: [png(index) for index in range(COUNT)],
    "list of arrays": lambda folder: list(PIXELS),
    "data set of PIL images": lambda folder: Samples(pillow),
    "data set of arrays and labels": lambda folder: Samples(
        lambda index: (PIXELS[index], LABELS[index])
    ),
    "data set of tensors": lambda folder: TensorDataset(CHANNELS_FIRST),
    "data set of floats": lambda folder: TensorDataset(CHANNELS_FIRST / 255, torch.tensor(LABELS)),
    "Hugging Face, decoded": lambda folder: Columns(
        image=[pillow(index) for index in range(COUNT)], label=LABELS
    ),
    "Hugging Face, encoded": lambda folder: Columns(
        image=[{"bytes": png(index), "path": None} for index in range(COUNT)]
    ),
    "image set": lambda folder: open_images(str(folder), split="all", side=16),
    "image set in memory": lambda folder: MemoryImages(
        open_images(str(folder), split="all", side=16).read(range(COUNT)).pixels,
        name="photos", split="all", fingerprint="photos",
    ),
}  # fmt: skip


# The same images


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_same_images_in_a_folder(kind: str, folder: Path) -> None:
    expected = open_images(str(folder), split="all", side=16).read(range(COUNT)).pixels
    images = open_images(KINDS[kind](folder), split="auto", side=16)
    assert (len(images), images.split) == (COUNT, "all")
    found = images.read(range(COUNT))
    assert found.valid.all()
    assert torch.equal(found.pixels, expected)


@pytest.mark.parametrize(
    "kind", ["array", "list of paths", "data set of arrays and labels", "Hugging Face, decoded"]
)
def test_losses_and_embeddings_are_those_of_the_same_images_in_a_folder(
    kind: str, folder: Path, run: Path, tmp_path: Path
) -> None:
    data = KINDS[kind](folder)
    other = train(data, out=tmp_path / "run", **OPTIONS)
    assert metrics(other) == metrics(run)
    found, expected = (
        pq.read_table(embed(run, given, out=tmp_path / name))
        for given, name in ((data, "a.parquet"), (str(folder), "b.parquet"))
    )
    assert found["embedding"].equals(expected["embedding"])
    assert found["trained_on"].to_pylist() == [True] * COUNT
    names = list(map(str, files(folder))) if kind == "list of paths" else list(map(str, range(40)))
    assert found["name"].to_pylist() == names


def test_gray_images_are_those_of_gray_files(tmp_path: Path) -> None:
    for index in range(3):
        Pillow.fromarray(PIXELS[index, ..., 0]).save(tmp_path / f"{index}.png")
    expected = open_images(str(tmp_path), split="all", side=12).read(range(3)).pixels
    for gray in (PIXELS[:3, ..., 0], PIXELS[:3, ..., :1], CHANNELS_FIRST[:3, :1]):
        assert torch.equal(images_from(gray, side=12).read(range(3)).pixels, expected)


def test_arrays_of_16_bits_are_read_by_the_depth_of_the_set_as_files_are(tmp_path: Path) -> None:
    deep = PIXELS[:3, ..., 0].astype(np.uint16) * 16
    for index, values in enumerate(deep):
        Pillow.fromarray(values).save(tmp_path / f"{index}.png")
    files, array = open_images(str(tmp_path), split="all", side=12), images_from(deep, side=12)
    assert array.decoding == files.decoding
    assert array.decoding.limits == (0, 4095)
    assert torch.equal(array.read(range(3)).pixels, files.read(range(3)).pixels)


def test_the_side_is_that_of_files_or_of_an_image_set_by_default() -> None:
    assert images_from(PIXELS).side == 64
    small = images_from(PIXELS, side=12)
    assert images_from(small).side == 12
    assert images_from(small, side=8).read([0]).pixels.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("side", [0, 5000])
def test_a_side_that_no_image_may_have_is_refused(side: int) -> None:
    with pytest.raises(UsageError, match=f"side is {side}, and must be 1 to 4,096 pixels"):
        images_from(PIXELS, side=side)


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    Path("digits/1.png").write_bytes(png(0))
    assert len(open_images(Path("digits"), split="all")) == 1


# Labels and splits


LABELED: dict[str, Callable[[], Any]] = {
    "array": lambda: (PIXELS, [ANIMALS[label] for label in LABELS]),
    "data set of pairs": lambda: Samples(lambda i: (PIXELS[i], ANIMALS[LABELS[i]])),
    "data set that declares them": lambda: Samples(
        lambda i: (PIXELS[i], LABELS[i]), targets=torch.tensor(LABELS), classes=ANIMALS
    ),
    "Hugging Face": lambda: Columns(image=[pillow(i) for i in range(COUNT)], label=LABELS),
    "image set": lambda: MemoryImages(
        images_from(PIXELS, side=16).read(range(COUNT)).pixels, name="x", split="all",
        fingerprint="x", labels=torch.tensor(LABELS), class_names=ANIMALS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LABELED)
def test_labels_come_along_and_divide_what_has_them(kind: str) -> None:
    data = LABELED[kind]()
    parts = {split: open_images(data, split=split, side=16) for split in ("all", "train", "test")}
    assert parts["all"].class_names == tuple(ANIMALS)
    assert parts["all"].labels is not None
    assert parts["all"].labels.tolist() == LABELS
    names = {s: [part.sample_name(i) for i in range(len(part))] for s, part in parts.items()}
    assert sorted(names["train"] + names["test"], key=names["all"].index) == names["all"]
    assert 0 < len(names["test"]) < len(names["train"])
    for split in ("train", "test"):
        rows = [names["all"].index(name) for name in names[split]]
        assert parts[split].labels.tolist() == [LABELS[row] for row in rows]  # type: ignore[union-attr]
        pixels = parts[split].read(range(len(rows))).pixels
        assert torch.equal(pixels, parts["all"].read(rows).pixels)
    assert len({part.fingerprint for part in parts.values()}) == 3


def test_labels_that_a_data_set_declares_are_read_from_it_only_where_they_are_wrong() -> None:
    declared = Samples(lambda i: (PIXELS[i], LABELS[i]), 400, targets=[0, 1, 2, 3] * 100)
    declared.item = lambda i: (PIXELS[i % COUNT], LABELS[i % COUNT])
    images_from(declared, side=8)
    assert declared.reads < 300
    changed = Samples(lambda i: (PIXELS[i], 3 - LABELS[i]), targets=LABELS)
    labels = images_from(changed, side=8).labels
    assert labels is not None
    assert labels.tolist() == [3 - label for label in LABELS]


def test_what_is_no_class_is_no_label() -> None:
    boxes = Samples(lambda i: (PIXELS[i], {"boxes": [1, 2]}))
    heights = Samples(lambda i: (PIXELS[i], 0.5))
    assert images_from(boxes).labels is images_from(heights).labels is None
    unlabeled = images_from((PIXELS, [None, float("nan"), *LABELS[2:]])).labels
    assert unlabeled is not None
    assert unlabeled.tolist() == [-1, -1, *LABELS[2:]]


def test_without_labels_train_is_all_and_there_is_no_test() -> None:
    assert len(open_images(PIXELS, split="train")) == COUNT
    with pytest.raises(DataError, match=r"<array of 40 images> has no test split.*Give labels"):
        open_images(PIXELS, split="test")


def test_a_data_set_with_labels_is_scored(tiny_run: Path) -> None:
    scored = evaluate(tiny_run, LABELED["data set of pairs"](), probes=("knn",), baselines=False)
    assert scored.dataset == "<Samples of 40 images>"
    counts = {split: part.used for split, part in scored.images.items()}
    assert sum(counts.values()) == COUNT
    assert scored.protocol["transfer"]
    assert scored.images["test"].trained_on == 0


def test_paths_with_labels_score_as_the_same_folder_of_classes(
    tiny_run: Path, tmp_path: Path
) -> None:
    paths, labels = [], []
    for index in range(COUNT):
        path = tmp_path / "photos" / ANIMALS[index % 4] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
        paths.append(path)
        labels.append(path.parent.name)
    order = sorted(range(COUNT), key=lambda at: paths[at])
    pair = ([paths[at] for at in order], [labels[at] for at in order])
    options: dict[str, Any] = {"probes": ("knn", "linear"), "baselines": False}
    by_list, by_folder = (evaluate(tiny_run, d, **options) for d in (pair, tmp_path / "photos"))
    assert by_list.results == by_folder.results


def test_scores_of_the_object_that_trained_are_no_transfer(tmp_path: Path) -> None:
    pair = (PIXELS, LABELS)
    run = train(pair, out=tmp_path / "run", split="train", **OPTIONS)
    scored = evaluate(run, pair, probes=("knn",), baselines=False)
    assert not scored.protocol["transfer"]
    assert scored.images["train"].trained_on == scored.images["train"].used
    assert scored.images["test"].trained_on == 0


# Bad images


def test_what_cannot_be_read_is_a_bad_image_as_with_files(run: Path, tmp_path: Path) -> None:
    def item(index: int) -> Any:
        if index == 3:
            raise OSError("the disk is on fire")
        return None if index == 5 else PIXELS[index]

    table = pq.read_table(embed(run, Samples(item), out=tmp_path / "a.parquet"))
    assert [i for i, valid in enumerate(table["valid"].to_pylist()) if not valid] == [3, 5]
    listed = (tmp_path / "a.bad_samples.jsonl").read_text()
    assert "OSError: the disk is on fire" in listed
    assert "image 5 is None" in listed


def test_bad_images_are_named_in_the_part_that_has_them() -> None:
    def item(index: int) -> Any:
        return (None if index % 10 == 7 else PIXELS[index]), LABELS[index]

    found = []
    for split in ("train", "test"):
        images = open_images(Samples(item), split=split, side=8)  # type: ignore[arg-type]
        for bad in images.read(range(len(images))).bad:
            assert images.sample_name(bad.index) == bad.name
            found.append(bad.name)
    assert sorted(found) == ["17", "27", "37", "7"]


def test_more_bad_images_than_may_be_end_a_run(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(20)]
    for path in paths[::2]:
        path.write_bytes(png(0))
    assert BadSamples(None, 20).budget < 10
    with pytest.raises(DataError, match=r"5 of 20 images cannot be used.*at most 4(?s:.*)vanished"):
        train(paths, out=tmp_path / "run", **OPTIONS)


def test_floats_of_another_range_are_told_and_can_be_given_one() -> None:
    normalized = PIXELS.astype(np.float32) / 64 - 2
    with pytest.raises(DataError, match=r"no usable image in '<array.*ambiguous-range \(floats fr"):
        images_from(normalized)


# Fingerprints, and what a run records


def test_a_fingerprint_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    changed = PIXELS.copy()
    changed[17, 3, 4, 1] ^= 1
    prints = [images_from(data).fingerprint for data in (PIXELS, PIXELS.copy(), changed)]
    assert prints[0] == prints[1] != prints[2]
    assert images_from(PIXELS[::-1]).fingerprint != prints[0]
    assert images_from(Samples(lambda i: PIXELS[i])).fingerprint != (
        images_from(Samples(lambda i: changed[i])).fingerprint
    )
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in files(folder):
        os.link(file, moved / file.name)
    one, other = (images_from(files(at)) for at in (folder, moved))
    assert one.fingerprint == other.fingerprint != images_from(files(folder)[1:]).fingerprint


def test_a_run_records_a_plain_string_and_is_resumed_with_the_same_object(tmp_path: Path) -> None:
    run = train(PIXELS, out=tmp_path / "run", **OPTIONS)
    config = (run / "config.yaml").read_text()
    assert "data: <array of 40 images>\n" in config
    assert is_recorded_object(Run(run).config["data"])
    assert Run(run).plan["data_path"] is None
    train(PIXELS.copy(), out=run, resume=True)
    assert (run / "config.yaml").read_text() == config
    with pytest.raises(DataError, match=r"<array of 40 images> are not those .* give the same obj"):
        train(PIXELS[::-1], out=run, resume=True)
    train(list(PIXELS), out=run, resume=True)  # which holds the same images
    with pytest.raises(DataError, match="another kind of object"):
        train(Samples(pillow), out=run, resume=True)
    with pytest.raises(UsageError, match="'digits' is data of another kind"):
        train("digits", out=run, resume=True)


def test_a_run_on_a_folder_is_not_resumed_with_an_object(run: Path) -> None:
    with pytest.raises(UsageError, match="<array of 40 images> is data of another kind"):
        train(PIXELS, out=run, resume=True)


def test_images_that_no_run_keeps_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(PIXELS, out=tmp_path / "run", **OPTIONS)
    asked = r"trained on <array of 40 images>.*pass the same images as `data`"
    with pytest.raises(DataError, match=asked):
        examine(run)
    page = report(run).read_text()
    assert "pass the same images as `data`" in page
    measured = examine(run, data=PIXELS, images=12, views=2, random=False)
    assert measured.dataset == "<array of 40 images>"
    assert cli.main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "x"),
                     "<array of 40 images>"]) == 3  # fmt: skip
    assert "given by a program as an object" in capsys.readouterr().err


def test_the_command_line_takes_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse("examine", examine, ["--help"])
    assert "--data TEXT" in capsys.readouterr().out
    assert cli.parse("examine", examine, ["run", "--data", "[a, b]"])[0]["data"] == "[a, b]"


# What is refused


@pytest.mark.parametrize("data", [PIXELS, ["a.png", "b.png"]])
def test_other_processes_cannot_be_told_of_an_object(data: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"data is <\w+ of \d+ images>, which cannot be told to .*torchrun"
    ):
        train(data, out=tmp_path / "run", devices=2, **OPTIONS)
    assert not (tmp_path / "run").exists()


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a number": (3, UsageError, "data is of type int; expected a path or the name"),
    "nothing": (None, UsageError, "data is None; expected"),
    "a mapping": ({"train": PIXELS}, UsageError, "of type dict.*Give one of its values: 'train'"),
    "one image": (PIXELS[0], UsageError, r"shape \(20, 18, 3\).*which is that of one image"),
    "channels first": (PIXELS.transpose(0, 3, 1, 2), UsageError, r"transpose\(0, 2, 3, 1\)"),
    "channels last": (torch.from_numpy(PIXELS), UsageError, r"permute\(0, 3, 1, 2\)"),
    "complex numbers": (PIXELS.astype(np.complex64), UsageError, "type complex64; expected uint8"),
    "no images": (PIXELS[:0], DataError, "<array of 0 images>: there is nothing to read"),
    "an empty list": ([], DataError, "<list of 0 images>"),
    "a list of numbers": ([1, 2, 3], UsageError, "image 0 is of type int; expected a path"),
    "open files": ([BytesIO(b"")], UsageError, "image 0 is an open file.*its path or its bytes"),
    "too few labels": ((PIXELS, [1, 2]), UsageError, "with 2 labels; give one label for each"),
    "labels of no class": ((PIXELS[:2], [1, 0.5]), UsageError, "label 1 is 0.5; expected a whole"),
    "negative labels": ((PIXELS[:2], [1, -3]), UsageError, "label 1 is -3; expected 0 or more"),
    "a loader": (DataLoader(Samples(pillow)), UsageError, r"DataLoader.*give its data set"),
    "a stream": (Stream(), UsageError, "a Stream, which has no length.*map-style"),
    "a data set of text": (Samples(lambda i: {"image": 1}), UsageError, "image 0 is of type dict"),
    "a data set that fails": (
        Samples(lambda i: 1 / 0), DataError, "no usable image in '<Samples.*ZeroDivisionError"
    ),
    "columns without images": (Columns(text=["a"]), UsageError, r"no image column.*found text"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused_with_what_was_given_and_expected(case: str) -> None:
    data, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        open_images(data, split="all")


def test_splits_of_a_hugging_face_data_set_are_given_one_by_one() -> None:
    class Splits(dict[str, Columns]):
        column_names = features = {"train": ["image"]}  # noqa: RUF012

    with pytest.raises(UsageError, match=r"a Splits with 'train'; .*such as data\['train'\]"):
        images_from(Splits(train=Columns(image=[])))


def test_embeddings_in_files_are_not_scored_against_an_object(run: Path, tmp_path: Path) -> None:
    file = embed(run, LABELED["array"](), out=tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"holds embeddings, and data is <array of 40 images>"):
        evaluate(file, PIXELS)


def test_the_example_in_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    shown = re.search(r"# (<.*)$", example, re.MULTILINE)
    assert shown is not None
    assert capsys.readouterr().out == f"{shown[1]}\n"
    assert Path("photos.parquet").exists()


def test_public_names_are_those_of_the_documentation() -> None:
    import empssl.data

    assert {"DATASETS", "ImageSet", "MemoryImages", "images_from", "open_images"} <= {
        *empssl.data.__all__
    }
    assert DATASETS["digits"].open(split="test", side=8).side == 8
    assert isinstance(images_from(PIXELS), ImageSet)


def test_thumbnails_of_a_data_set_are_had_by_the_thread_that_reads_it() -> None:
    """Its images may hang on what only that thread has, such as an open file."""
    threads = set()

    def item(index: int) -> np.ndarray:
        threads.add(threading.get_ident())
        return PIXELS[index]

    images = images_from(Samples(item), side=16)
    assert len([found for found in images.thumbnails(range(6), 16) if found is not None]) == 6
    assert threads == {threading.get_ident()}


# What to do next


def test_a_run_on_an_object_is_shown_with_that_object(tmp_path: Path) -> None:
    run = train(PIXELS, out=tmp_path / "run", **OPTIONS)
    labeled = (PIXELS, LABELS)
    evaluate(run, labeled, probes=["ridge"], crops=["whole"], baselines=False)
    page = report(run, data=labeled, images=30).read_text()
    assert '<meta name="shows" content="images weights">' in page
    assert "neighbors below have the class of their image" in " ".join(page.split())
    with pytest.raises(DataError, match="is kept, as a new report could not"):
        report(run)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.net(images)
        return made


def test_what_to_do_next_with_objects_is_said_in_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own: dict[str, Any] = {"backbone": Tiny(), "objective": EMP()}
    run = train(PIXELS, out=tmp_path / "run", **OPTIONS | own)
    said = capsys.readouterr().err
    assert f'next: empssl.report("{run}", data=..., backbone=...)\n' in said
    assert "array of 40" not in said.partition("next: ")[2]
    page = html.unescape(report(run, data=PIXELS, images=8, backbone=Tiny()).read_text())
    calls = re.findall(r"<code>(empssl.*?)</code>", page)
    assert calls == [
        f'empssl.examine("{run}", data=..., backbone=...)',
        f'empssl.train(**yaml.safe_load(Path("{run}/config.yaml").read_text()) | '
        f'dict(out="{run}-again", data=..., backbone=..., objective=...))',
    ]
    for name in ("backbone", "objective"):
        calls[1] = calls[1].replace(f"{name}=...", f"{name}=own['{name}']")
    own = {"backbone": Tiny(), "objective": EMP()}
    names = {"empssl": empssl, "yaml": yaml, "Path": Path, "own": own}
    eval(calls[1].replace("data=...", "data=pixels"), names | {"pixels": PIXELS})
    kept = [(at / "config.yaml").read_text() for at in (run, Path(f"{run}-again"))]
    assert kept[0] == kept[1]


def test_what_to_do_next_with_paths_is_said_for_a_shell(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, out=tmp_path / "run", **OPTIONS)
    assert f"next: empssl report {run}\n" in capsys.readouterr().err
