"""The page: one HTML file that needs nothing else; its pictures are data URIs."""

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from empssl.progress import visible
from empssl.reports.charts import duration, numeral

_LARGEST = 128  # pixels of a picture on the page, which has room for about 100 of them
# Up to here every pixel is kept, and shown as a block; what is larger is stored as a photograph.
_BLOCKS = 32
_SHOWN = 64  # pixels of the page that a picture of blocks is given


def render(template: str = "page.html.jinja", **content: Any) -> str:
    """A page as HTML. All values are escaped; the template says what it needs."""
    loader = PackageLoader("empssl", "reports/templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"numeral": numeral, "duration": duration}
    style, _, _ = loader.get_source(environment, "page.css")
    script, _, _ = loader.get_source(environment, "sort.js.jinja")
    # The page names its only script by its hash, so that a browser runs no other.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), script_hash=f"sha256-{digest}", **content
    )


def _shown(value: Any) -> Any:
    """A value that can be seen: names hold all kinds of characters."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@dataclass(frozen=True)
class Picture:
    """A picture as the page holds it.

    Attributes:
        uri: all of it, as a data URI.
        blocks: it is so small that its pixels are shown as blocks.
        width, height: at which it is shown where there is room: its own, or a multiple of blocks.
    """

    uri: str
    blocks: bool
    width: int
    height: int


def shown(side: int) -> int:
    """At how many pixels a picture is shown: its own, and blocks at a whole multiple.

    >>> [shown(side) for side in (8, 28, 32, 64, 100)]
    [64, 56, 64, 64, 100]
    """
    return side * (_SHOWN // side) if side <= _BLOCKS else side


def picture(pixels: UInt8[Tensor, "3 side side"], largest: int = _LARGEST) -> Picture:
    """An image or a view, scaled down if it is larger than it will be shown."""
    return _picture(_image(pixels, largest), blocks=pixels.shape[-1] <= _BLOCKS)


def tiles(pixels: UInt8[Tensor, "tile 3 side side"], columns: int) -> Picture:
    """Images in rows, with transparent gaps between them."""
    images = [_image(tile, 2 * _LARGEST // columns) for tile in pixels]
    side = images[0].width
    step = side + max(1, round(0.08 * side))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGBA", (step * columns - step + side, step * rows - step + side))
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * step, index // columns * step))
    return _picture(sheet, blocks=pixels.shape[-1] <= _BLOCKS)


def sheet(image: Image.Image) -> Picture:
    """A large picture made of many."""
    return _picture(image, blocks=False)


def _image(pixels: UInt8[Tensor, "3 side side"], largest: int) -> Image.Image:
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def _picture(image: Image.Image, *, blocks: bool) -> Picture:
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=blocks, quality=80, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    times = shown(image.width) // image.width if blocks else 1
    return Picture(uri, blocks, times * image.width, times * image.height)
