"""What happens to a patch on its way to being a view: probabilities, ranges and order."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import factorial
from typing import Literal

import torch
from torch import Tensor

from empssl.views import color, crop

# What each of a patch's draws decides, after those that decide where it lies. Their order is part
# of what a seed means.
DRAWS = (
    "flip", "jitter", "brightness", "contrast", "saturation", "hue", "order", "gray", "blur",
    "sigma", "solarize",
)  # fmt: skip
COLORS = 4  # brightness, contrast, saturation, hue
Colors = Literal["faithful", "fast"]
Draw = Mapping[str, Tensor]
_TO_YIQ = (color.LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_TO_RGB = tuple(map(tuple, torch.linalg.inv(torch.tensor(_TO_YIQ)).tolist()))


class Augmentation:
    """Resizes, mirrors, recolors, blurs and normalizes patches, each on its own.

    In order: resize, flip, color jitter (its four parts in random order), gray, blur, solarize,
    normalize.

    Args:
        flip: probability of a mirrored patch.
        jitter: probability of color jitter.
        brightness: factor from 1 - b to 1 + b.
        contrast: the same, of the distance from the mean gray.
        saturation: the same, of the distance from the gray picture.
        hue: turn of the color circle, from -h to h of a full turn.
        gray: probability.
        blur: probability.
        sigma: range of the blur's standard deviation, in pixels of the view.
        solarize: probability.
        mean: subtracted from values in [0, 1].
        std: divides the rest.
        colors: `faithful` clips after each operation and turns the hue in HSV, as Pillow does;
            `fast` makes one affine map of all four and of gray, with the hue turned in YIQ, and
            applies it before resizing. On photographs it is 5 of 255 levels away on average, by
            the hue; without it 0.2.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        *,
        flip: float,
        jitter: float,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        gray: float,
        blur: float,
        sigma: Sequence[float],
        solarize: float,
        mean: float,
        std: float,
        colors: Colors,
    ) -> None:
        for name, value in {"flip": flip, "jitter": jitter, "gray": gray, "blur": blur,
                            "solarize": solarize}.items():  # fmt: skip
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected a probability")
        for name, value in {"brightness": brightness, "contrast": contrast,
                            "saturation": saturation}.items():  # fmt: skip
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue is {hue}, expected at most half a turn, 0.5")
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"sigma is {sigma}, expected a range of two positive numbers")
        if not std > 0:
            raise ValueError(f"std is {std}, expected a positive number")
        if colors not in ("faithful", "fast"):
            raise ValueError(f"colors is '{colors}', expected 'faithful' or 'fast'")
        self.flip, self.jitter, self.gray = flip, jitter, gray
        self.ranges = (brightness, contrast, saturation)
        self.hue = hue
        self.blur, self.sigma, self.solarize = blur, sigma, solarize
        self.mean, self.std = mean, std
        self.colors = colors

    def weak(self) -> "Augmentation":
        """One that only resizes, mirrors and normalizes."""
        weak = copy.copy(self)
        weak.jitter = weak.gray = weak.blur = weak.solarize = 0.0
        return weak

    def __call__(self, patches: Tensor, draw: Draw, side: int) -> Tensor:
        """Views of patches.

        Args:
            patches: (patch, 3, size, size) in [0, 1]; used up.
            draw: numbers in [0, 1), (patch,) for each name in `DRAWS`.
            side: what the backbone sees, in pixels.

        Returns:
            (patch, 3, side, side), normalized.
        """
        if self.colors == "fast":
            patches = crop.resize(self._affine_colors(patches, draw), side)
        else:
            patches = self._colors(crop.resize(patches, side), draw)
        mirrored = draw["flip"] < self.flip
        patches = torch.where(mirrored[:, None, None, None], patches.flip(-1), patches)
        low, high = self.sigma
        patches = _where(
            draw["blur"] < self.blur, patches, partial(color.blur, widest=high),
            low + (high - low) * draw["sigma"],
        )  # fmt: skip
        patches = _where(draw["solarize"] < self.solarize, patches, color.solarize)
        return self.normalize(patches)

    def normalize(self, values: Tensor) -> Tensor:
        """From [0, 1] to what the backbone expects, in place."""
        return values.sub_(self.mean).div_(self.std)

    def _factors(self, draw: Draw) -> list[Tensor]:
        """Brightness, contrast and saturation factors, and the turn of hue: (patch,) each."""
        names = ("brightness", "contrast", "saturation")
        spread = zip(names, self.ranges, strict=True)
        factors = [max(0.0, 1 - r) + (r + min(r, 1)) * draw[name] for name, r in spread]
        return [*factors, self.hue * (2 * draw["hue"] - 1)]

    def _order(self, draw: Draw) -> Tensor:
        """Which of the four color operations comes first, second...: int64 (4, patch).

        The permutations in the order of the alphabet, each found from its number: its digits in
        the factorial system count among the operations that are left. A table would have to be
        copied to the device.
        """
        number = crop.corners(draw["order"], factorial(COLORS) - 1)
        first = number // 6
        second = number % 6 // 2
        second = second + (second >= first)
        third = number % 2
        third = third + (third >= torch.minimum(first, second))
        third = third + (third >= torch.maximum(first, second))
        return torch.stack([first, second, third, sum(range(COLORS)) - first - second - third])

    def _colors(self, patches: Tensor, draw: Draw) -> Tensor:
        """One operation after the other, on the patches that it applies to."""
        operations = (color.brightness, color.contrast, color.saturation, color.hue)
        factors = self._factors(draw)
        jittered = draw["jitter"] < self.jitter
        for turn in self._order(draw):
            for which, operation in enumerate(operations):
                patches = _where(jittered & (turn == which), patches, operation, factors[which])
        return _where(draw["gray"] < self.gray, patches, color.gray)

    def _affine_colors(self, patches: Tensor, draw: Draw) -> Tensor:
        """All color operations as one map A x + c a patch, clipped once at the end.

        Contrast needs the patch's mean gray at its turn; without clipping the mean color follows
        the same maps as the pixels, so it is carried along.
        """
        weights = _filled(color.LUMA, patches)
        eye = torch.eye(3, device=patches.device)
        to_gray = weights.expand(3, 3)  # every row is the luma
        *factors, turn = self._factors(draw)
        scaled = [f[:, None, None] * eye for f in factors]
        saturate = scaled[2] + (1 - factors[2])[:, None, None] * to_gray
        maps = torch.stack([scaled[0], scaled[1], saturate, _turned_hue(turn)])  # 4 patch 3 3

        mean = patches.mean((2, 3))[..., None]  # patch 3 1
        A = eye.expand(len(patches), 3, 3)
        c = torch.zeros_like(mean)
        jittered = (draw["jitter"] < self.jitter)[:, None, None]
        every = torch.arange(len(patches), device=patches.device)
        for which in self._order(draw):
            step = torch.where(jittered, maps[which, every], eye)
            toward = (1 - factors[1])[:, None, None] * (weights @ mean)[:, None]
            shift = torch.where(jittered & (which == 1)[:, None, None], toward, 0.0)
            A, c, mean = step @ A, step @ c + shift, step @ mean + shift
        grayed = (draw["gray"] < self.gray)[:, None, None]
        A, c = torch.where(grayed, to_gray @ A, A), torch.where(grayed, to_gray @ c, c)
        return torch.baddbmm(c, A, patches.flatten(2)).clamp_(0, 1).view_as(patches)


