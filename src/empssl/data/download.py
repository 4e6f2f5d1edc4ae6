"""A file from the network, kept only if it is the one that was published."""

import hashlib
import urllib.request
from collections.abc import Callable
from typing import BinaryIO

from empssl.errors import DataError

Progress = Callable[[int, int], None]


def fetch(url: str, md5: str, into: BinaryIO, progress: Progress | None = None) -> None:
    """Write what is at an address to an open file, and go back to the file's beginning.

    Args:
        url: the address.
        md5: the sum that its authors' file has.
        into: open for writing.
        progress: called with the bytes fetched and the bytes in all.

    Raises:
        DataError: it cannot be fetched, or is another file.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            while block := response.read(2**20):
                into.write(block)
                digest.update(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
    except OSError as error:
        raise DataError(f"cannot fetch {url}: {error}") from error
    if digest.hexdigest() != md5:
        raise DataError(
            f"what came from {url} is not the authors' archive: its MD5 sum is "
            f"{digest.hexdigest()}, expected {md5}"
        )
    into.seek(0)
