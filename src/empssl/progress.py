"""How far a long job is: a moving bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from empssl.console import Unfailing, log

PLAIN_SECONDS = 10.0


@runtime_checkable
class Advance(Protocol):
    """Tell how many of the job's items are done, and what is worth showing beside them.

    Of a job whose length was not known exactly, also how many items there are after all.
    """

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None: ...


@contextmanager
def progress(title: str, total: int, *, done: int = 0, silent: bool = False) -> Iterator[Advance]:
    """Show a job of `total` items on the error stream while the block runs.

    Args:
        title: what is being done.
        total: number of items.
        done: how many were done before; the time left is told from the others alone.
        silent: show nothing, as processes other than the first do.
    """
    # A terminal that is gone, as after a hang-up, ends the bar and not the job.
    console = Console(file=Unfailing(sys.stderr))  # type: ignore[arg-type]
    if silent:
        yield lambda done, note="", total=None: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[note]}"),
        )  # fmt: skip
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda done, note="", total=None: bar.update(
                task, completed=done, note=note, total=total
            )
    else:
        yield _plain(title, total, done)


def _plain(title: str, total: int, before: int) -> Advance:
    started = last = time.monotonic()
    known = total

    def advance(done: int, note: str = "", total: int | None = None) -> None:
        nonlocal last, known
        known = known if total is None else total
        now = time.monotonic()
        if done < known and now - last < PLAIN_SECONDS:
            return
        last = now
        left = (now - started) / max(done - before, 1) * (known - done)
        text = f"{title}: {done} of {known}, {left:.0f} s left"
        log(f"{text}, {note}" if note else text)

    return advance
