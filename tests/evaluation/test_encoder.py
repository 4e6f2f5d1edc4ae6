import io
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encoded
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import start, weights

from empssl.data.any_image import each_image
from empssl.data.decode import decode
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation import encoder as encoder_module
from empssl.evaluation.embed import embed
from empssl.evaluation.encoder import Encoder
from empssl.runs import checkpoint


@pytest.fixture(scope="module")
def encoder(tiny_run: Path) -> Encoder:
    return Encoder.from_pretrained(tiny_run)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, (height, width) in zip(
        paths, [(16, 16), (20, 16), (16, 33), (8, 8), (50, 40)], strict=True
    ):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def model(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be spoiled."""
    return Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))


def test_embedding_needs_no_compiler(tiny_run: Path) -> None:
    """Its import takes as long as torch's own."""
    code = (
        "import sys, numpy; from empssl import Encoder\n"
        f"encoder = Encoder.from_pretrained({str(tiny_run)!r}, device='cpu')\n"
        "encoder.encode(numpy.zeros((16, 16, 3), dtype=numpy.uint8))\n"
        "print({'torch._dynamo', 'lightning_fabric', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_an_encoder_is_shown_in_a_line(encoder: Encoder) -> None:
    assert repr(encoder) == (
        f"<Encoder {encoder.identity[:12]}: images of {encoder.image_side} px, "
        f"{encoder.dim('backbone')} features at backbone, {encoder.dim('head')} at head>"
    )


def spoil(model: Path, **changes: torch.Tensor) -> None:
    """Change tensors by name, and seal the folder again."""
    path = model / "model.safetensors"
    save_file(load_file(path) | {k.replace("__", "."): v for k, v in changes.items()}, path)
    reseal(model)


def reseal(model: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["sha256"] = {name: checkpoint._digest(model / name) for name in manifest["sha256"]}
    (model / "manifest.json").write_text(json.dumps(manifest))


# Images in, embeddings out


def test_the_kind_of_input_does_not_matter(encoder: Encoder, files: list[Path]) -> None:
    opened = [decode(path) for path in files]
    arrays = [np.asarray(image) for image in opened]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    expected = encoder.encode(files)
    for images in ([str(path) for path in files], opened, arrays, tensors):
        assert torch.equal(encoder.encode(images), expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "I;16", "CMYK", "1"])
def test_an_opened_image_is_converted_as_its_file_is(
    mode: str, encoder: Encoder, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (16, 16, 4), dtype=np.uint8))
    image = Image.fromarray(np.asarray(color.convert("L")).astype(np.uint16) * 257)
    if mode != "I;16":
        image = color if mode == "RGBA" else color.convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    assert torch.equal(encoder.encode(image), encoder.encode(path))


def test_rows_are_in_the_order_of_the_images(encoder: Encoder, files: list[Path]) -> None:
    together = encoder.encode(files)
    alone = torch.cat([encoder.encode(path) for path in files])
    assert together.shape == (5, 16)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-2 * float(alone.abs().max()))
    distances = torch.cdist(together, alone)
    assert distances.argmin(1).tolist() == [0, 1, 2, 3, 4]


def test_one_image_makes_one_row(encoder: Encoder, files: list[Path]) -> None:
    image = np.asarray(decode(files[0]))
    for one in (files[0], str(files[0]), image, torch.from_numpy(image.copy()).permute(2, 0, 1)):
        assert encoder.encode(one).shape == (1, 16)


def test_layers_have_their_widths(encoder: Encoder, files: list[Path]) -> None:
    assert encoder.encode(files, layer="backbone").shape == (5, 32)
    assert encoder.encode(files, layer="head").shape == (5, 16)


def test_normalized_rows_have_length_one(encoder: Encoder, files: list[Path]) -> None:
    lengths = encoder.encode(files, layer="backbone", normalize=True).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5))


@pytest.mark.parametrize("crops", ["grid2", "random3", "whole"])
def test_crops_change_the_embedding(crops: str, encoder: Encoder, files: list[Path]) -> None:
    assert not torch.equal(encoder.encode(files, crops=crops), encoder.encode(files))


def test_a_file_that_cannot_be_read_is_named(encoder: Encoder, files: list[Path]) -> None:
    files[2].write_text("no picture")
    with pytest.raises(DataError, match=r"2\.png cannot be read: unreadable"):
        encoder.encode(files)
    with pytest.raises(DataError, match=r"none\.png cannot be read: vanished"):
        encoder.encode("none.png")


PATH = "expected a path"
WHITE = "expected uint8, uint16, or floats from 0 to 1"


