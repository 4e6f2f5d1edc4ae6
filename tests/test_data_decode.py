import io
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_images import encoded, make_bad_images, photo, png_chunk, png_claiming
from PIL import Image, ImageFile

from empssl.data.decode import UndecodableError, decode
from empssl.data.square import square


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
    assert decode(photo(0, side=20), max_pixels=400).size == (20, 20)
    with pytest.raises(UndecodableError, match=r"20 x 20 pixels, at most 399"):
        decode(photo(0, side=20), max_pixels=399)


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
    # Pillow cannot write it: rows of 3 x 16 bits, no filter
    rows = np.random.default_rng(0).integers(0, 65536, (10, 10, 3), dtype=np.uint16)
    data = png_16_bit_color(rows)
    assert abs(pixels(decode(data)).mean() / 255 - rows.mean() / 65535) < 1 / 255


def png_16_bit_color(rows: np.ndarray) -> bytes:
    height, width, _ = rows.shape
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    body = png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


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
