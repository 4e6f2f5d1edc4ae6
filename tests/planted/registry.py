"""Planted faults: small changes of the code, each of which must turn the test that it names red."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class StaleError(Exception):
    """The code has changed, and the fault can no longer be planted."""


@dataclass(frozen=True)
class Fault:
    """One of them.

    Attributes:
        area: the file that lists it, without its ending.
        name: what is wrong then.
        file: where, from the root of the tree.
        old: text that is in the file once.
        new: what takes its place.
        red: the test that must fail then, as pytest names it.
    """

    area: str
    name: str
    file: str
    old: str
    new: str
    red: str

    def planted(self, root: Path) -> str:
        """The file of a tree as it is with the fault in it.

        Raises:
            StaleError: the old text is not there once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if (found := text.count(self.old)) != 1:
            raise StaleError(f"{self.file} has {self.old!r} {found} times, expected once")
        return text.replace(self.old, self.new)


def registry() -> list[Fault]:
    """All planted faults, by area."""
    return [
        Fault(area=path.stem, **entry)
        for path in sorted(HERE.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    ]
