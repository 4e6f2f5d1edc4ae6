"""The command `empssl`, also as `python -m empssl`."""

import os
import sys
from typing import NoReturn

from empssl.cli import main


def run() -> NoReturn:
    """Carry out the command line and end the process with its exit code."""
    code = main()
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        # A thread of gloo that is still there while Python ends aborts it, now and then.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
