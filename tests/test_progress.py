"""What is said survives a stream that is full, closed or ASCII, and nothing in it is obeyed."""

import io
import re
import sys

import pytest

from empssl.progress import fitting_parts, log, markdown, progress, say, show, status, visible

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

    encoding = "utf-8"

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


def shown_bar(monkeypatch: pytest.MonkeyPatch, note: str, columns: str = "80") -> str:
    """What a bar on a terminal of 80 columns looks like half way, with its escapes."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("training", 60_000) as advance:
        advance(30_000, note)
    return terminal.getvalue()


def test_a_bar_tells_the_share_and_fits_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown_bar(monkeypatch, "51 images/s, loss -2.5"))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert all(len(line) <= 80 for line in lines)
    assert any(line.endswith("51 images/s, loss -2.5") for line in lines)
    assert " 50% " in lines[-1]


def test_of_a_note_whole_parts_are_left_out_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown_bar(monkeypatch, "51 images/s, loss -2.5", columns="64")
    assert "51 images/s" in text
    assert "loss" not in text
    assert fitting_parts("51 images/s, loss -2.5", 5) == ""


def test_a_running_bar_has_no_color_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither red, nor rich's own magenta."""
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", shown_bar(monkeypatch, "")))
    assert codes <= {"0", "2", "32", "36", "90", "38;5;237"}  # dim, green, cyan and gray


def test_a_message_breaks_no_word_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.delenv("COLUMNS", raising=False)
    text = "10 classes in 1437 train images: " + ", ".join(f"{i} 14{i}" for i in range(10))
    say(text)
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(lines) == f"empssl: {text}"
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    say(text)
    assert plain.getvalue() == f"empssl: {text}\n"


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
