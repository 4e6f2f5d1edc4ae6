"""The directory of a comparison. The only file that knows the names of its files.

runs/NAME             the run of a cell
cells/NAME.lock       held by the process that works on it
cells/NAME.failed     why it failed the last time
cells/NAME.map        where the page's map has its images
compare.json          everything
compare.md            the table
compare.html          the table and the plots
"""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

from empssl.errors import UsageError
from empssl.storage import hold, replace, writing


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
        return self.path / "runs"

    @property
    def page_path(self) -> Path:
        return self.path / "compare.html"

    def claim(self, name: str) -> AbstractContextManager[None]:
        """Work on a cell, alone.

        Raises:
            RunInUseError: another process does.
        """
        with writing(self.path):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
        return hold(self._file(name, "lock"), self.path / name)

    def fail(self, name: str, why: str) -> None:
        """Write down that a cell failed, in one line."""
        replace(self._file(name, "failed"), " ".join(why.split()) + "\n")

    def forgive(self, name: str) -> None:
        self._file(name, "failed").unlink(missing_ok=True)

    def failure(self, name: str) -> str | None:
        """Why a cell failed; None if it did not."""
        file = self._file(name, "failed")
        return file.read_text().strip() if file.exists() else None

    def failed_since(self, name: str) -> bool:
        """Whether it failed after this process began: then trying again would change nothing."""
        file = self._file(name, "failed")
        return file.exists() and file.stat().st_mtime >= self.began

    def keep_map(self, name: str, content: str) -> None:
        """Write down a cell's map, which takes seconds to make."""
        with writing(self.path):
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
        replace(self._file(name, "map"), content)

    def kept_map(self, name: str) -> str | None:
        """A cell's map as it was kept; None if there is none."""
        file = self._file(name, "map")
        return file.read_text() if file.exists() else None

    def write(self, *, record: str, table: str, page: str) -> None:
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        replace(self.path / "compare.json", record + "\n")
        replace(self.path / "compare.md", table + "\n")
        replace(self.page_path, page)

    def _file(self, name: str, kind: str) -> Path:
        return self.path / "cells" / f"{quote(name, safe='')}.{kind}"
