"""Pictures that travel inside the page, as data URIs."""

import base64
import io

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

# Shown at about half this size, so that they are crisp on dense screens.
LARGEST = 112
# Up to here every pixel is kept; what is larger is stored as a photograph.
_LOSSLESS = 48


def data_uri(picture: Image.Image) -> str:
    """The picture as WebP, in letters."""
    stream = io.BytesIO()
    lossless = max(picture.size) <= _LOSSLESS
    picture.save(stream, "WEBP", lossless=lossless, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def picture(pixels: UInt8[Tensor, "3 height width"], *, largest: int = LARGEST) -> Image.Image:
    """An image of the data set, scaled down if it is larger than it will be shown."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if max(image.size) > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def tiles(
    pixels: UInt8[Tensor, "tile 3 side side"], columns: int, *, gap: float = 0.08
) -> Image.Image:
    """Pictures in rows, with transparent gaps of a share of their side between them."""
    each = [picture(tile, largest=LARGEST // columns * 2) for tile in pixels]
    side = each[0].width
    step = side + max(1, round(gap * side))
    rows = -(-len(each) // columns)
    sheet = Image.new("RGBA", (step * columns - (step - side), step * rows - (step - side)))
    for index, tile in enumerate(each):
        sheet.paste(tile, (index % columns * step, index // columns * step))
    return sheet
