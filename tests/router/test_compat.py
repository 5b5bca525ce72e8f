"""docs/compat.md and docs/operations.md claim nothing that no test shows."""

import re
from pathlib import Path

HERE = Path(__file__).parent
COMPAT = HERE.parent.parent / "docs" / "compat.md"
OPERATIONS = HERE.parent.parent / "docs" / "operations.md"


def _rows() -> list[list[str]]:
    # The last table has a test of its own: test_request_fields.py.
    lines = COMPAT.read_text().partition("\n## Fields of request documents\n")[0].splitlines()
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
        folder = HERE if (HERE / named[1]).exists() else HERE.parent
        assert f"def {named[2]}(" in (folder / named[1]).read_text(), row


def test_every_test_that_operators_are_shown_exists() -> None:
    text = OPERATIONS.read_text().partition("\n## The image")[0]
    rows = [line for line in text.splitlines() if line.endswith("` |")]
    named = re.findall(r"`([\w/]+\.py)` `(test_\w+)` \|$", "\n".join(rows), re.MULTILINE)
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}(" in (HERE.parent / file).read_text(), (file, test)
    unnamed = [row for row in rows if "`test_" not in row]
    assert [row.rpartition("|")[0].rpartition("|")[2] for row in unnamed] == [
        " `benchmarks/bench_soak.py` "
    ]
