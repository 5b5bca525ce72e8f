"""docs/compat.md claims nothing that no test shows."""

import re
from pathlib import Path

HERE = Path(__file__).parent
COMPAT = HERE.parent.parent / "docs" / "compat.md"


def _rows() -> list[list[str]]:
    lines = COMPAT.read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return [row for row in cells if row[0] != "Field or behaviour" and set(row[0]) != {"-"}]


def test_every_row_has_a_verdict_and_a_test_that_exists() -> None:
    rows = _rows()
    assert len(rows) > 50
    for row in rows:
        assert len(row) == 4, row
        assert row[2] in ("same", "better", "absent"), row
        named = re.fullmatch(r"`((?:adversity/)?test_\w+\.py)` `(test_\w+)`", row[3])
        assert named is not None, row
        folder = HERE.parent if "/" in named[1] else HERE
        assert f"def {named[2]}(" in (folder / named[1]).read_text(), row
