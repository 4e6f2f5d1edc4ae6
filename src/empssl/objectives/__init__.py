"""What training minimises. One file per objective, one line per objective in the table."""

from empssl.objectives.emp import EMP

OBJECTIVES = {"emp": EMP}

__all__ = ["OBJECTIVES"]
