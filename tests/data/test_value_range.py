"""One range of values for all images of a data set, from training to whoever uses the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_images import encoded, photo, png_16_bit
from PIL import Image
from tiny import command

import empssl
from empssl.cli import main
from empssl.data import in_memory, open_images
from empssl.data.base import ImageSet
from empssl.data.decode import decode
from empssl.data.value_range import Decoding
from empssl.errors import CheckpointError, DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.runs import checkpoint
from empssl.runs.run import Run

SIDE = 16
TWELVE_BITS = (0.0, 4095.0)


def cells(number: int, brightest: int = 4000) -> np.ndarray:
    """16-bit gray: noise of which the first pixel is the brightest."""
    rng = np.random.default_rng(number)
    values = rng.integers(0, brightest, (SIDE, SIDE)).astype(np.uint16)
    values[0, 0] = brightest
    return values


def write(folder: Path, *images: np.ndarray, form: str = "PNG") -> Path:
    folder.mkdir()
    for number, values in enumerate(images):
        data = encoded(Image.fromarray(values), form) if values.ndim == 2 else png_16_bit(values)
        (folder / f"{number:03d}.{'tif' if form == 'TIFF' else 'png'}").write_bytes(data)
    return folder


def opened(folder: Path, decoding: Decoding | None = None) -> ImageSet:
    return open_images(str(folder), split="all", side=SIDE, decoding=decoding or Decoding())


def rows(images: ImageSet) -> np.ndarray:
    return images.read(range(len(images))).pixels[:, 0].numpy().astype(float)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 9, 12, 15])
def test_a_data_set_has_the_bit_depth_in_which_its_images_fit(
    bits: int, form: str, tmp_path: Path
) -> None:
    white = 2**bits - 1
    values = [cells(number, white - number % 4) for number in range(12)]
    images = opened(write(tmp_path / "d", *values, form=form))
    assert images.decoding.range == (0.0, float(white))
    assert np.abs(rows(images) - np.stack(values) * 255.0 / white).max() <= 0.5
    (notice,) = images.notices
    assert f"0 to {white:,} become black to white" in notice
    assert "--range" in notice


def test_dim_and_bright_images_keep_their_difference(tmp_path: Path) -> None:
    bright = [cells(number, 4000) for number in range(6)]
    dim = [cells(number, 1000) for number in range(6)]
    found = rows(opened(write(tmp_path / "d", *bright, *dim)))
    assert found[:6].mean() / found[6:].mean() == pytest.approx(4, rel=0.05)


def test_color_of_16_bits_decides_as_gray_does(tmp_path: Path) -> None:
    values = [np.stack([cells(n), cells(n, 3000), cells(n, 10)], axis=2) for n in range(6)]
    images = opened(write(tmp_path / "d", *values))
    assert images.decoding.range == TWELVE_BITS
    found = images.read(range(6)).pixels.numpy()
    expected = np.stack(values).transpose(0, 3, 1, 2) * 255.0 / 4095
    assert np.abs(found - expected).max() <= 0.5


def test_a_data_set_that_fills_16_bits_is_as_it_was(tmp_path: Path) -> None:
    images = opened(write(tmp_path / "d", *(cells(n, 60_000) for n in range(6))))
    assert images.decoding.range == "full"
    assert images.notices == ()


def test_images_of_8_bits_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number in range(6):
        (tmp_path / "d" / f"{number}.png").write_bytes(photo(number))
    images = opened(tmp_path / "d")
    assert images.decoding == Decoding()
    assert images.notices == ()


def test_a_few_images_that_come_out_black_are_warned_of(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "d", *(cells(n) for n in range(37)), *(cells(n, 60_000) for n in range(3))
    )
    (notice,) = opened(folder).notices
    assert "37 of 40 images looked at have 16 gray levels or fewer" in notice
    assert "of the range 0 to 65,535 they use 0 to 4,000; try --range 0 4095" in notice


def test_images_above_what_was_looked_at_are_counted_once_they_are_read(tmp_path: Path) -> None:
    values = [cells(number) for number in range(200)]
    values[1] = cells(1, 5000)  # not looked at
    images = opened(write(tmp_path / "d", *values))
    assert images.decoding.range == TWELVE_BITS
    kept = in_memory(images)
    assert kept.decoding == images.decoding
    assert "1 images read so far have values beyond 0 to 4,095, up to 5,000" in kept.notices[-1]


def test_a_range_that_is_given_is_not_second_guessed(tmp_path: Path) -> None:
    values = [cells(number) for number in range(6)]
    images = opened(write(tmp_path / "d", *values), Decoding((1000.0, 2000.0)))
    assert images.decoding.range == (1000.0, 2000.0)
    assert images.notices == ()
    expected = ((np.stack(values) - 1000.0) * 255 / 1000).clip(0, 255)
    assert np.abs(rows(images) - expected).max() <= 0.5


def test_two_numbers_in_one_word_are_a_range() -> None:
    for words in ("0 4095", ["0 4095"], ["0", "4095"], (0, 4095)):
        assert Decoding().changed(words).range == (0.0, 4095.0)
    with pytest.raises(UsageError, match="range is 0 to 4095; expected two numbers"):
        Decoding().changed("0 to 4095")


def test_floats_are_read_by_the_range_that_is_given(tmp_path: Path) -> None:
    values = [cells(number).astype(np.float32) - 1000 for number in range(6)]
    folder = write(tmp_path / "d", *values, form="TIFF")
    with pytest.raises(DataError, match=r"floats from -\d+ to 3,000; say with --range LO HI"):
        opened(folder)
    images = opened(folder, Decoding((-1000.0, 3000.0)))
    assert np.abs(rows(images) - (np.stack(values) + 1000) * 255 / 4000).max() <= 0.51


def test_a_range_that_concerns_no_image_is_said_to(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0.png").write_bytes(photo(0))
    (notice,) = opened(tmp_path / "d", Decoding(TWELVE_BITS)).notices
    assert "no image looked at has more than 8 bits" in notice


def test_images_in_parquet_have_a_range_too(tmp_path: Path) -> None:
    cell = [{"bytes": encoded(Image.fromarray(cells(n)), "PNG"), "path": None} for n in range(6)]
    pq.write_table(pa.table({"image": cell}), tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet").decoding.range == TWELVE_BITS
    given = Decoding((0.0, 100.0))
    assert opened(tmp_path / "a.parquet", given).decoding == given


def test_pages_and_channels_that_are_left_out_are_said(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pages = [Image.fromarray(cells(n, 60_000)) for n in range(7)]
    stack = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    for number in range(3):
        (tmp_path / "d" / f"{number}.tif").write_bytes(stack)
        (tmp_path / "d" / f"{number}.png").write_bytes(photo(number))
    (notice,) = opened(tmp_path / "d").notices
    assert notice == (
        "3 of 6 images looked at have several pages or frames, up to 7: the first of each is used"
    )


def test_images_of_too_many_pixels_are_read_once_they_are_allowed(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", *(cells(n) for n in range(3)))
    with pytest.raises(DataError, match=r"16 x 16 pixels, at most 100 .* --max-pixels"):
        opened(folder, Decoding(max_pixels=100))


# A run


@pytest.fixture(scope="module")
def microscope(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """12-bit images in two classes, and a run that was trained on them without an option."""
    folder = tmp_path_factory.mktemp("range")
    for name, seed in (("a", 0), ("b", 100)):
        (folder / "data").mkdir(exist_ok=True)
        write(folder / "data" / name, *(cells(seed + number) for number in range(30)))
    words = command(folder / "run", "--split", "all", "--image-side", str(SIDE), steps=1)
    assert main([words[0], str(folder / "data"), *words[2:]]) == 0
    return folder / "run", folder / "data"


def test_a_run_keeps_the_range_of_its_images(microscope: tuple[Path, Path]) -> None:
    run, _ = microscope
    assert Run(run).config["range"] == []
    assert Run(run).plan["decoding"] == {"range": [0.0, 4095.0], "max_pixels": 64_000_000}
    assert checkpoint.read(run / "model").state["decoding"] == Run(run).plan["decoding"]
    for encoder in (Encoder.from_pretrained(run), Encoder.random(run)):
        assert encoder.decoding == Decoding(TWELVE_BITS)


def test_all_that_use_a_run_read_by_its_range(
    microscope: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of dim images alone, which by themselves would decide on a smaller one."""
    run, _ = microscope
    dim = write(tmp_path / "dim", *(cells(number, 200) for number in range(12)))
    encoder = Encoder.from_pretrained(run)
    pixels = torch.from_numpy(np.stack([cells(n, 200) * 255.0 / 4095 for n in range(12)]) + 0.5)
    expected = encoder.encode(pixels.to(torch.uint8)[:, None])
    table = pq.read_table(empssl.embed(run, str(dim), out=tmp_path / "z.parquet"))
    assert json.loads(table.schema.metadata[b"empssl"])["range"] == list(TWELVE_BITS)
    assert torch.equal(torch.tensor(table["embedding"].to_pylist()), expected)
    with pytest.warns(UserWarning, match="16 gray levels or fewer"):
        assert torch.equal(encoder.encode(sorted(dim.iterdir())), expected)
    found = empssl.examine(run, data=str(dim), split="all", random=False, views=2)
    assert found.protocol["range"] == TWELVE_BITS


