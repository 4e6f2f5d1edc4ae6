"""The directory of a comparison. The only file that knows the names of its files.

runs/NAME             the run of a run
cells/NAME.lock       held by the process that works on it
cells/NAME.failed     why it failed the last time
cells/NAME.map        where the page's map has its images
compare.json          everything
compare.md            the table
compare.html          the table and the plots
"""

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

from empssl.errors import CheckpointError, UsageError
from empssl.progress import markdown
from empssl.runs.files import check_no_links, fitting, hold, replace, writing
from empssl.runs.schema import read_json, read_text, rule


class KeptMap(TypedDict):
    """cells/NAME.map: what the map is of, where its images lie, and how it was made, in words."""

    of: dict[str, Any]
    points: list[list[float]]
    how: str
    reading: str


class KeptTable(TypedDict, total=False):
    """compare.json, as far as it says what the table shows."""

    data: str
    protocol: "KeptProtocol"
    cells: list[dict[str, Any]]


class KeptProtocol(TypedDict, total=False):
    """How its runs were scored."""

    probes: list[str]
    crops: str
    train_size: int | None


@rule(KeptTable)
def _named(found: KeptTable) -> str | None:
    """Every run has a name."""
    return None if all("name" in spec for spec in found["cells"]) else "a run has no name"


@rule(KeptMap)
def _pairs(found: KeptMap) -> str | None:
    """Two coordinates for each image."""
    flat = all(len(point) == 2 for point in found["points"])
    return None if flat and found["points"] else "points must be pairs of numbers"


class Folder:
    """What a comparison has on disk.

    Args:
        path: of a new or an old one.

    Raises:
        UsageError: it is a run, or a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if (self.path / "config.yaml").exists() or self.path.is_file():
            raise UsageError(f"{path} is a run or a file; a comparison needs an --out of its own")
        self.began = time.time()

    @property
    def runs(self) -> Path:
        return check_no_links(self.path, "runs")

    @property
    def page_path(self) -> Path:
        return self.path / "compare.html"

    @property
    def record_path(self) -> Path:
        return self.path / "compare.json"

    def kept_table(self) -> KeptTable | None:
        """The table that was written last; None if there is none that can be read."""
        try:
            found: KeptTable = read_json(self.record_path, KeptTable)
        except CheckpointError:
            return None
        return found

    def claim(self, name: str) -> AbstractContextManager[None]:
        """Work on a run, alone.

        Raises:
            RunInUseError: another process does.
        """
        self._make("cells")
        return hold(self._file(name, "lock"), self.path / name)

    def fail(self, name: str, why: str) -> None:
        """Write down that a run failed, in one line."""
        replace(self._file(name, "failed"), " ".join(why.split()) + "\n")

    def clear_failure(self, name: str) -> None:
        self._file(name, "failed").unlink(missing_ok=True)

    def failure(self, name: str) -> str | None:
        """Why a run failed; None if it did not."""
        file = self._file(name, "failed")
        return read_text(file).strip() if file.exists() else None

    def failed_since(self, name: str) -> bool:
        """Whether it failed after this process began: then trying again would change nothing."""
        file = self._file(name, "failed")
        return file.exists() and file.stat().st_mtime >= self.began

    def keep_map(self, name: str, content: KeptMap) -> None:
        """Write down a run's map, which takes seconds to make."""
        self._make("cells")
        replace(self._file(name, "map"), json.dumps(content))

    def kept_map(self, name: str) -> KeptMap | None:
        """A run's map as it was kept; None if there is none that can be read."""
        file = self._file(name, "map")
        try:
            found: KeptMap | None = read_json(file, KeptMap) if file.exists() else None
        except CheckpointError:  # it is made again
            return None
        return found

    def write(self, *, record: str, table: str, page: str) -> None:
        self._make()
        replace(self.record_path, record + "\n")
        replace(self.path / "compare.md", markdown(table) + "\n")
        replace(self.page_path, page)

    def _make(self, *names: str) -> None:
        """Make a folder in it, and the directory itself."""
        folder = check_no_links(self.path, *names)
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)

    def _file(self, name: str, kind: str) -> Path:
        return check_no_links(self.path, "cells") / f"{fitting(quote(name, safe=''))}.{kind}"
