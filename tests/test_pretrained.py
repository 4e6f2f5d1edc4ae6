import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import encoded
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import weights

from empssl import checkpoint
from empssl.data.decode import decode
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.pretrained import Encoder


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


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 3)), "type float64"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (torch.zeros(3, 8, 8), "type torch.float32"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"shape \(8, 8, 3\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"shape \(8, 8\)"),
    ],
)
def test_what_is_no_image_is_refused(
    image: np.ndarray | torch.Tensor, said: str, encoder: Encoder
) -> None:
    with pytest.raises(UsageError, match=f"{said}.*expected uint8"):
        encoder.encode([image])


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
