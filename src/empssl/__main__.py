"""The command `empssl`, also as `python -m empssl`."""

import atexit
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from empssl.cli import main


def run() -> NoReturn:
    """Carry out the command line and end the process with its exit code."""
    _open_streams()
    atexit.register(_settle_streams)
    # SIGTERM as Ctrl-C: what is half written is tidied up, and the last line says what happened.
    signal.signal(signal.SIGTERM, _interrupt)
    code = main()
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


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    run()
