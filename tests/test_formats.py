"""The page of formats: every row names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/formats.md").read_text()


def rows() -> list[str]:
    """The lines of tables, without heads and rules."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith("|---") and not line.endswith("| test |")]


def test_every_row_names_a_test_that_is_there():
    assert len(rows()) > 40
    for row in rows():
        named = re.findall(r"`(test_\w+\.py)::(\w+)`", row)
        assert named, f"no test: {row}"
        for file, name in named:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"