@pytest.mark.parametrize(
    ("image", "said", "expected"),
    [
        (None, "is None", PATH),
        (["a.png"], "is a list of 1", PATH),
        ((np.zeros((8, 8, 3), np.uint8), 0), "is a tuple of 2", PATH),
        (7, "is of type int", PATH),
        ({"image": "a.png"}, "is of type dict", PATH),
        (np.uint8(3), "is of type uint8", PATH),
        (io.StringIO("text"), "open as text", "open it with mode 'rb'"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)", PATH),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)", r"transpose\(1, 2, 0\)"),
        (np.zeros((9, 8, 8), np.uint8), r"shape \(9, 8, 8\)", r"x\[..., None\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\)", PATH),
        (np.zeros(8, np.uint8), r"shape \(8,\)", PATH),
        (np.zeros((8, 8), bool), "type bool", WHITE),
        (np.zeros((8, 8), np.int64), "64-bit integers from 0 to 0", WHITE),
        (np.full((8, 8, 3), 255.0), "floats from 255 to 255", WHITE),
        (np.full((8, 8, 3), np.nan), "floats that are not finite", WHITE),
        (torch.full((3, 8, 8), -0.5), "floats from -0.5 to -0.5", WHITE),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"\(8, 8, 3\)", r"permute\(2, 0, 1\)"),
        (torch.zeros(9, 8, 8), r"shape \(9, 8, 8\)", r"x\[:, None\]"),
        (torch.zeros(4, 8, 8), r"shape \(4, 8, 8\)", PATH),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)", "no pixels"),
        (np.zeros((5, 0, 3), np.uint8), r"shape \(5, 0, 3\)", "no pixels"),
        (np.zeros((0, 0), np.uint8), r"shape \(0, 0\)", "no pixels"),
        (torch.zeros(3, 0, 5), r"shape \(3, 0, 5\)", "no pixels"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_what_is_no_image_is_refused_by_its_place(
    image: Any, said: str, expected: str, place: int, encoder: Encoder, files: list[Path]
) -> None:
    images = iter([*files[:place], image])  # whose types the tests do not check
    with pytest.raises(UsageError, match=f"image {place}.*{said}.*{expected}"):
        encoder.encode(images)


@pytest.mark.parametrize("images", [None, 7, {"a": "a.png"}])
def test_what_is_neither_image_nor_iterable_is_refused(images: Any) -> None:
    with pytest.raises(UsageError, match=r"images are .*or an iterable"):
        each_image(images)


def test_bytes_and_open_files_are_as_good_as_their_paths(
    encoder: Encoder, files: list[Path]
) -> None:
    expected = encoder.encode(files)
    content = [path.read_bytes() for path in files]
    for images in (content, map(bytearray, content), map(io.BytesIO, content)):
        assert torch.equal(encoder.encode(images), expected)
    with files[0].open("rb") as file:
        assert torch.equal(encoder.encode(file), encoder.encode(files[0]))
    assert torch.equal(encoder.encode(content[0]), encoder.encode(files[0]))


def test_gray_and_see_through_arrays_are_read_as_their_files_are(
    encoder: Encoder, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, (20, 18, 4), dtype=np.uint8)
    gray = alpha[..., 0]
    deep = gray.astype(np.uint16) * 257
    for array in (gray, gray[..., None], alpha, deep):
        Image.fromarray(array.squeeze()).save(tmp_path / "a.png")
        assert torch.equal(encoder.encode(array), encoder.encode(tmp_path / "a.png"))
    tensor = torch.from_numpy(gray)
    for same in (tensor, tensor[None], gray[..., None].repeat(3, axis=2)):
        assert torch.equal(encoder.encode(same), encoder.encode(gray))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_the_256_levels(kind: type, encoder: Encoder) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (20, 18, 3), dtype=np.uint8)
    floats = (levels / 255).astype(kind)
    expected = encoder.encode(levels)
    assert torch.equal(encoder.encode(floats), expected)
    assert torch.equal(encoder.encode(torch.from_numpy(floats).permute(2, 0, 1)), expected)
    grad = torch.from_numpy(floats).permute(2, 0, 1).requires_grad_()
    assert torch.equal(encoder.encode(grad), expected)


def test_an_encoder_with_a_range_takes_numbers_of_it(tiny_run: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (20, 18), dtype=np.uint8)
    celsius = Encoder.from_pretrained(tiny_run, range=(-20, 40))
    found = celsius.encode((levels / 255 * 60 - 20).astype(np.float32))
    assert torch.equal(found, celsius.encode(levels))


