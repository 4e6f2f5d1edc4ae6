"""What is said to a person: messages on the error stream, results on the output stream.

Messages are not the run: where the error stream is full, closed or of another encoding, what it
does not take is lost, and work goes on. Names come from files of others, so that control
characters, which would move a terminal's cursor or change its colors, are shown as escapes.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from html import escape
from textwrap import fill
from typing import Any, Protocol, runtime_checkable

RANKS = ("RANK", "LOCAL_RANK")  # what launchers call the number of a process, 0 in the first
WIDTH = 80  # of a terminal, which lines for a person fit
_waiting: list[str] = []  # the lines of `status` that are on the terminal; one at most
PLAIN_SECONDS = 10.0
_BAR_WIDTH = 20
_NUMBERS_WIDTH = 22  # of "100% 10:23:45 left" and the spaces between columns


def visible(text: str, keep: str = "") -> str:
    r"""What a person can see of a text: control characters and broken bytes as escapes.

    Args:
        text: of any origin.
        keep: characters that stay as they are.

    >>> print(visible("a\x1b[31m\udcffb\n"))
    a\x1b[31m\udcffb\n
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def markdown(text: str) -> str:
    """A text as Markdown in which it makes neither HTML nor links; lines stay lines.

    >>> markdown("<b>[x](https://example.org)</b>")
    '&lt;b>[x]&#40;https://example.org)&lt;/b>'
    """
    return visible(text, keep="\n").replace("<", "&lt;").replace("](", "]&#40;")


def paragraph(text: str, start: str = "", indent: str | None = None) -> str:
    """A text in lines that fit a terminal; no word is broken.

    Args:
        text: in one line.
        start: what stands before it.
        indent: before all other lines; as wide as `start` if it is not given.

    >>> print(paragraph("word " * 18, start="ok  "))
    ok  word word word word word word word word word word word word word word word
        word word word
    """
    return fill(
        text, WIDTH, initial_indent=start, break_long_words=False, break_on_hyphens=False,
        subsequent_indent=" " * len(start) if indent is None else indent,
    )  # fmt: skip


def preformatted(text: str) -> str:
    """A text as a notebook shows it: every line as it is, and nothing in it is HTML.

    >>> preformatted("<b>")
    '<pre>&lt;b&gt;</pre>'
    """
    return f"<pre>{escape(visible(text, keep=chr(10)))}</pre>"


class Unfailing:
    """A text stream to which writing never fails: what the stream does not take is lost.

    Args:
        stream: the error stream, which is None where the process was started without one.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if self.stream is not None:
            with suppress(OSError, ValueError):  # full or gone; closed
                self.stream.write(_encodable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            with suppress(OSError, ValueError):
                self.stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    def fileno(self) -> int:
        if self.stream is None:
            raise OSError("there is no stream")
        return int(self.stream.fileno())


def say(text: str, speaker: str = "empssl") -> None:
    """Write a message to the error stream, if that takes it, with who says it before it."""
    text = f"{speaker}: {text}"
    if width := _terminal_width():
        lines = (fill(line, width, break_long_words=False, break_on_hyphens=False)
                 for line in visible(text, keep="\n").split("\n"))  # fmt: skip
        text = "\n".join(lines)
    log(text)


def _terminal_width() -> int:
    """Columns of the terminal that the error stream is, where words are not to be broken; or 0."""
    stream = Unfailing(sys.stderr)
    if not stream.isatty():
        return 0
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return WIDTH


def log(text: str) -> None:
    """Write a line, or several, to the error stream, if that takes them."""
    stream = Unfailing(sys.stderr)
    stream.write(_erased() + visible(text, keep="\n") + "\n")
    stream.flush()


def first_process() -> bool:
    """Whether this process is the first of those of a run, or the only one, by launchers' words."""
    return all(os.environ.get(rank, "0") == "0" for rank in RANKS)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say on a terminal what is waited for while the block runs, in a line that is then erased.

    Of the processes of a run the first does; a file or pipe gets nothing.
    """
    stream = Unfailing(sys.stderr)
    if not (first_process() and stream.isatty()):
        yield
        return
    line = visible(f"empssl: {text} ...")
    stream.write(_erased() + line)
    stream.flush()
    _waiting.append(line)
    try:
        yield
    finally:
        stream.write(_erased())
        stream.flush()


def _erased() -> str:
    """What takes the line of `status` from the terminal again, if one is there."""
    return f"\r{' ' * len(_waiting.pop())}\r" if _waiting else ""


def show(text: str) -> None:
    """Write a result to the output stream, unless the process was started without one.

    Raises:
        OSError: it was not taken.
    """
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(_encodable(visible(text, keep="\n"), encoding) + "\n")
    sys.stdout.flush()


def _encodable(text: str, encoding: str) -> str:
    """The text, with escapes for what an encoding, such as ASCII, does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def fitting_parts(note: str, room: int) -> str:
    """As many of the parts of a note as there is room for, from the first on.

    >>> fitting_parts("51 images/s, loss -221.4", 20)
    '51 images/s'
    """
    while len(note) > room:
        note = note.rpartition(", ")[0]
    return note


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
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    # A terminal that is gone, as after a hang-up, ends the bar and not the job.
    stream = Unfailing(sys.stderr)
    console = Console(file=stream)  # type: ignore[arg-type]
    if silent:
        yield lambda done, note="", total=None: None
    elif console.is_terminal:
        stream.write(_erased())
        columns = (
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH, complete_style="cyan", finished_style="green"),
            TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[note]}"),
        )  # fmt: skip
        room = console.width - len(title) - _BAR_WIDTH - _NUMBERS_WIDTH
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=done, note="", left="")

            def advance(done: int, note: str = "", total: int | None = None) -> None:
                bar.update(task, completed=done, note=fitting_parts(note, room), total=total)
                seconds = bar.tasks[0].time_remaining
                left = f"{timedelta(seconds=round(seconds))} left" if seconds else ""
                bar.update(task, left=left)

            yield advance
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
