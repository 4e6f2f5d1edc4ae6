"""What scoring a run on CIFAR-10 costs: features, linear probe, nearest neighbors.

    python benchmarks/evaluation.py --data-dir data --run runs/cifar10-laptop-10m-0 [--write]

The claim is the time of grid features of all 60,000 images and of the linear probe on the head
layer. The same features are also computed with the network as it was trained, BatchNorm and all,
alternating with the folded one batch by batch, so that the two rates share their conditions.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from claim import claim

from empssl.data import MemoryImages, in_memory, open_images
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.pooling import Crops, embed_bags
from empssl.evaluation.probes.knn import knn_score
from empssl.evaluation.probes.linear import lbfgs_probe
from empssl.models import VIEW_LAYERS
from empssl.models.folding import folded

EXACT = 1000  # test images that are also embedded in float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--images", type=int, help="of train and of test; all by default")
    parser.add_argument("--crops", default="grid3")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    encoder, crops = Encoder.from_pretrained(args.run), Crops.parse(args.crops)
    networks = {"plain": encoder.network, "folded": folded(encoder.network)}
    seconds: dict[str, float] = defaultdict(float)

    def timed(part: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments, **options)
        seconds[part] += time.perf_counter() - began
        return result

    def embed(network: str, pixels: torch.Tensor, precision: Any = "auto") -> dict[str, Any]:
        samples = torch.arange(len(pixels))  # a grid does not depend on them
        options = {"precision": precision}
        return embed_bags(
            networks[network], encoder.policy, pixels, samples, crops, VIEW_LAYERS, **options
        )

    parts, labels = defaultdict(list), []
    for split in ("train", "test"):
        images = in_memory(
            open_images("cifar10", split=split, data_dir=args.data_dir, side=encoder.image_side),
            limit_bytes=2**40,
        )
        assert isinstance(images, MemoryImages)
        assert images.labels is not None
        labels.append(images.labels[: args.images])
        for k, rows in enumerate(encoder.batches(len(labels[-1]))):
            pixels = images.pixels[rows.start : rows.stop]
            if not parts:
                embed("plain", pixels), embed("folded", pixels)  # warm up
            for name in list(networks)[:: 1 if k % 2 else -1]:
                found = timed(name, embed, name, pixels)
                for layer in VIEW_LAYERS:
                    parts[name, layer, split].append(found[layer])
    features = {key: torch.cat(rows) for key, rows in parts.items()}
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for name in networks:
        for layer in VIEW_LAYERS:
            x, y = features[name, layer, "train"], features[name, layer, "test"]
            for probe, score in (("linear", lbfgs_probe), ("knn", knn_score)):
                part = f"{probe} {layer} {name}"
                found = timed(part, score, x, labels[0], y, labels[1])
                scores[name][f"{probe} {layer}"] = found.accuracy
    exact = embed("plain", images.pixels[: args.images][:EXACT], "32-true")
    cosine = {
        f"{name} {layer}": round(_least_cosine(features[name, layer, "test"], exact[layer]), 6)
        for name in networks for layer in VIEW_LAYERS
    }  # fmt: skip
    bag = len(crops.views(encoder.policy, pixels[:1], torch.zeros(1, dtype=torch.int64)))
    patches = bag * sum(map(len, labels))
    claim(
        "evaluation-cifar10", [seconds["folded"] + seconds["linear head folded"]],
        "s, features and linear probe of the head layer", write=args.write, patches=patches,
        seconds={part: round(t, 2) for part, t in seconds.items()},
        patches_per_second={name: round(patches / seconds[name]) for name in networks},
        folded_over_plain=round(seconds["plain"] / seconds["folded"], 4), accuracy=scores,
        least_cosine_to_float32=cosine, model=encoder.identity, crops=args.crops,
    )  # fmt: skip


def _least_cosine(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(F.cosine_similarity(found[: len(exact)], exact).min())


if __name__ == "__main__":
    main()
