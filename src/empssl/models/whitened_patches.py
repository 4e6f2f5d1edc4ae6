"""Whitened patches of the whole image: what can be had without learning by gradients."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from empssl.device import resolve_precision
from empssl.errors import DataError, UsageError
from empssl.types import Embeddings, Images

_NUM_SAMPLES = 50_000  # patches that the whitening is fitted on
_CONTRAST_FLOOR = 10.0  # variance, in squares of 255ths: keeps noise of flat patches small
_WHITENING_FLOOR = 0.1  # variance of contrast-normalized patches
_THRESHOLD = 0.25  # in standard deviations of a response, roughly
_GRID = 2  # cells per side that responses are averaged over
_POSITIONS = 32  # per side at most, on average: larger images are visited with a stride
_RESPONSES = 2**21  # held at a time: 8 MB stay in the cache, and 64 MB take twice as long

# Of `MirroredPatches` alone.
_COMPONENTS = 48  # of 108: the others are noise, and cost as much
_HALVED_IMAGES = 4096  # that patches of half-sized images are drawn from
_PATCHES = 2**14  # whose components are held at a time: 3 MB
_RESPONSES_A_BLOCK = 2**18  # 1 MB, near the core; a GPU takes 2**27
_RESPONSES_ON_GPU = 2**27


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

    identity = "whitened-patches"  # the model of their scores, as of a network its SHA-256
    mean: Tensor
    whitening: Tensor
    dictionary: Tensor

    def __init__(self, num_features: int = 1024, *, patch: int = 6) -> None:
        super().__init__()
        self.num_features, self.patch = num_features, patch
        count, pixels = _filters(num_features), 3 * patch**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("whitening", torch.zeros(pixels, pixels))
        self.register_buffer("dictionary", torch.zeros(count, pixels))

    @torch.no_grad()
    def fit(self, images: Images, *, seed: int = 0) -> "WhitenedPatches":
        """Whitening and dictionary from 50,000 random patches. No labels are used.

        Args:
            images: those that a probe will be trained on; never its test images.
            seed: of the patches.

        Raises:
            DataError: no images, or images too small for the patch.
        """
        _check_room(images, self.patch)
        generator = torch.Generator().manual_seed(seed)
        num_filters = len(self.dictionary)
        patches = _random_patches(images, self.patch, max(_NUM_SAMPLES, num_filters), generator)
        _normalize_contrast(patches)
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
        stride = _stride(images, self.patch)
        spots = [(size - self.patch) // stride + 1 for size in images.shape[2:]]
        cells = torch.einsum("ai,bj->ijab", *map(_cells, spots)).reshape(spots[0] * spots[1], -1)
        cells = cells.to(folded)
        features = []
        for chunk in images.split(max(1, _RESPONSES // (len(kernel) * spots[0] * spots[1]))):
            x = chunk.to(folded) - 128  # near 0, or float32 would lose the variance
            r = F.conv2d(x, kernel, stride=stride)
            r = r.mul_(_inverse_contrast(x, self.patch, stride)).add_(offset[:, None, None])
            s = F.softshrink(r, _THRESHOLD).flatten(2)  # (batch, filter, position)
            features.append(torch.cat([s @ cells, s.abs_() @ cells], 2).flatten(1))
        return torch.cat(features)


class MirroredPatches(nn.Module):
    """Random whitened patches and their mirror images as filters, at two scales.

    What `WhitenedPatches` computes, with four changes: of the whitened patches only the 48
    leading principal components are kept; the features of the image are averaged with those of its
    mirror image; a third of the filters see the image at half its size; and a filter has length 1
    in the space of the components. The mirror image costs nothing: the responses of a filter to it
    are those of the mirrored filter to the image, with left and right exchanged, so that both
    filters of a pair are applied once. They leave the averages of s and of |s|,
    s = softshrink(r, 0.25), over the four quarters.

    Nothing in it is learned by gradients: `fit` measures the images once.

    Args:
        num_features: of an image, 8 for each pair of filters.
        patch: side in pixels, at both scales.

    Attributes:
        mean: (scale, pixel), of contrast-normalized patches and their mirror images.
        whitening: (scale, component, pixel), (values + 0.1)^-1/2 times the leading eigenvectors; of
            the half-sized images 0 where they have no room for two patches side by side.
        dictionary: (pair, 2, component), a whitened patch of length 1 and that of its mirror image;
            pairs for the image first.

    Raises:
        UsageError: `num_features` is not a multiple of 8.
    """

    identity = "whitened-mirrored"
    mean: Tensor
    whitening: Tensor
    dictionary: Tensor

    def __init__(self, num_features: int = 3072, *, patch: int = 6) -> None:
        super().__init__()
        self.num_features, self.patch = num_features, patch
        count, pixels = _filters(num_features), 3 * patch**2
        components = min(_COMPONENTS, pixels)
        self.register_buffer("mean", torch.zeros(2, pixels))
        self.register_buffer("whitening", torch.zeros(2, components, pixels))
        self.register_buffer("dictionary", torch.zeros(count, 2, components))

    @torch.no_grad()
    def fit(self, images: Images, *, seed: int = 0) -> "MirroredPatches":
        """Whitening and dictionary from 50,000 random patches of each scale. No labels are used.

        Args:
            images: those that a probe will be trained on; never its test images.
            seed: of the patches.

        Raises:
            DataError: no images, or images too small for the patch.
        """
        _check_room(images, self.patch)
        generator = torch.Generator().manual_seed(seed)
        self.whitening.zero_()
        start = 0
        for scale, num_pairs in enumerate(self._pairs(images)):
            count = max(_NUM_SAMPLES, num_pairs)
            source = _halved(_drawn(images, generator)) if scale else images
            patches = _random_patches(source, self.patch, count, generator).cpu().double()
            _normalize_contrast(patches)
            mirrored = patches.unflatten(1, (3, self.patch, self.patch)).flip(3).flatten(1)
            mean = (patches.mean(0) + mirrored.mean(0)) / 2
            both = torch.stack([patches, mirrored], 1) - mean  # (count, 2, pixel)
            flat = both.flatten(0, 1)
            # With the mirror images in it the covariance is its own mirror image, and a mirrored
            # filter gives to an image just what the filter gives to the mirrored image.
            values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
            kept = self.whitening.shape[1]
            values, vectors = values[-kept:].flip(0), vectors[:, -kept:].flip(1)
            whitening = ((values + _WHITENING_FLOOR).rsqrt() * vectors).T
            self.mean[scale].copy_(mean)
            self.whitening[scale].copy_(whitening)
            chosen = F.normalize(both[:num_pairs] @ whitening.T, dim=2)
            self.dictionary[start : start + num_pairs].copy_(chosen)
            start += num_pairs
        return self

    @torch.no_grad()
    def forward(self, images: Images) -> Embeddings:
        """Features of the images, `[quarter of s, then of |s|]` for each pair of filters.

        Raises:
            DataError: images of a side that has another number of scales than those of `fit`.
        """
        pairs = self._pairs(images)
        if bool(self.whitening[1].any()) != (len(pairs) > 1):
            raise DataError(
                f"images are {tuple(images.shape)}, and these patches were fitted on images that "
                f"were {'smaller' if len(pairs) > 1 else 'larger'}; give images of their side"
            )
        kernels = self.whitening.unflatten(2, (3, self.patch, self.patch))
        # A kernel of sum 0 sees p - mean p, so that only the contrast is left to divide by.
        kernels = kernels - kernels.mean((2, 3, 4), keepdim=True)
        offsets = -(self.whitening @ self.mean[:, :, None])
        filters = [part.transpose(0, 1).flatten(0, 1).T for part in self.dictionary.split(pairs)]
        filters = [part.contiguous() for part in filters]  # (component, 2 * pair)
        largest = math.prod(size // _stride(images, self.patch) for size in images.shape[2:])
        found = []
        for chunk in images.split(max(1, _PATCHES // largest)):
            pixels = chunk.to(self.mean)
            parts = []
            for scale in range(len(pairs)):
                maps = self._components(
                    _halved(pixels) if scale else pixels, kernels[scale], offsets[scale]
                )
                parts.append(_pooled(maps, filters[scale]))
            found.append(torch.cat(parts, 1))
        return torch.cat(found)

    def _pairs(self, images: Tensor) -> list[int]:
        """Pairs of filters for each scale: one scale where half-sized images have no room."""
        count = len(self.dictionary)
        halves = count // 3 if min(images.shape[2:]) // 2 > self.patch else 0
        return [count - halves, halves] if halves else [count]

    def _components(
        self, pixels: Float[Tensor, "batch 3 height width"], kernel: Tensor, offset: Tensor
    ) -> Float[Tensor, "batch row column component"]:
        """The whitened components of every patch."""
        stride = _stride(pixels, self.patch)
        x = pixels - 128  # near 0, or float32 would lose the variance
        found: Tensor = F.conv2d(x, kernel, stride=stride)
        found = found.mul_(_inverse_contrast(x, self.patch, stride)).add_(offset[:, :, None])
        return found.permute(0, 2, 3, 1).contiguous()


PatchFeatures = WhitenedPatches | MirroredPatches


def _pooled(
    maps: Float[Tensor, "batch row column component"], filters: Float[Tensor, "component filter"]
) -> Float[Tensor, "batch feature"]:
    """Averages of s and |s| over the quarters, of the image and its mirror image.

    sum s+ = sum max(r, t) - t and sum s- = -sum min(r, -t) - t: two passes over the responses and
    two small products, block by block.
    """
    batch, *spots, _ = maps.shape
    positions = spots[0] * spots[1]
    quarters = torch.einsum("ai,bj->abij", *map(_cells, spots)).reshape(-1, positions).to(maps)
    device = maps.device.type
    half = resolve_precision("auto", device) == "bf16-mixed" and maps.dtype == torch.float32
    held = _RESPONSES_A_BLOCK if device == "cpu" else _RESPONSES_ON_GPU
    width = min(filters.shape[1], max(64, held // positions))
    images_at_once = max(1, held // (positions * width))
    flat = maps.flatten(0, 2)
    if half:
        flat, filters = flat.bfloat16(), filters.bfloat16()
    above = maps.new_empty(batch, len(quarters), filters.shape[1])
    below = torch.empty_like(above)
    buffer = maps.new_empty(min(batch, images_at_once) * positions * width)
    clamped = torch.empty_like(buffer)
    for rows in torch.arange(batch).split(images_at_once):
        start, end = int(rows[0]), int(rows[-1]) + 1
        x = flat[start * positions : end * positions]
        for left in range(0, filters.shape[1], width):
            block = filters[:, left : left + width]
            size = len(x) * block.shape[1]
            r = buffer[:size].view(len(x), -1)
            s = clamped[:size].view(len(x), -1)
            if half:
                r.copy_(x @ block)
            else:
                torch.mm(x, block, out=r)
            torch.clamp(r, min=_THRESHOLD, out=s)
            r.clamp_(max=-_THRESHOLD)
            for total, part in ((above, s), (below, r)):
                total[start:end, :, left : left + width] = quarters @ part.view(
                    end - start, positions, -1
                )
    positive, negative = above.sub_(_THRESHOLD), below.neg_().sub_(_THRESHOLD)
    means = torch.stack([positive - negative, positive + negative], 1)
    means = means.unflatten(2, (_GRID, _GRID)).unflatten(4, (2, -1))  # (.., row, column, 2, pair)
    plain, mirrored = means.unbind(4)
    both: Tensor = (plain + mirrored.flip(3)) / 2  # (batch, 2, row, column, pair)
    return both.permute(0, 4, 1, 2, 3).flatten(1)


def _filters(num_features: int) -> int:
    """How many filters, or pairs of them, give so many features.

    Raises:
        UsageError: no whole number of them does.
    """
    each = 2 * _GRID**2
    if num_features < 1 or num_features % each:
        raise UsageError(f"num_features is {num_features}; give a multiple of {each}")
    return num_features // each


def _normalize_contrast(patches: Float[Tensor, "count pixel"]) -> None:
    """Bring each patch to mean 0 and variance 1, in place."""
    patches -= patches.mean(1, keepdim=True)
    patches /= (patches.square().mean(1, keepdim=True) + _CONTRAST_FLOOR).sqrt()


def _inverse_contrast(
    x: Float[Tensor, "batch 3 height width"], patch: int, stride: int
) -> Float[Tensor, "batch 1 row column"]:
    """(var p + 10)^-1/2 of every patch."""
    first = F.avg_pool2d(x.mean(1, keepdim=True), patch, stride)
    second = F.avg_pool2d(x.square().mean(1, keepdim=True), patch, stride)
    return (second - first.square() + _CONTRAST_FLOOR).rsqrt()


def _check_room(images: Images, patch: int) -> None:
    if len(images) == 0 or min(images.shape[2:]) <= patch:
        raise DataError(
            f"images are {tuple(images.shape)}; patches of {patch} pixels need at least "
            f"one image of {patch + 1} pixels a side, or give a smaller patch"
        )


def _stride(images: Tensor, patch: int) -> int:
    return -(-(max(images.shape[2:]) - patch + 1) // _POSITIONS)


def _halved(images: Tensor) -> Float[Tensor, "batch 3 height width"]:
    """Images at half their size, by the means of areas."""
    height, width = images.shape[2:]
    return F.adaptive_avg_pool2d(images.float(), (height // 2, width // 2))


def _drawn(images: Images, generator: torch.Generator) -> Images:
    if len(images) <= _HALVED_IMAGES:
        return images
    rows = torch.randperm(len(images), generator=generator)[:_HALVED_IMAGES]
    return images[rows.to(images.device)]


def _cells(spots: int) -> Float[Tensor, "cell spot"]:
    """Row c averages the c-th part of a side, as `adaptive_avg_pool2d` cuts it."""
    return F.adaptive_avg_pool1d(torch.eye(spots), _GRID).T.contiguous()


def _random_patches(
    images: Tensor, patch: int, count: int, generator: torch.Generator
) -> Float[Tensor, "count pixel"]:
    def draw(end: int) -> Tensor:
        return torch.randint(end, (count, 1, 1), generator=generator)

    image = draw(len(images))
    rows = draw(images.shape[2] - patch + 1) + torch.arange(patch)[:, None]
    columns = draw(images.shape[3] - patch + 1) + torch.arange(patch)
    drawn = images[image, :, rows, columns]  # (count, row, column, 3)
    return drawn.permute(0, 3, 1, 2).flatten(1).float()
