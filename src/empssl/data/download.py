"""A file from the network, kept only if it is the one that was published."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from empssl.errors import DataError
from empssl.progress import first_process
from empssl.progress import progress as progress_bar

Progress = Callable[[int, int], None]

RETRIES = 3  # of a connection that broke off, each after a second more
_CHUNK = 2**20  # bytes between two reports
_PATIENCE = 60.0  # seconds without an answer


def fetch(url: str, md5: str, folder: Path, progress: Progress | None = None) -> Path:
    """Fetch what is at an address into a folder, where it has the name that it has there.

    Args:
        url: the address.
        md5: the sum that its authors' file has.
        folder: of its own, as of a download that breaks off nothing is removed.
        progress: called with the bytes fetched and the bytes in all; a bar by default.

    Raises:
        DataError: it cannot be fetched, or is another file.
    """
    import pooch

    name = url.rpartition("/")[2]
    pooch.get_logger().setLevel("WARNING")
    store = pooch.create(
        folder, url.removesuffix(name), registry={name: f"md5:{md5}"}, retry_if_failed=RETRIES
    )
    bar = progress_bar(f"fetching {name}", 1, silent=not first_process())
    with nullcontext() if progress else bar as advance:

        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
            elif advance is not None:
                advance(done, f"{done / 2**20:.0f} MiB", max(total, done, 1))

        way = pooch.HTTPDownloader(
            progressbar=_ProgressBar(report), chunk_size=_CHUNK, timeout=_PATIENCE
        )
        try:
            return Path(store.fetch(name, downloader=way))
        except OSError as error:
            raise DataError(f"cannot fetch {url}: {error}") from error
        except ValueError as error:
            raise DataError(
                f"what came from {url} is not the authors' archive: {error}; its authors may have "
                "replaced it, so fetch it by hand and look"
            ) from error


class _ProgressBar:
    """What pooch takes for a bar; a download that starts again counts from 0."""

    def __init__(self, report: Progress) -> None:
        self.report = report
        self.done = self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:  # at the beginning of each try
        self.done, self._total = 0, value

    def update(self, count: int) -> None:
        self.done += count
        self.report(min(self.done, self._total) if self._total else self.done, self._total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
