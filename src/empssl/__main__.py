"""The command `empssl`, also as `python -m empssl`."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from empssl.cli import main


def run() -> NoReturn:
    """Carry out the command line and end the process with its exit code."""
    # SIGTERM as Ctrl-C: what is half written is tidied up, and the last line says what happened.
    signal.signal(signal.SIGTERM, _interrupt)
    code = main()
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        # A thread of gloo that is still there while Python ends aborts it, now and then.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    run()
