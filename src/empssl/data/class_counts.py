"""The classes of a data set in a line, so that folders taken for classes by mistake can be seen."""

from empssl.console import visible
from empssl.data.images import ImageSet

_SHOWN, _LONGEST = 10, 40


def class_counts(images: ImageSet) -> str:
    """How many images each class has, by its name; of many classes, the first ten.

    >>> import torch
    >>> from empssl.data.images import MemoryImages
    >>> pixels, labels = torch.zeros(3, 3, 2, 2).byte(), torch.tensor([0, 1, 0])
    >>> class_counts(MemoryImages(pixels, name="pets", split="all", fingerprint="", labels=labels,
    ...                           class_names=["cat", "dog"]))
    '2 classes in 3 images: cat 2, dog 1'
    """
    which = "" if images.split == "all" else f"{images.split} "
    where = f"in {len(images)} {which}images"
    if images.part:
        where += f" ({shortened(images.part)})"
    if images.labels is None:
        return f"no classes {where}"
    known = images.labels[images.labels >= 0]
    labels, counts = known.unique(return_counts=True)
    listed = [
        f"{shortened(images.class_name(label))} {count}"
        for label, count in zip(labels[:_SHOWN].tolist(), counts[:_SHOWN].tolist(), strict=True)
    ]
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    unknown = len(images) - len(known)
    without = f"; {unknown} without a class" if unknown else ""
    kinds = "1 class" if len(labels) == 1 else f"{len(labels)} classes"
    return f"{kinds} {where}: {', '.join(listed)}{more}{without}"


def shortened(name: str) -> str:
    """A name that fits into a line, control characters as escapes.

    >>> shortened("café"), shortened(f"red{chr(27)}[31m").count("x1b"), len(shortened("x" * 99))
    ('café', 1, 40)
    """
    shown = visible(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
