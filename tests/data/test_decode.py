import io
import json
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_images import encoded, make_bad_images, photo, png_16_bit, png_claiming, tiff
from PIL import Image, ImageFile

from empssl.data.decode import Content, UndecodableError, decode, inspect, square
from empssl.data.value_range import Decoding, RangeWords, Values
from empssl.errors import UsageError


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("odd")
    return folder, make_bad_images(folder)


def verdict(source: bytes | Path) -> str:
    try:
        decode(source)
    except UndecodableError as error:
        return error.reason
    return "ok"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_every_odd_file_gets_its_verdict(odd: tuple[Path, dict[str, str]]) -> None:
    folder, verdicts = odd
    assert len(verdicts) >= 50
    assert {name: verdict(folder / name) for name in verdicts} == verdicts


def test_bytes_get_the_verdict_of_the_file(odd: tuple[Path, dict[str, str]]) -> None:
    folder, verdicts = odd
    regular = {name: v for name, v in verdicts.items() if v != "not-a-file"}
    assert {name: verdict((folder / name).read_bytes()) for name in regular} == regular


@pytest.mark.parametrize("path", ["/dev/null", "/"])
def test_devices_and_folders_are_not_files(path: str) -> None:
    assert verdict(Path(path)) == "not-a-file"


def test_file_that_is_gone_has_vanished(tmp_path: Path) -> None:
    assert verdict(tmp_path / "gone.jpg") == "vanished"


def test_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(photo(0))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom nothing refuses
    assert verdict(tmp_path / "a.png") == "permission"


def test_errors_name_no_memory_address(odd: tuple[Path, dict[str, str]]) -> None:
    with pytest.raises(UndecodableError) as caught:
        decode((odd[0] / "text.jpg").read_bytes())
    assert caught.value.error == "not a JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM image"


def test_bombs_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was unpacked"))
    assert verdict(png_claiming(10_000, 10_000)) == "too-large"


def test_pixel_limit_is_inclusive() -> None:
    assert decode(photo(0, side=20), Decoding(max_pixels=400)).size == (20, 20)
    with pytest.raises(UndecodableError, match=r"20 x 20 pixels, at most 399"):
        decode(photo(0, side=20), Decoding(max_pixels=399))


