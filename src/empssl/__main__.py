"""`python -m empssl`, the same as `empssl`."""

import sys

from empssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
