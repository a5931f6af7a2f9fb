"""docs/glossary.md: each word has its line, and what a line points to is there."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from faults.process import ROOT

PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
COLUMNS = ["word", "中文", "meaning here", "in the field", "code"]
LEAST_WORDS = 60
EXPECTED_WORDS = {
    "behind, caught up", "classic client", "commit in doubt", "deferred indexing", "flusher", "group commit", "inbox",
    "lane", "modern client", "notice", "outcome", "page", "pin", "refusal", "requestId", "retention", "send queue",
    "session", "store thread", "takeover", "token", "transport", "turn", "watchdog", "window", "worker",
}  # fmt: skip


class Row(NamedTuple):
    word: str
    chinese: str
    meaning: str
    field: str
    code: str

    @property
    def path(self) -> str:
        """The file that it points to."""
        return str(re.findall(r"`([^`]+)`", self.code)[0])

    @property
    def names(self) -> list[str]:
        """The names that this file must have: everything else that is marked as code."""
        return re.findall(r"`([^`]+)`", " ".join(self))[1:]


def rows() -> Iterator[Row]:
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells != COLUMNS and not line.startswith("| --"):
            yield Row(*cells)


ROWS = list(rows())


def test_its_words() -> None:
    """It has at least 60, each once, among them those that a reader meets first."""
    words = [row.word for row in ROWS]
    assert len(words) == len(set(words)) >= LEAST_WORDS
    assert set(words) >= EXPECTED_WORDS


@pytest.mark.parametrize("row", ROWS, ids=[row.word for row in ROWS])
def test_a_word(row: Row) -> None:
    """Its line is complete; its file exists, and has the names that the line marks as code."""
    assert all(row)
    assert re.search("[\u4e00-\u9fff]", row.chinese)
    text = (ROOT / row.path).read_text(encoding="utf-8")
    assert [name for name in row.names if not re.search(rf"\b{re.escape(name)}\b", text)] == []