def test_pillow_warnings_stay_inside(odd: tuple[Path, dict[str, str]]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in odd[1]:
            verdict(odd[0] / name)
    assert caught == []


def test_other_warnings_are_left_alone() -> None:
    decode(photo(0))
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def stored_then_upright() -> dict[int, Callable[[np.ndarray], np.ndarray]]:
    """Exif 2.3, tag 274: where the stored first row and first column belong."""
    return {
        1: lambda s: s,
        2: lambda s: s[:, ::-1],
        3: lambda s: s[::-1, ::-1],
        4: lambda s: s[::-1],
        5: lambda s: s.swapaxes(0, 1),
        6: lambda s: np.rot90(s, -1),
        7: lambda s: s[::-1, ::-1].swapaxes(0, 1),
        8: lambda s: np.rot90(s, 1),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation: int, form: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    turned = decode(encoded(Image.fromarray(stored), form, exif=exif, **options))
    assert np.array_equal(np.asarray(turned), stored_then_upright()[orientation](stored))


def test_jpeg_orientation_is_applied_when_shrunk() -> None:
    left_is_red = Image.new("RGB", (400, 200), "blue")
    left_is_red.paste((255, 0, 0), (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored left is the top
    image = decode(encoded(left_is_red, "JPEG", exif=exif), shrink_to=25)
    assert image.size == (50, 100)
    assert pixels(image)[10, 25, 0] > 200 > 50 > pixels(image)[90, 25, 0]


def one_pixel(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (2, 2), value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "form", "options", "expected"),
    [
        # (255 - c)(255 - k) / 255
        (one_pixel("CMYK", (51, 102, 153, 51)), "TIFF", {}, (163, 122, 82)),
        (one_pixel("CMYK", (51, 102, 153, 51)), "JPEG", {"quality": 100}, (163, 122, 82)),
        (one_pixel("L", 77), "PNG", {}, (77, 77, 77)),
        (one_pixel("1", 1), "PNG", {}, (255, 255, 255)),
        (one_pixel("1", 0), "TIFF", {"compression": "group4"}, (0, 0, 0)),
        (one_pixel("I;16", 0x8000), "PNG", {}, (128, 128, 128)),
        (one_pixel("I;16", 0x8000), "TIFF", {}, (128, 128, 128)),
        (one_pixel("I;16B", 0x8000), "TIFF", {}, (128, 128, 128)),
        (one_pixel("I;16", 0x8000), "PPM", {}, (128, 128, 128)),
        (one_pixel("I;16", 300), "PNG", {}, (1, 1, 1)),  # dark stays dark
        (one_pixel("F", 0.5), "TIFF", {}, (128, 128, 128)),
        # alpha over 128: value a / 255 + 128 (1 - a / 255)
        (one_pixel("LA", (255, 51)), "PNG", {}, (153, 153, 153)),
        (one_pixel("RGBA", (255, 0, 100, 102)), "PNG", {}, (179, 77, 117)),
        (one_pixel("RGBA", (255, 0, 100, 0)), "PNG", {}, (128, 128, 128)),
        (one_pixel("P", 0), "PNG", {"transparency": bytes([51])}, (102, 102, 102)),
        (one_pixel("RGB", (9, 8, 7)), "PNG", {"transparency": (9, 8, 7)}, (128, 128, 128)),
    ],
)
def test_modes_have_golden_values(
    image: Image.Image, form: str, options: dict[str, object], expected: tuple[int, int, int]
) -> None:
    found = decode(encoded(image, form, **options))
    assert found.mode == "RGB"
    assert np.abs(pixels(found)[0, 0] - expected).max() <= 1


def test_sixteen_bit_gradient_keeps_its_mean() -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    mean = pixels(decode(encoded(Image.fromarray(ramp), "PNG"))).mean() / 255
    assert abs(mean - ramp.mean() / 65535) < 1 / 255


def test_sixteen_bit_color_keeps_its_mean() -> None:
    rows = np.random.default_rng(0).integers(0, 65536, (10, 10, 3), dtype=np.uint16)
    assert abs(pixels(decode(png_16_bit(rows))).mean() / 255 - rows.mean() / 65535) < 1 / 255


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_zero_is_white_in_either_byte_order_and_compressed(
    order: str, compression: str | None
) -> None:
    values = ramp(65535, f"{order}u2")
    image = Image.fromarray(values)
    options = {} if compression is None else {"compression": compression}
    found = pixels(decode(encoded(image, "TIFF", tiffinfo={262: 0}, **options)))[..., 0]
    assert np.abs(found - (255 - values / 257.0)).max() <= 0.5


TWELVE_BITS = Decoding((0.0, 4095.0))


def ramp(white: float | int, kind: str) -> np.ndarray:
    """8 x 16 numbers from zero to white."""
    values = np.linspace(0, white, 128).reshape(8, 16)
    return values.astype(kind) if kind == "<f4" else values.round().astype(kind)


@pytest.mark.parametrize(
    ("bits", "kind", "white", "step"),
    [(1, "u1", 1, 1), (2, "u1", 3, 1), (4, "u1", 15, 1), (8, "u1", 255, 1), (16, "<u2", 65535, 1),
     (32, "<f4", 1.0, 3)],
)  # fmt: skip
def test_zero_is_white_where_a_tiff_says_so(
    bits: int, kind: str, white: float | int, step: int
) -> None:
    values = ramp(white, kind)
    packed = values.tobytes()
    if bits < 8:
        flat = np.unpackbits(values.reshape(-1, 1), axis=1)[:, -bits:]
        packed = np.packbits(flat.reshape(8, -1), axis=1).tobytes()
    black, turned = (
        pixels(decode(tiff(packed, 16, 8, bits=bits, photometric=p, sample_format=step)))
        for p in (1, 0)
    )
    assert np.array_equal(turned, 255 - black)
    assert np.abs(black[..., 0] - values.astype(float) * 255 / white).max() <= 0.5


def test_zero_is_white_within_the_range_too() -> None:
    values = ramp(4095, "<u2")
    data = tiff(values.tobytes(), 16, 8, bits=16, photometric=0)
    turned = pixels(decode(data, TWELVE_BITS))[..., 0]
    assert np.abs(turned - (255 - values * 255.0 / 4095)).max() <= 0.5


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_twelve_bits_in_sixteen_fill_the_range_that_is_given(form: str) -> None:
    values = ramp(4095, "<u2")
    data = encoded(Image.fromarray(values), form)
    assert len(np.unique(pixels(decode(data)))) <= 17
    found = pixels(decode(data, TWELVE_BITS))[..., 0]
    assert np.abs(found - values * 255.0 / 4095).max() <= 0.5


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_color_of_sixteen_bits_fills_the_range_that_is_given(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (9, 7, channels), dtype=np.uint16)
    if channels != 3:
        values[..., -1] = 65535  # opaque
    found = pixels(decode(png_16_bit(values), TWELVE_BITS))
    expected = values[..., :1] if channels == 2 else values[..., :3]
    assert np.abs(found - expected * 255.0 / 4095).max() <= 0.5


def test_color_of_a_tiff_of_sixteen_bits_fills_the_range_that_is_given(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (9, 7, 3), dtype=np.uint16)
    data = tiff(values.astype("<u2").tobytes(), 7, 9, bits=16, photometric=2, channels=3)
    (tmp_path / "a.tif").write_bytes(data)
    for source in (data, tmp_path / "a.tif"):
        found = pixels(decode(source, TWELVE_BITS))
        assert np.abs(found - values * 255.0 / 4095).max() <= 0.5


@pytest.mark.parametrize(
    ("kind", "bits", "sample_format", "low", "high"),
    [("<f4", 32, 3, -1000.0, 3000.0), ("<i4", 32, 2, -1000, 3000), ("<u4", 32, 1, 0, 2**32 - 1),
     ("<i2", 16, 2, -1000, 3000)],
)  # fmt: skip
def test_numbers_of_any_type_take_a_range(
    kind: str, bits: int, sample_format: int, low: float | int, high: float | int
) -> None:
    values = np.linspace(low, high, 128).reshape(8, 16).astype(kind)
    data = tiff(values.tobytes(), 16, 8, bits=bits, photometric=1, sample_format=sample_format)
    assert verdict(data) == "ambiguous-range"
    found = pixels(decode(data, Decoding((float(low), float(high)))))[..., 0]
    assert np.abs(found - (values.astype(float) - low) * 255 / (high - low)).max() <= 0.51


def test_values_beyond_the_range_are_black_and_white() -> None:
    data = encoded(Image.fromarray(ramp(65535, "<u2")), "PNG")
    found = pixels(decode(data, Decoding((1000.0, 2000.0))))[..., 0].ravel()
    values = ramp(65535, "<u2").ravel()
    assert (found[values <= 1000] == 0).all()
    assert (found[values >= 2000] == 255).all()


def test_percentiles_are_those_of_the_image_and_leave_outliers_out() -> None:
    values = np.random.default_rng(0).integers(200, 400, (100, 100)).astype(np.uint16)
    values[0, 0] = 65535
    found = pixels(decode(encoded(Image.fromarray(values), "PNG"), Decoding("percentile")))
    assert (found.min(), found.max()) == (0, 255)
    assert abs(found.mean() - 127) < 4


def test_percentiles_of_a_blank_image_are_black() -> None:
    blank = encoded(Image.fromarray(np.full((8, 8), 300, np.uint16)), "PNG")
    assert (pixels(decode(blank, Decoding("percentile"))) == 0).all()


def test_images_of_eight_bits_have_their_range() -> None:
    data = photo(0)
    assert np.array_equal(pixels(decode(data, TWELVE_BITS)), pixels(decode(data)))


def test_a_graymap_that_says_its_white_has_it_and_takes_a_range_in_its_own_numbers() -> None:
    values = ramp(1000, ">u2")
    data = b"P5 16 8 1000\n" + values.tobytes()
    assert np.abs(pixels(decode(data))[..., 0] - values * 255.0 / 1000).max() <= 1
    found = pixels(decode(data, Decoding((0.0, 500.0))))[..., 0]
    assert np.abs(found - (values * 255.0 / 500).clip(0, 255)).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_have_no_range(bad: float) -> None:
    values = ramp(1, "<f4")
    values[3, 3] = bad
    with pytest.raises(UndecodableError, match=r"ambiguous-range: floats that are not finite$"):
        decode(encoded(Image.fromarray(values), "TIFF"), Decoding((0.0, 1.0)))


def test_numbers_without_a_white_say_how_to_give_one() -> None:
    data = encoded(Image.fromarray(ramp(1, "<f4") * 1000), "TIFF")
    with pytest.raises(UndecodableError, match=r"floats from 0 to 1,000; .* --range LO HI"):
        decode(data)


@pytest.mark.parametrize(
    "words", [["1"], ["a", "b"], [5, 5], [9, 1], ["nan", 1], [0, "inf"], [1, 2, 3], "percent"]
)
def test_what_is_no_range_is_refused(words: RangeWords) -> None:
    with pytest.raises(UsageError, match=r"range is .*; expected two numbers"):
        Decoding().changed(words)


def test_a_range_is_recorded_and_read_again() -> None:
    for words in ((0, 4095), "percentile", "full", ()):
        made = Decoding().changed(words, 1000)
        assert Decoding.recorded(json.loads(json.dumps(asdict(made)))) == made
    with pytest.raises(UsageError, match="no range"):
        Decoding.recorded({"range": 3})


def test_an_image_of_any_size_is_decoded_where_that_many_pixels_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many
    large = photo(0, side=20)
    assert decode(large, Decoding(max_pixels=400)).size == (20, 20)


def test_too_many_pixels_are_refused_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndecodableError) as refused:
        decode(png_claiming(20_000, 20_000))
    assert refused.value.error == (
        "400,000,000 pixels, at most 64,000,000 are decoded; allow more with --max-pixels"
    )


def test_a_tiff_of_too_many_channels_says_what_it_is() -> None:
    data = tiff(bytes(5 * 12), 4, 3, bits=8, photometric=1, channels=5, extra=4)
    with pytest.raises(UndecodableError, match="a TIFF image with 5 channels of 8 bits"):
        decode(data)


def test_pages_and_channels_that_are_not_used_are_counted() -> None:
    frames = [Image.new("L", (8, 8), value) for value in range(30)]
    stack = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert inspect(stack, Decoding()) == Content(30, 1, 1, None)
    more = tiff(bytes(5 * 12), 4, 3, bits=8, photometric=2, channels=5, extra=2)
    assert inspect(more, Decoding()) == Content(1, 5, 3, None)
    assert inspect(photo(0), Decoding()) == Content(1, 3, 3, None)


def test_what_an_image_holds_is_told_where_it_is_more_than_8_bits() -> None:
    gray = encoded(Image.fromarray(ramp(4000, "<u2") + np.uint16(5)), "PNG")
    assert inspect(gray, Decoding()).values == Values(5.0, 4005.0, 65535.0)
    color = png_16_bit(np.full((4, 4, 3), 0x0123, np.uint16))
    assert inspect(color, Decoding()).values == Values(256.0, 511.0, 65535.0)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(decode(data)) - (255, 0, 0)).max() <= 2, form


def test_shrinking_keeps_twice_the_side_and_the_picture() -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))
    data = encoded(smooth.resize((600, 400), Image.Resampling.BICUBIC), "JPEG", quality=95)
    shrunk = decode(data, shrink_to=32)
    assert min(shrunk.size) == 100
    whole = square(decode(data), 32).astype(int)
    assert np.abs(square(shrunk, 32) - whole).mean() < 2