def _where(
    applies: Tensor, patches: Tensor, operation: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """The patches, with an operation done to those that it applies to.

    Args:
        applies: bool (patch,).
        patches: changed in place where rows are selected.
        operation: from `pixels`.
        parameters: (patch,) each.
    """
    if _selects_rows(patches.device):
        rows = applies.nonzero()[:, 0]
        patches[rows] = operation(patches[rows], *(values[rows] for values in parameters))
        return patches
    return torch.where(applies[:, None, None, None], operation(patches, *parameters), patches)


def _selects_rows(device: torch.device) -> bool:
    """Whether to compute an operation only for the patches that it applies to.

    On an accelerator the host would have to wait for their number, and a compiler for every new
    one; there all are computed, which is nearly free in one fused kernel.
    """
    return device.type == "cpu" and not torch.compiler.is_compiling()


def _turned_hue(turn: Tensor) -> Tensor:
    """The rotation by `turn` circles in the color plane of YIQ, as a map of RGB: (patch, 3, 3).

    From I towards -Q: that way lie yellow and green when one starts at red, as in HSV.
    """
    to_yiq, to_rgb = (_filled(sum(rows, ()), turn).view(3, 3) for rows in (_TO_YIQ, _TO_RGB))
    cos, sin = torch.cos(2 * torch.pi * turn), torch.sin(2 * torch.pi * turn)
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    rotation = torch.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], -1).view(-1, 3, 3)
    turned: Tensor = to_rgb @ rotation @ to_yiq
    return turned


def _filled(numbers: Sequence[float], like: Tensor) -> Tensor:
    """A few constants on a tensor's device, filled in there: a copy would have the host wait."""
    return torch.stack([like.new_full((), number) for number in numbers])