def test_evaluation_reads_train_and_test_by_the_range_of_the_run(
    microscope: tuple[Path, Path],
) -> None:
    run, data = microscope
    options = {"probes": ["knn"], "crops": ["whole"], "layers": ["head"], "baselines": False}
    assert empssl.evaluate(run, str(data), **options).protocol["range"] == TWELVE_BITS
    given = empssl.evaluate(run, str(data), range=[0, 65535], **options)
    assert given.protocol["range"] == (0.0, 65535.0)
    assert len(Run(run).evaluations()) == 2


def test_test_images_are_read_by_the_range_of_the_train_images(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the run's own images decided none."""
    for part, brightest in (("train", 4000), ("test", 1000)):
        (tmp_path / "data" / part).mkdir(parents=True)
        for name in ("a", "b"):
            write(
                tmp_path / "data" / part / name, *(cells(number, brightest) for number in range(8))
            )
    run = shutil.copytree(tiny_run, tmp_path / "run")
    empssl.evaluate(run, str(tmp_path / "data"), probes=["knn"], crops=["whole"], baselines=False)
    assert capfd.readouterr().err.count("become black to white") == 1


def test_the_range_is_an_option_of_the_command_line(
    microscope: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, data = microscope
    out = tmp_path / "z.parquet"
    assert main(["embed", str(run), str(data), "--out", str(out), "--range", "0", "100"]) == 0
    assert json.loads(pq.read_schema(out).metadata[b"empssl"])["range"] == [0.0, 100.0]
    assert main(["embed", str(run), str(data), "--out", str(out), "--overwrite",
                 "--range", "percentile", "--max-pixels", "5000"]) == 0  # fmt: skip
    assert json.loads(pq.read_schema(out).metadata[b"empssl"])["range"] == "percentile"
    assert main(["embed", str(run), str(data), "--out", str(out), "--overwrite",
                 "--range", "9", "1"]) == 2  # fmt: skip
    assert "range is 9 1; expected two numbers" in capfd.readouterr().err.replace(".0", "")


def test_training_says_which_range_it_found_and_takes_another(
    microscope: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, data = microscope

    def train(name: str, *options: str) -> str:
        words = command(tmp_path / name, "--split", "all", "--image-side", "16", *options, steps=1)
        assert main([words[0], str(data), *words[2:]]) == 0
        return capfd.readouterr().err

    assert train("run").count("0 to 4,095 become black to white") == 1
    assert "become black" not in train("given", "--range", "0", "5000")
    assert Encoder.from_pretrained(tmp_path / "given").decoding.range == (0.0, 5000.0)
    assert Run(tmp_path / "given").config["range"] == [0, 5000]


def test_a_run_of_8_bits_leaves_the_range_to_the_images_it_is_used_on(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "d", *(cells(number) for number in range(12)))
    out = empssl.embed(tiny_run, str(folder), out=tmp_path / "z.parquet")
    assert json.loads(pq.read_schema(out).metadata[b"empssl"])["range"] == list(TWELVE_BITS)
    assert "0 to 4,095 become black to white" in capfd.readouterr().err


def test_a_model_that_says_no_range_is_refused(
    microscope: tuple[Path, Path], tmp_path: Path
) -> None:
    content = checkpoint.read(microscope[0] / "model")
    content.state["decoding"] = {"range": ["dark", "light"]}
    checkpoint.write(tmp_path / "model", content)
    with pytest.raises(CheckpointError, match=r"decoding\.range is a list of 2, expected"):
        Encoder.from_pretrained(tmp_path / "model")


def test_one_image_alone_has_the_full_range() -> None:
    data = encoded(Image.fromarray(cells(0)), "PNG")
    full = decode(data, Decoding("full"))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(full))
