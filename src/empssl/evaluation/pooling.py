"""A bag of patches: an image's embedding as the mean of its patches' embeddings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from empssl.device import Precision, resolve_precision
from empssl.errors import UsageError
from empssl.models import VIEW_LAYERS, Layer, Network
from empssl.rng import uniform
from empssl.types import Embeddings, Images, Views
from empssl.views import Policy
from empssl.views.crop import grid

# Patches at once, on the CPU for each thread; a GPU needs more to be busy. With freed memory kept
# (`device.keep_freed_memory`) 256 to 2048 differ by 1 %; without it 2048 loses a quarter.
PATCHES_A_THREAD = 256
PATCHES_ON_GPU = 4096
# Memory goes by pixels: patches of more than 64 x 64 are fewer at once.
PIXELS_A_PATCH = 64 * 64
# Far from the epochs of training, so that evaluation never sees a training view again.
_EPOCH = 2**40


@dataclass(frozen=True)
class Crops:
    """Which patches of an image go into its bag.

    Attributes:
        kind: `grid` takes clean patches on a regular grid, edges included, and their mirror
            images where training mirrored too; `random` takes randomly placed and augmented ones,
            as in training (the authors' evaluation takes 128 of them); `whole` takes the image.
        count: patches along each side of the grid, or random patches.
        seed: of random patches.
        share: of the image's side that a patch of the grid covers; None for that of training. With
            it networks that were trained on different views are given the same pixels.
        enlarged: how many times a patch of that share is enlarged.
    """

    kind: Literal["grid", "random", "whole"]
    count: int = 1
    seed: int = 0
    share: float | None = None
    enlarged: float = 1.0

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> "Crops":
        """From `grid3`, `random128` or `whole`.

        `grid2@0.5` is a grid of patches of half the image's side at their own size, and
        `grid2@0.5x2` of the same enlarged to twice that, whatever the views of training were.

        Raises:
            UsageError: it is none of these.

        >>> Crops.parse("grid3") == Crops("grid", 3)
        True
        >>> Crops.parse("grid2@0.5x2") == Crops("grid", 2, share=0.5, enlarged=2.0)
        True
        """
        match = re.fullmatch(
            r"whole|(random)([1-9]\d*)|(grid)([1-9]\d*)(?:@(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?)?",
            text,
        )
        share = float(match[5]) if match and match[5] else None
        enlarged = float(match[6]) if match and match[6] else 1.0
        if match is None or (share is not None and not 0 < share <= 1) or enlarged <= 0:
            raise UsageError(
                f"no crops '{text}'; write grid3, random128 or whole; or grid3@0.5 for a grid of "
                "patches of half the image's side, and grid3@0.5x2 to enlarge them twice"
            )
        if text == "whole":
            return cls("whole")
        if match[1]:
            return cls("random", int(match[2]), seed)
        return cls("grid", int(match[4]), seed, share, enlarged)

    def __str__(self) -> str:
        """As `parse` reads it.

        >>> [str(Crops.parse(text)) for text in ("grid3", "grid2@0.50", "grid2@0.5x2", "whole")]
        ['grid3', 'grid2@0.5', 'grid2@0.5x2', 'whole']
        """
        if self.kind == "whole":
            return self.kind
        share = "" if self.share is None else f"@{self.share:.10g}"
        return f"{self.kind}{self.count}{share}" + (
            "" if self.enlarged == 1 else f"x{self.enlarged:.10g}"
        )

    def views(self, policy: Policy, images: Images, samples: Tensor) -> Views:
        """The bag's patches, ready for the backbone.

        Args:
            policy: as the network was trained with.
            images: square.
            samples: int64 (batch,), their indices in the data set; random patches depend on them.
        """
        if self.kind == "whole":
            return policy.augmentation.normalize(images.float().div_(255))[None]
        if self.kind == "random":
            views = range(self.count)
            u = uniform(samples, seed=self.seed, epoch=_EPOCH, views=views, draws=policy.draws)
            return policy(images, u)
        side = images.shape[-1]
        patch, view = self.sides(policy, side)
        top, left = grid(side, patch, self.count)
        mirror = policy.augmentation.flip > 0
        return policy.clean(images, top, left, mirror=mirror, patch=patch, view=view)

    def sides(self, policy: Policy, side: int) -> tuple[int, int]:
        """Pixels along a patch of the grid, and along what the backbone sees of it.

        Args:
            policy: as the network was trained with.
            side: of the image.
        """
        if self.share is None:
            return policy.patch_side(side), policy.view_side(side)
        patch = max(1, round(self.share * side))
        return patch, max(1, round(self.enlarged * patch))

    def size(self, policy: Policy, side: int) -> int:
        """Patches in a bag of an image of `side` pixels."""
        image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        return len(self.views(policy, image, torch.zeros(1, dtype=torch.long)))


def patches_at_once(device: torch.device, side: int) -> int:
    """As many of `side` pixels as keep a device busy; more would only take memory."""
    most = PATCHES_ON_GPU if device.type != "cpu" else PATCHES_A_THREAD * torch.get_num_threads()
    return max(1, min(most, most * PIXELS_A_PATCH // side**2))


def embed_bags(
    network: Network,
    policy: Policy,
    images: Images,
    samples: Tensor,
    crops: Crops,
    layers: Sequence[Layer],
    *,
    precision: Precision = "auto",
) -> dict[Layer, Embeddings]:
    """Each image's embedding at each layer, float32 on the CPU.

    Args:
        network: in eval mode; `models.folding.folded` makes it faster.
        policy: as the network was trained with.
        images: of any number; memory grows only with the result.
        samples: int64, the images' indices in their data set.
        crops: which patches.
        layers: where embeddings are taken.
        precision: as in training; only of what the network computes.
    """
    bags = embed_patch_subsets(
        network, policy, images, samples, crops, layers, (), precision=precision
    )
    return bags[-1]


@torch.inference_mode()
def embed_patch_subsets(
    network: Network,
    policy: Policy,
    images: Images,
    samples: Tensor,
    crops: Crops,
    layers: Sequence[Layer],
    counts: Sequence[int],
    *,
    precision: Precision = "auto",
) -> list[dict[Layer, Embeddings]]:
    """Embeddings of the first so many patches of each image, and last of all of them.

    Every image has an order of its own, in which a smaller bag is part of a larger one.

    Args:
        network: as in `embed_bags`, and so are the others.
        policy: as the network was trained with.
        images: of any number.
        samples: int64, the images' indices in their data set.
        crops: which patches, and the seed of the order.
        layers: where embeddings are taken.
        counts: patches in each of the smaller bags, fewer than there are.
        precision: as in training.
    """
    if network.training:
        raise ValueError("the network is in training mode, where BatchNorm mixes images")
    if not len(images):
        empty = {layer: torch.empty(0, network.width(layer)) for layer in layers}
        return [empty for _ in range(len(counts) + 1)]
    device = next(network.parameters()).device
    half = resolve_precision(precision, device.type) == "bf16-mixed"
    per_image, *_, side = crops.views(policy, images[:1], samples[:1]).shape
    step = max(1, patches_at_once(device, side) // per_image)
    of_views = [layer for layer in layers if layer != "joint"]
    needed = dict.fromkeys([*of_views, *VIEW_LAYERS] if "joint" in layers else of_views)
    bags: list[dict[Layer, list[Tensor]]] = [
        {layer: [] for layer in needed} for _ in range(len(counts) + 1)
    ]
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        views = crops.views(policy, images[part].to(device), samples[part].to(device))
        flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            embedded = network.embed(flat, list(needed))
        places = _places(samples[part].to(device), per_image, crops.seed) if counts else None
        for layer in needed:
            each = embedded[layer].float().unflatten(0, views.shape[:2])
            bags[-1][layer].append(each.mean(0).cpu())
            for bag, count in zip(bags, counts, strict=False):
                assert places is not None
                first = (places < count).float() / count
                bag[layer].append(torch.einsum("vbf,vb->bf", each, first).cpu())
    whole: Tensor | None = None
    if "joint" in layers:
        if network.whitened is None:
            raise UsageError("the network has no whitened patches for the joint embedding")
        whole = network.whitened(images.to(network.whitened.mean.device)).cpu()
    grown = []
    for bag in bags:
        found = {layer: torch.cat(parts) for layer, parts in bag.items()}
        if whole is not None:
            found["joint"] = joint(found, whole)
        grown.append({layer: found[layer] for layer in layers})
    return grown


def _places(samples: Tensor, count: int, seed: int) -> Int64[Tensor, "view batch"]:
    """The place of each patch in the order of its image."""
    keys = uniform(samples, seed=seed, epoch=_EPOCH + 1, views=range(count), draws=1)[..., 0]
    return keys.argsort(0).argsort(0)


def joint(bags: dict[Layer, Tensor], whole: Tensor) -> Embeddings:
    """The layers of the bags and the whitened patches of whole images, each of length 1."""
    parts = [*(bags[layer] for layer in VIEW_LAYERS), whole]
    return torch.cat([torch.nn.functional.normalize(part.float(), dim=1) for part in parts], 1)
