"""A short name for plain values, for files that must not take each other's place."""

import hashlib
import json
from typing import Any


def short_hash(content: Any) -> str:
    """The same eight digits for the same values, in whatever order their keys come.

    >>> short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    True
    >>> len(short_hash("x"))
    8
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