def test_square_is_the_middle() -> None:
    image = Image.new("RGB", (90, 30), "red")
    image.paste((0, 0, 255), (30, 0, 60, 30))
    middle = square(image, 30)
    assert middle.shape == (3, 30, 30)
    assert np.array_equal(middle, square(Image.new("RGB", (30, 30), "blue"), 30))


def test_square_equals_scaling_then_cropping() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    scaled = image.resize((50, 30), Image.Resampling.BILINEAR).crop((10, 0, 40, 30))
    inner = (slice(None), slice(None), slice(1, -1))  # at the cut the filter sees other neighbors
    assert (
        np.abs(square(image, 30).astype(int) - pixels(scaled).transpose(2, 0, 1))[inner].max() <= 1
    )


def test_thin_images_cost_no_more_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    new = Image.Image._new

    def noted(self: Image.Image, core: Any) -> Image.Image:
        made.append(core.size[0] * core.size[1])
        return new(self, core)

    monkeypatch.setattr(Image.Image, "_new", noted)
    assert square(Image.new("RGB", (1, 60_000), "red"), 224)[:, 0, 0].tolist() == [255, 0, 0]
    assert sum(made) <= 2 * (224**2 + 60_000)  # scaled and then cropped: 224 times 224 x 60,000


def test_mutated_files_raise_one_error_and_twice_the_same() -> None:
    rng = random.Random(0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    seeds = [encoded(noise, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")]
    verdicts = []
    for _ in range(1000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 4))):
            data[rng.randrange(min(len(data), 200))] = rng.choice((0, 127, 255, rng.randrange(256)))
        verdicts.append(verdict(bytes(data)))
        assert verdict(bytes(data)) == verdicts[-1]
    assert {"ok", "unreadable", "truncated", "too-large"} <= set(verdicts)


def test_truncation_is_found_wherever_it_is() -> None:
    whole = encoded(Image.open(io.BytesIO(photo(3))), "JPEG")
    assert {verdict(whole[:cut]) for cut in range(700, len(whole) - 8, 50)} == {"truncated"}


def test_open_files_are_closed(odd: tuple[Path, dict[str, str]]) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for name in odd[1]:
        verdict(odd[0] / name)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
