"""The command `empssl`, also as `python -m empssl`."""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import NoReturn


def run() -> NoReturn:
    """Carry out the command line and end the process with its exit code."""
    _open_streams()
    # Nothing is half done while modules are imported, and some of them answer an interrupt with
    # an error of their own.
    _on_signals(_leave)
    from empssl.cli import main

    atexit.register(_settle_streams)
    # SIGTERM as Ctrl-C: what is half written is tidied up, and the last line says what happened.
    code = main(begin=partial(_on_signals, _interrupt))
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_initialized():
        atexit._run_exitfuncs()
    _settle_streams()
    # A thread of torch, Arrow or gloo that is still there while Python ends aborts it, now and
    # then: the work is done, and the exit code would say that it is not.
    os._exit(code)


def _open_streams() -> None:
    """Put the null device in place of standard streams that were closed by who started this.

    Else the first files to be opened take their numbers, and get what is meant for a terminal.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _settle_streams() -> None:
    """Drop what a stream does not take, which otherwise makes Python change the exit code."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _on_signals(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    """Have SIGTERM and, unless who started this ignores it, Ctrl-C handled so."""
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End the process, with the line that an interrupt has later on."""
    line = "empssl: interrupted"
    if "--json-errors" in sys.argv:
        line = f'{{"error": "StoppedError", "exit_code": {128 + number}, "message": "interrupted"}}'
    try:
        start = "\n" if os.isatty(2) else ""  # below what is being said there
        os.write(2, f"{start}{line}\n".encode())
    finally:
        os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    run()
