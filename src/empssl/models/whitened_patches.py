"""Whitened patches of the whole image: what can be had without learning by gradients."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from empssl.errors import DataError, UsageError
from empssl.types import Embeddings, Images

_NUM_SAMPLES = 50_000  # patches that the whitening is fitted on
_CONTRAST_FLOOR = 10.0  # variance, in squares of 255ths: keeps noise of flat patches small
_WHITENING_FLOOR = 0.1  # variance of contrast-normalized patches
_THRESHOLD = 0.25  # in standard deviations of a response, roughly
_GRID = 2  # cells per side that responses are averaged over
_POSITIONS = 32  # per side at most, on average: larger images are visited with a stride
_RESPONSES = 2**21  # held at a time: 8 MB stay in the cache, and 64 MB take twice as long


class WhitenedPatches(nn.Module):
    """Random whitened patches of the images as filters, soft-thresholded, averaged on a grid.

    The single layer of Coates & Ng (2011) with a dictionary of random patches, close to Thiry et
    al. (2021). A patch p of the image is brought to mean 0 and variance 1, q = (p - mean p) /
    sqrt(var p + 10), and whitened; r = dictionary @ whitening @ (q - mean). The features are the
    averages of s and |s|, s = softshrink(r, 0.25), over the four quarters of the image: the same
    information as the positive and the negative part, for half the convolution.

    Nothing in it is learned by gradients: `fit` measures the images once.

    Args:
        num_features: of an image, 8 for each dictionary entry.
        patch: side in pixels.

    Attributes:
        mean: (pixel,), of contrast-normalized patches.
        whitening: (pixel, pixel), ZCA, (covariance + 0.1 I)^-1/2.
        dictionary: (filter, pixel), whitened patches of length 1.

    Raises:
        UsageError: `num_features` is not a multiple of 8.
    """

    mean: Tensor
    whitening: Tensor
    dictionary: Tensor

    def __init__(self, num_features: int = 1024, *, patch: int = 6) -> None:
        super().__init__()
        per_filter = 2 * _GRID**2
        if num_features < 1 or num_features % per_filter:
            raise UsageError(f"num_features is {num_features}; give a multiple of {per_filter}")
        self.num_features, self.patch = num_features, patch
        pixels = 3 * patch**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("whitening", torch.zeros(pixels, pixels))
        self.register_buffer("dictionary", torch.zeros(num_features // per_filter, pixels))

    @torch.no_grad()
    def fit(self, images: Images, *, seed: int = 0) -> "WhitenedPatches":
        """Whitening and dictionary from 50,000 random patches. No labels are used.

        Args:
            images: those that a probe will be trained on; never its test images.
            seed: of the patches.

        Raises:
            DataError: no images, or images too small for the patch.
        """
        if len(images) == 0 or min(images.shape[2:]) <= self.patch:
            raise DataError(
                f"images are {tuple(images.shape)}; patches of {self.patch} pixels need at least "
                f"one image of {self.patch + 1} pixels a side, or give a smaller patch"
            )
        generator = torch.Generator().manual_seed(seed)
        num_filters = len(self.dictionary)
        patches = _random_patches(images, self.patch, max(_NUM_SAMPLES, num_filters), generator)
        patches -= patches.mean(1, keepdim=True)
        patches /= (patches.square().mean(1, keepdim=True) + _CONTRAST_FLOOR).sqrt()
        mean = patches.mean(0)
        patches -= mean
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        whitening = (vectors * (values + _WHITENING_FLOOR).rsqrt()) @ vectors.T
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)
        self.dictionary.copy_(F.normalize(patches[:num_filters] @ whitening))
        return self

    @torch.no_grad()
    def forward(self, images: Images) -> Embeddings:
        """Features of the images, `[cell of the grid of s, then of |s|]` for each filter."""
        folded = self.dictionary @ self.whitening
        offset = -(folded @ self.mean)
        # A filter of sum 0 sees p - mean p, so that only the contrast is left to divide by.
        kernel = (folded - folded.mean(1, keepdim=True)).unflatten(1, (3, self.patch, self.patch))
        stride = -(-(max(images.shape[2:]) - self.patch + 1) // _POSITIONS)
        spots = [(size - self.patch) // stride + 1 for size in images.shape[2:]]
        cells = torch.einsum("ai,bj->ijab", *map(_cells, spots)).reshape(spots[0] * spots[1], -1)
        cells = cells.to(folded)
        features = []
        for chunk in images.split(max(1, _RESPONSES // (len(kernel) * spots[0] * spots[1]))):
            x = chunk.to(folded) - 128  # near 0, or float32 would lose the variance
            first = F.avg_pool2d(x.mean(1, keepdim=True), self.patch, stride)
            second = F.avg_pool2d(x.square().mean(1, keepdim=True), self.patch, stride)
            contrast = (second - first.square() + _CONTRAST_FLOOR).rsqrt()
            r = F.conv2d(x, kernel, stride=stride).mul_(contrast).add_(offset[:, None, None])
            s = F.softshrink(r, _THRESHOLD).flatten(2)  # (batch, filter, position)
            features.append(torch.cat([s @ cells, s.abs_() @ cells], 2).flatten(1))
        return torch.cat(features)


def _cells(spots: int) -> Float[Tensor, "cell spot"]:
    """Row c averages the c-th part of a side, as `adaptive_avg_pool2d` cuts it."""
    return F.adaptive_avg_pool1d(torch.eye(spots), _GRID).T.contiguous()


def _random_patches(
    images: Images, patch: int, count: int, generator: torch.Generator
) -> Float[Tensor, "count pixel"]:
    def draw(end: int) -> Tensor:
        return torch.randint(end, (count, 1, 1), generator=generator)

    image = draw(len(images))
    rows = draw(images.shape[2] - patch + 1) + torch.arange(patch)[:, None]
    columns = draw(images.shape[3] - patch + 1) + torch.arange(patch)
    drawn = images[image, :, rows, columns]  # (count, row, column, 3)
    return drawn.permute(0, 3, 1, 2).flatten(1).float()
