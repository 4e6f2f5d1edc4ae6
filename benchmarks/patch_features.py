"""Speed of whitened patches: images/s and GFLOP/s of each kind, and of the plain twin.

python benchmarks/patch_features.py --data-dir data [--images 128] [--features 3072] [--write]

Each on one thread, of the first images of CIFAR-10's train split; the twin, which takes one patch
and one filter at a time, of one image and 96 features. GFLOP are those of the products: patches
with the whitening (or with filters that hold it), and whitened patches with the dictionary.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from claim import claim

from empssl.data import open_images
from empssl.models import MirroredPatches, WhitenedPatches

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from references import mirrored_patches as plain

SIDE, PATCH, CHANNELS, COMPONENTS = 32, 6, 3, 48
PIXELS = CHANNELS * PATCH**2
TWIN_FEATURES = 96


def gflop(kind: str, features: int) -> float:
    """Of an image."""
    spots, half_spots = (SIDE - PATCH + 1) ** 2, (SIDE // 2 - PATCH + 1) ** 2
    if kind == "plain":
        return 2e-9 * spots * PIXELS * features / 8
    pairs = features // 8
    filters = (2 * (pairs - pairs // 3), 2 * (pairs // 3))
    return 2e-9 * sum(
        count * COMPONENTS * (PIXELS + number)
        for count, number in zip((spots, half_spots), filters, strict=True)
    )


def rate(work: Callable[[], object], images: int, tries: int) -> list[float]:
    """Images per second, of each try but the first."""
    work()
    found = []
    for _ in range(tries):
        began = time.perf_counter()
        work()
        found.append(images / (time.perf_counter() - began))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--features", type=int, default=3072)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = open_images("cifar10", split="train", data_dir=args.data_dir)
    fitted_on = data.read(range(5000)).pixels
    images = fitted_on[: args.images]
    speeds: dict[str, list[float]] = {}
    for name, kind in (("plain", WhitenedPatches), ("mirrored", MirroredPatches)):
        patches = kind(args.features).fit(fitted_on)
        speeds[name] = rate(lambda made=patches: made(images), len(images), args.tries)
    small = MirroredPatches(TWIN_FEATURES).fit(fitted_on)
    parts = [part.double().numpy() for part in (small.mean, small.whitening, small.dictionary)]
    pairs = [TWIN_FEATURES // 8 - TWIN_FEATURES // 24, TWIN_FEATURES // 24]
    image = images[0].numpy()
    twin = rate(lambda: plain.features(image, *parts, PATCH, pairs), 1, 1)
    work = {name: gflop(name, args.features) for name in speeds}
    for name, found in (*speeds.items(), (f"twin, {TWIN_FEATURES} features", twin)):
        each = work.get(name, gflop("mirrored", TWIN_FEATURES))
        best = max(found)
        print(f"{name:20} {best:10.2f} images/s {best * each:8.3f} GFLOP/s", flush=True)
    claim(
        "patch-features", speeds["mirrored"], "images/s", write=args.write,
        images=args.images, features=args.features, images_per_second=speeds,
        gflop_per_image=work,
        gflop_per_second={name: max(found) * work[name] for name, found in speeds.items()},
        twin={"features": TWIN_FEATURES, "images_per_second": twin},
    )  # fmt: skip


if __name__ == "__main__":
    main()
