"""docs/reliability.md names tests that are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_promise_has_a_test() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text().partition("\n## ")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 20
    for row in rows:
        found = re.search(r"`(tests/\S+\.py)::(\w+)` \|$", row)
        assert found is not None, row
        tree = ast.parse((ROOT / found[1]).read_text())
        assert found[2] in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, row
