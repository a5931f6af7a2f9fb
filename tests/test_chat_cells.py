"""Text for the terminal: widths, wrapping, and removal of harmful characters."""

import subprocess
import sys

import pytest

from faults.process import ROOT
from jelly.chat import cells
from jelly.chat.cells import (
    NOT_FIRST,
    NOT_LAST,
    align_right,
    char_width,
    sanitize,
    sanitize_lines,
    text_width,
    truncate,
    wrap,
)

HARMFUL = ["\x1b[2J", "\x9b31m", "\r", "\b", "\x07", "\x7f", "\u202e", "\u2066", "\u200f", "\u2028", "\ufeff", "\ud800"]


@pytest.mark.parametrize("text", HARMFUL)
def test_nothing_that_a_terminal_obeys_comes_through(text: str) -> None:
    """Each of these characters is replaced by a visible one."""
    shown = sanitize(f"a{text}b")
    assert all(char.isprintable() for char in shown)
    assert len(shown) == len(text) + 2


def test_ordinary_texts_stay() -> None:
    """Letters, accents, Chinese, Persian with joiners, and emoji stay unchanged."""
    for text in ("hello", "naïve", "cafe\u0301", "你好，世界", "می\u200cخواهم", "😀"):
        assert sanitize(text) == text


def test_control_characters_are_seen() -> None:
    """Escape is shown as its control picture, a tab as spaces."""
    assert sanitize("\x1b]0;title\x07\t!") == "␛]0;title␇    !"


def test_emoji_of_several_parts() -> None:
    """Terminals disagree about the width of composed emoji, so their parts are shown."""
    assert sanitize("👩\u200d💻❤\ufe0f 👍🏽 🇨🇳") == "👩💻❤ 👍 CN"


def test_too_many_accents_are_dropped() -> None:
    """Strangers cannot paint over the rows above or slow the screen down."""
    assert sanitize("e" + "\u0301" * 50_000) == "e" + "\u0301" * 4


def test_rows_of_a_text() -> None:
    """Unix and Windows line ends split a text; a lone carriage return does not."""
    assert sanitize_lines("a\nb\r\nc\rd") == ["a", "b", "c␍d"]


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("你好", 4), ("e\u0301", 1), ("ｈｉ", 4), ("", 0)])
def test_width(text: str, cells: int) -> None:
    """Wide characters take two cells, combining ones none."""
    assert text_width(text) == cells


def test_width_without_wcwidth() -> None:
    """Without prompt_toolkit, the width comes from Python's own tables."""
    code = (
        "from jelly.chat.cells import text_width; print(text_width('abc'), text_width('你好'), text_width('e\\u0301'))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "4", "1"]


def test_width_by_the_tables_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """They say the same as wcwidth does of the characters that people write."""
    texts = ["abc", "你好", "e\u0301", "ｈｉ", "wörld", "\u200b"]
    widths = [text_width(text) for text in texts]
    monkeypatch.setattr(cells, "wcwidth", None)
    assert [text_width(text) for text in texts] == widths


def test_truncate_and_align() -> None:
    """A text that does not fit ends with an ellipsis, and never takes too many cells."""
    assert truncate("alice", 5) == "alice"
    assert truncate("alexander", 5) == "alex…"
    assert truncate("王小明同学", 6) == "王小…"
    assert align_right("你好", 6) == "  你好"
    assert [text_width(align_right("王小明同学", cells)) for cells in range(8)] == list(range(8))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", [""]),
        ("one two three", ["one two", "three"]),
        ("abcdefghijklmn", ["abcdefgh", "ijklmn"]),
        ("one twothreefour", ["one", "twothree", "four"]),
        ("eight ch more", ["eight ch", "more"]),
        ("你好世界再见", ["你好世界", "再见"]),
        ("abc你好世界", ["abc你好", "世界"]),
        ("  indented", ["", "indented"]),
    ],
)
def test_wrap(text: str, rows: list[str]) -> None:
    """Rows break at spaces if possible, and between wide characters."""
    assert wrap(text, 8) == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("你好世界，再见", ["你好世", "界，再见"]),
        ("你好世界。”她说", ["你好世", "界。”她", "说"]),
        ("他说：“你好”", ["他说：", "“你好”"]),
        ("你好吗（再见）", ["你好吗", "（再见）"]),
        ("这是word，好", ["这是", "word，好"]),
        ("你好世界……好", ["你好世", "界……好"]),
        ("，。，。，。，。", ["，。，。", "，。，。"]),
        ("abcdefgh，好", ["abcdefgh", "，好"]),
    ],
)
def test_chinese_punctuation(text: str, rows: list[str]) -> None:
    """No row begins or ends with a character that may not be there, if there is another place."""
    assert wrap(text, 8) == rows


@pytest.mark.parametrize("cells", range(12, 40))
def test_no_row_begins_with_punctuation(cells: int) -> None:
    """At any width of a screen."""
    text = "他说：“你好，世界！”然后（笑着）走了；……再见。「明天」『见』，好吗？Python，很好、wörld：【完】" * 3
    shown = wrap(text, cells)
    assert "".join(shown).replace(" ", "") == text
    assert [row for row in shown if row[0] in NOT_FIRST or row[-1] in NOT_LAST] == []
    assert max(map(text_width, shown)) <= cells


@pytest.mark.parametrize("cells", range(1, 12))
def test_no_row_is_too_wide(cells: int) -> None:
    """No row exceeds the width, and only spaces are lost."""
    text = "a 你好 wörld  of   words, 再见 abcdefghijklmnop 世界e\u0301e\u0301 end"
    shown = wrap(text, cells)
    assert max(map(text_width, shown)) <= max(2, cells)
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")


def test_the_width_of_a_control_character() -> None:
    """The width is never negative."""
    assert char_width("\x1b") >= 0
