"""The page of guarantees: each row names its evidence, and the evidence exists."""

import re
from pathlib import Path

import pytest

from faults.rows import ROWS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
TABLES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## The harness")[0].splitlines()
    if line.startswith("|") and not line.startswith("| -")
]
EVIDENCE = [row[-1] for row in TABLES if row[-1] != "shown by"]


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_every_row_names_what_shows_it(evidence: str) -> None:
    """A test that exists, or a row of the harness; or it says that nothing does."""
    names = re.findall(r"`([^`]+)`", evidence)
    assert names or evidence == "not shown"
    for name in names:
        file, _, test = name.partition("::")
        if test:
            assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), name
        else:
            assert name in {f"faults {row.number}" for row in ROWS}


def test_the_page_has_its_tables() -> None:
    """The parts are there, and none of them is empty."""
    assert len(EVIDENCE) > 30
    assert PAGE.count("| shown by |") == 5


def test_no_promise_stands_twice() -> None:
    """Two rows for one promise are told apart by nobody, and one of them gets old."""
    promises = [row[0][:45] for row in TABLES if row[-1] != "shown by"]
    assert [promise for promise in promises if promises.count(promise) > 1] == []