def test_arrays_with_one_dimension_more_are_many_images(encoder: Encoder) -> None:
    many = np.random.default_rng(0).integers(0, 256, (4, 20, 18, 3), dtype=np.uint8)
    expected = encoder.encode(list(many))
    assert torch.equal(encoder.encode(many), expected)
    assert torch.equal(encoder.encode(torch.from_numpy(many).permute(0, 3, 1, 2)), expected)
    assert encoder.encode(many[..., :1]).shape == (4, 16)


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs large enough to be decoded at a part of their size."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        large = small.resize((400, 300), Image.Resampling.BICUBIC)
        noise = rng.integers(-60, 60, (300, 400, 3))
        rough = (np.asarray(large) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(rough).save(folder / f"{number:03d}.jpg", quality=90)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("crops", ["grid3", "random2"])
def test_encode_and_embed_give_the_same_bytes(
    crops: str, encoder: Encoder, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "IMAGES_AT_ONCE", 8)
    monkeypatch.setattr(
        Encoder, "batches",
        lambda self, count: (range(i, min(i + 8, count)) for i in range(0, count, 8)),
    )  # fmt: skip
    paths = photographs(tmp_path / "photos", 20)
    paths[5].write_bytes(paths[5].read_bytes()[:2000])
    out = embed(tiny_run, str(tmp_path / "photos"), out=tmp_path / "z.parquet", crops=crops)
    rows = [row for row in pq.read_table(out)["embedding"].to_pylist() if row is not None]
    with pytest.warns(UserWarning, match=r"1 images cannot be read .*number 5, .*005\.jpg"):
        found = encoder.encode(paths, crops=crops, errors="skip")
    assert torch.equal(found, torch.tensor(rows))


def test_an_iterable_is_taken_batch_by_batch(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "IMAGES_AT_ONCE", 10)
    arrays: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Array(np.ndarray):
        """One that can be referred to weakly."""

    def made() -> Iterator[np.ndarray]:
        nonlocal most
        for number in range(45):
            array = np.full((20, 20, 3), number, np.uint8).view(Array)
            arrays.append(weakref.ref(array))
            most = max(most, sum(ref() is not None for ref in arrays))
            yield array

    batches = encoder.encode_batches(made())
    first = next(batches)
    assert first.index.tolist() == list(range(10))
    assert len([first, *batches]) == 5
    assert most <= 3


def test_a_buffer_that_is_used_again_gives_each_image_its_own_row(encoder: Encoder) -> None:
    levels = list(range(0, 250, 10))
    buffer = np.zeros((20, 20, 3), np.uint8)

    def frames() -> Iterator[np.ndarray]:
        for level in levels:
            buffer[:] = level
            yield buffer

    apart = encoder.encode([np.full((20, 20, 3), level, np.uint8) for level in levels])
    assert torch.equal(encoder.encode(frames()), apart)


def test_images_that_cannot_be_read_are_skipped_where_that_is_asked_for(
    encoder: Encoder, files: list[Path]
) -> None:
    files[0].write_text("no picture")
    files[3].unlink()
    (batch,) = encoder.encode_batches(files, errors="skip")
    assert batch.index.tolist() == [1, 2, 4]
    assert batch.embeddings.shape == (3, 16)
    assert [(bad.index, bad.reason) for bad in batch.bad] == [(0, "unreadable"), (3, "vanished")]
    with pytest.warns(UserWarning, match="2 images cannot be read"):
        assert torch.equal(encoder.encode(files, errors="skip"), batch.embeddings)
    with pytest.raises(DataError, match=r"image 0: .*0\.png cannot be read"):
        encoder.encode(files)
    with pytest.warns(UserWarning, match="1 images cannot be read"):
        assert encoder.encode(files[0], errors="skip").shape == (0, 16)


def test_nothing_but_an_unreadable_image_is_skipped(encoder: Encoder, files: list[Path]) -> None:
    with pytest.raises(UsageError, match="image 1 is None"):
        encoder.encode(iter([files[0], None]), errors="skip")  # type: ignore[list-item]


def test_dark_images_of_16_bits_are_warned_of(encoder: Encoder) -> None:
    dark = np.random.default_rng(0).integers(0, 4096, (20, 18)).astype(np.uint16)
    with pytest.warns(UserWarning, match=r"1 of 1 images .* 16 gray levels .* --range 0 4095"):
        encoder.encode(dark)


FORKED = """
import multiprocessing, sys
import numpy as np, torch
import empssl

torch.set_num_threads(2)
encoder = empssl.Encoder.from_pretrained(sys.argv[1])
images = list(np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8))
encoder.encode(images)
child = multiprocessing.get_context("fork").Process(target=encoder.encode, args=(images,))
child.start()
child.join(60)
print("hangs" if child.is_alive() else child.exitcode)
child.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_encodes(tiny_run: Path) -> None:
    made = start(str(tiny_run), script=FORKED)
    assert made.communicate(timeout=120)[0].strip() == "0"


def test_numbers_without_a_known_white_are_refused(encoder: Encoder) -> None:
    image = Image.fromarray(np.full((8, 8), 1000, np.int32))
    with pytest.raises(DataError, match="mode I cannot be used: ambiguous-range"):
        encoder.encode(image)


def test_an_opened_image_that_is_cut_short_is_refused(encoder: Encoder) -> None:
    whole = encoded(Image.effect_noise((64, 64), 50), "PNG")
    cut = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(DataError, match=r"a PIL image of mode L cannot be used: .*truncated"):
        encoder.encode([cut])


def test_no_images_are_refused(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="no images"):
        encoder.encode([])


def test_unknown_crops_are_refused(encoder: Encoder, files: list[Path]) -> None:
    with pytest.raises(UsageError, match="no crops 'grid'"):
        encoder.encode(files, crops="grid")


# Weights


def test_the_encoder_holds_the_weights_of_the_run(encoder: Encoder, tiny_run: Path) -> None:
    trained = weights(tiny_run)
    own = encoder.network.state_dict()
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[name], trained[name]) for name in own)
    assert not encoder.network.training
    assert not any(p.requires_grad for p in encoder.network.parameters())


def test_a_model_folder_is_as_good_as_its_run(
    encoder: Encoder, model: Path, files: list[Path]
) -> None:
    alone = Encoder.from_pretrained(model)
    assert alone.identity == encoder.identity
    assert torch.equal(alone.encode(files), encoder.encode(files))


def test_encoding_changes_nothing(encoder: Encoder, files: list[Path]) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    encoder.encode(files)
    after = encoder.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_unfinished_run_gives_its_newest_checkpoint(
    tiny_run: Path, encoder: Encoder, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(run / "model")
    assert Encoder.from_pretrained(run).identity == encoder.identity


def test_random_weights_differ_and_repeat(tiny_run: Path, encoder: Encoder) -> None:
    first, again, other = (Encoder.random(tiny_run, seed=seed) for seed in (0, 0, 1))
    name = "backbone.conv1.weight"
    one, two, three, trained = (
        e.network.state_dict()[name] for e in (first, again, other, encoder)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert not torch.equal(one, trained)
    assert first.identity == "random-0"


def test_random_weights_leave_the_global_generator_alone(tiny_run: Path) -> None:
    before = torch.random.get_rng_state()
    Encoder.random(tiny_run, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)


# Checkpoints that are not what they should be


def test_damaged_weights_are_refused(model: Path) -> None:
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        Encoder.from_pretrained(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value: float, model: Path) -> None:
    spoil(model, projector__out__1__bias=torch.full((8,), value))
    with pytest.raises(CheckpointError, match=r"not finite: projector\.out\.1\.bias"):
        Encoder.from_pretrained(model)


def test_weights_of_another_shape_are_refused(model: Path) -> None:
    spoil(model, projector__out__1__bias=torch.zeros(9))
    with pytest.raises(CheckpointError, match=r"bias is \(9,\), expected \(8,\)"):
        Encoder.from_pretrained(model)


def test_weights_that_nobody_asked_for_are_refused(model: Path) -> None:
    spoil(model, backdoor=torch.zeros(1))
    with pytest.raises(CheckpointError, match="unknown backdoor"):
        Encoder.from_pretrained(model)


@pytest.mark.parametrize(
    "state",
    [
        {}, {"network": {}}, {"network": {"backbone": {"name": "resnet10"}}},
        {"network": {"backbone": {"name": "os.system"}, "projector": {}, "views": {}},
         "image_side": 16},
        {"network": {"backbone": {"name": "resnet10", "width": "x"},
                     "projector": {"name": "paper"}, "views": {"name": "patches"}},
         "image_side": 16},
    ],
)  # fmt: skip
def test_a_checkpoint_that_names_no_network_is_refused(state: object, model: Path) -> None:
    (model / "state.json").write_text(json.dumps(state))
    reseal(model)
    with pytest.raises(CheckpointError, match="does not say what network it holds"):
        Encoder.from_pretrained(model)


def test_a_state_that_is_no_mapping_is_refused(model: Path) -> None:
    (model / "state.json").write_text("[]")
    reseal(model)
    with pytest.raises(CheckpointError, match="holds no settings"):
        Encoder.from_pretrained(model)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run directory"):
        Encoder.from_pretrained(tmp_path)
