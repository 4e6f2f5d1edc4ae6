"""What is said survives a stream that is full, closed or ASCII, and nothing in it is obeyed."""

import io
import sys

import pytest

from empssl.progress import log, markdown, progress, say, show, status, visible

ESCAPE = "\x1b[31mred\x1b[0m \x9b2J \u202e \udcff\b\r"


class Dead(io.TextIOBase):
    """A stream that takes nothing, like a full disk or a terminal that is gone."""

    def __init__(self, error: Exception, *, terminal: bool = False) -> None:
        self.error, self.terminal = error, terminal

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(32, "gone"), ValueError()])
def test_a_message_that_is_not_taken_is_lost(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Dead(error))
    say("hello")
    log("hello")
    monkeypatch.setattr(sys, "stderr", None)
    say("hello")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_stream_that_is_gone_stops_no_job(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Dead(OSError(5, "gone"), terminal=terminal))
    done = 0
    with progress("training", 3) as advance:
        for step in range(3):
            advance(step + 1)
            done += 1
    assert done == 3


class Terminal(io.StringIO):
    """A terminal, and what has been written to it."""

    def isatty(self) -> bool:
        return True


def test_what_is_waited_for_is_said_at_once_and_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    line = "empssl: loading torch ..."
    erased = f"\r{' ' * len(line)}\r"
    with status("loading torch"):
        assert terminal.getvalue() == line
        say("hello")
        assert terminal.getvalue() == line + erased + "empssl: hello\n"
    say("and more")
    assert terminal.getvalue() == line + erased + "empssl: hello\nempssl: and more\n"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_neither_a_file_nor_another_process_is_told_what_is_waited_for(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if rank == "1" else io.StringIO()
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(sys, "stderr", stream)
    with status("loading torch"):
        pass
    assert stream.getvalue() == ""


def test_a_result_that_is_not_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Dead(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        show("97.5")


def test_what_a_terminal_would_obey_is_shown_as_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(f"class {ESCAPE}\nand more")
    show(f"class {ESCAPE}\nand more")
    for text in capsys.readouterr():
        assert all(c.isprintable() or c == "\n" for c in text)
        assert r"\x1b[31mred" in text
        assert text.count("\n") == 2


def test_ascii_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    show("81.25 ± 2.50")
    assert data.getvalue() == b"81.25 \\xb1 2.50\n"


def test_markdown_holds_no_html_and_no_link() -> None:
    text = markdown("<img src=x> ![a](http://example.org/x) [b](javascript:c)\n\x1b")
    assert "<" not in text
    assert "](" not in text
    assert text.endswith("\n\\x1b")


def test_plain_text_is_left_alone() -> None:
    assert visible("Größe 3 ± 1 | 中文") == "Größe 3 ± 1 | 中文"
