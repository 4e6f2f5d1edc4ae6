"""Which images are for training and which for testing: by the names of parts, or by a hash."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from empssl.types import Split

FRACTION = 0.2
TRAIN_WORDS = ("train", "training")
TEST_WORDS = (
    ("test", "testing"), ("val", "valid", "validation"), ("dev",), ("eval", "evaluation"),
    ("holdout",),
)  # fmt: skip
# What the name of a part may say besides, without saying which part it is.
_FILLERS = {
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "jpg", "png"),
    *("data", "dataset", "set", "split", "part", "of", "partial"),
}
_EVERY_WORD = (*TRAIN_WORDS, *(word for words in TEST_WORDS for word in words))
_WORD = re.compile(rf"({'|'.join(sorted(_EVERY_WORD, key=len, reverse=True))})(?:set)?\d*")


@dataclass(frozen=True)
class Part:
    """What the name of a folder or file says of the part of the data that it holds.

    Attributes:
        word: one of `TRAIN_WORDS` or `TEST_WORDS`.
        rest: what else is in the name; the parts of one data set have it alike.
        plain: whether the name is the word and nothing else.
    """

    word: str
    rest: tuple[str, ...]
    plain: bool

    @property
    def is_train(self) -> bool:
        return self.word in TRAIN_WORDS


def part(name: str) -> Part | None:
    """The part that a name speaks of: by its first word or its last, in capitals or not.

    >>> part("train_images"), part("cats-Test-00000-of-00002")
    (Part(word='train', rest=(), plain=False), Part(word='test', rest=('cats',), plain=False))
    >>> part("valley"), part("trainers")
    (None, None)
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = [w for w in re.split(r"[\s_.-]+", spaced) if w and not w.isdigit() and w != "of"]
    for at in (0, len(words) - 1) if words else ():
        if found := _WORD.fullmatch(words[at]):
            rest = (*words[:at], *words[at + 1 :])
            kept = tuple(word for word in rest if word not in _FILLERS)
            return Part(found[1], kept, plain=name.lower() == found[1])
    return None


def held_out(name: str | bytes, *, fraction: float = FRACTION) -> bool:
    """Whether the image of this name, or of this content, belongs to the test split.

    Depends on that alone, so that images added later move no other. Each class is therefore
    divided 80 : 20 on average, not exactly.

    >>> held_out("cat/1.jpg"), held_out("cat/3.jpg")
    (False, True)
    """
    return _place(name) < fraction * 2**64


def divided(keys: Sequence[str | bytes], labels: Sequence[int]) -> list[Split]:
    """The split of each image: `held_out` by its key, as far as probes can be learned then.

    A class that only test would have goes to train, where it can be learned. If that leaves
    nothing to test on, the first image to be held out of a class of two or more is.

    Args:
        keys: what stays the same of an image wherever it lies.
        labels: -1 where unknown.

    >>> divided(["cat/1.jpg", "cat/3.jpg", "dog/3.jpg"], [0, 0, 1])
    ['train', 'test', 'train']
    """
    held = [held_out(key) for key in keys]
    learned = {label for label, test in zip(labels, held, strict=True) if not test}
    held = [test and label in learned for label, test in zip(labels, held, strict=True)]
    if not any(held):
        counts = Counter(labels)
        spare = [k for k, label in enumerate(labels) if label >= 0 and counts[label] > 1]
        if spare:
            held[min(spare, key=lambda k: _place(keys[k]))] = True
    return ["test" if test else "train" for test in held]


def _place(name: str | bytes) -> int:
    """A number below 2^64 that the name decides; the lowest are held out."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
