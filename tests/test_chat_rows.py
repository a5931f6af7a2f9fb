"""Lines as rows of a screen: columns, marks, dates, scrolling, the status bar."""

from datetime import timedelta

import pytest
from fake_client import NOW, Chat

from client_api import Reason, State
from jelly.chat.cells import width
from jelly.chat.model import Conversation, Kind, Line, Mark, Older, Peer
from jelly.chat.rows import Columns, Row, above, bar, columns_of, prompt, rows_of, view

TODAY = NOW.date()


def texts_of(rows: list[Row]) -> list[str]:
    return ["".join(text for _, text in row).rstrip() for row in rows]


def conversation(*lines: Line) -> Conversation:
    made = Conversation(Peer("bob"))
    for line in lines:
        made.add(line)
    return made


def theirs(text: str, sender: str = "bob") -> Line:
    return Line(Kind.THEIRS, NOW, text, sender)


def test_columns() -> None:
    """Names end in one column, texts begin in one; rows after the first are indented."""
    shown = conversation(
        theirs("hi"),
        theirs("one two three four five six", "王小明"),
        Line(Kind.OURS, NOW, "well\nyes", "alice", Mark.PENDING),
        Line(Kind.NOTE, NOW, "bob is online"),
    )
    rows, _ = view(shown, 40, 20, 0, TODAY)
    assert texts_of(rows) == [
        "14:03      bob │ hi",
        "14:03   王小明 │ one two three four five",
        "               │ six",
        "14:03 …  alice │ well",
        "               │ yes",
        "14:03       -- │ bob is online",
    ]


def test_a_message_that_failed() -> None:
    """It has a mark, and the reason below it."""
    line = Line(Kind.OURS, NOW, "hi", "alice", Mark.FAILED, "not delivered: no such user. /resend tries again")
    assert texts_of(rows_of(line, Columns(50, 5))) == [
        "14:03 ✗ alice │ hi",
        "              │ not delivered: no such user.",
        "              │ /resend tries again",
    ]


def test_a_line_changes() -> None:
    """What was drawn before is not shown again when the mark has changed."""
    line = Line(Kind.OURS, NOW, "hi", "alice", Mark.PENDING)
    assert "…" in texts_of(rows_of(line, Columns(50, 5)))[0]
    line.mark = Mark.NONE
    assert texts_of(rows_of(line, Columns(50, 5))) == ["14:03   alice │ hi"]


def test_days() -> None:
    """A row says when the day changes; of today it says nothing."""
    yesterday = Line(Kind.THEIRS, NOW - timedelta(days=1), "old", "bob")
    rows, _ = view(conversation(yesterday, theirs("new")), 40, 20, 0, TODAY)
    assert [text.strip("─ ") for text in texts_of(rows)] == [
        "2025-11-23",
        "14:03   bob │ old",
        "2025-11-24",
        "14:03   bob │ new",
    ]


def test_where_the_new_ones_begin() -> None:
    """A row says it, unless there is nothing above; it is as wide as the screen."""
    shown = conversation(theirs("old"), theirs("one"), theirs("two"))
    shown.first_new = shown.lines[1]
    rows, _ = view(shown, 40, 20, 0, TODAY, "新消息")
    assert [text.strip("─ ") for text in texts_of(rows)] == [
        "14:03   bob │ old",
        "新消息",
        "14:03   bob │ one",
        "14:03   bob │ two",
    ]
    assert width(texts_of(rows)[1]) == 40
    shown.first_new = shown.lines[0]
    assert len(view(shown, 40, 20, 0, TODAY)[0]) == 3


@pytest.mark.parametrize("cells", [*range(1, 45), 80, 200])
def test_no_row_is_wider_than_the_screen(cells: int) -> None:
    """Whatever the width: also of names that are too long, and of wide characters."""
    shown = conversation(
        theirs("你好 hello\nworld", "王" * 30),
        theirs("word " * 30, "x"),
        Line(Kind.OURS, NOW, "hi", "alice", Mark.UNKNOWN, "not known " * 5),
        Line(Kind.ERROR, NOW, "wrong " * 9),
    )
    rows, _ = view(shown, cells, 1000, 0, TODAY)
    room = max(cells, 4)  # two cells of text beside an indent of two: the terminal cuts what is over
    assert all(width(text) <= room for text in texts_of(rows))


def test_scrolling() -> None:
    """So many rows from the end, and never past the first one."""
    shown = conversation(*(theirs(str(number)) for number in range(100)))
    for offset, last, possible in ((0, "99", 0), (10, "89", 10), (1000, "9", 90)):
        rows, allowed = view(shown, 80, 10, offset, TODAY)
        assert len(rows) == 10
        assert texts_of(rows)[-1].endswith(f"│ {last}")
        assert allowed == possible
    assert view(conversation(theirs("x")), 80, 10, 5, TODAY)[1] == 0


def test_names_do_not_take_the_screen() -> None:
    """A long name is cut; on a narrow screen there are no columns at all."""
    shown = conversation(theirs("hi", "a" * 32))
    assert columns_of(shown, 80).names == 16
    assert columns_of(shown, 39).names == 0
    assert texts_of(view(shown, 30, 5, 0, TODAY)[0]) == ["aaaaaaaaa…: hi"]


def test_the_bar() -> None:
    """Who, how things stand, the conversations, what is unread; the current one in brackets."""
    chat = Chat()
    chat.receive("carol", "hello", "team")
    chat.session.show(Peer("bob"))
    chat.model[Peer("dave")].draft = "dear"
    assert texts_of([bar(chat.session, 80, 0)]) == [" alice │ connected │ 1:#team(1) [2:bob] 3:dave✎"]
    assert texts_of([bar(chat.session, 80, 7)])[0].endswith("↓ more below")
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    (text,) = texts_of([bar(chat.session, 80, 0)])
    assert text.startswith(" alice │ not connected since 14:03, trying again │ 1:#team(1)")


@pytest.mark.parametrize("cells", [0, 1, 5, 20, 40, 60, 80, 200])
def test_the_bar_fits(cells: int) -> None:
    """With too little room only what is unread is named."""
    chat = Chat()
    for number in range(20):
        chat.receive(f"王小明{number}", "hello")
        if number != 7:
            chat.model[Peer(f"王小明{number}")].unread = 0
    row = bar(chat.session, cells, 0)
    assert sum(width(text) for _, text in row) == cells
    if cells >= 60:
        assert "8:王小明7(1)" in texts_of([row])[0]


def test_the_prompt() -> None:
    """It says where the text goes."""
    chat = Chat()
    assert prompt(chat.session, 80) == "> "
    chat.session.show(Peer("team", True))
    assert prompt(chat.session, 80) == "#team> "
    chat.session.show(Peer("x\x1b" * 40))
    assert prompt(chat.session, 40) == "x␛x␛x␛x␛x…> "


def test_the_top() -> None:
    """What is known about older lines stands above the oldest one, and only there."""
    shown = conversation(*(theirs(str(number)) for number in range(5)))
    rows, offset = view(shown, 40, 3, 10, TODAY, top="the beginning")
    assert (offset, texts_of(rows)[0].strip("─ ")) == (3, "the beginning")
    assert "the beginning" not in "".join(texts_of(view(shown, 40, 3, 2, TODAY, top="the beginning")[0]))


def test_what_is_above() -> None:
    """It is being read, it is the beginning, or more is not kept; else there is nothing to say."""
    chat = Chat()
    assert above(chat.session) == ""
    chat.session.show(Peer("bob"))
    chat.model.current.why_failed = "not a member of this group"
    said = {}
    for older in Older:
        chat.model.current.older = older
        said[older] = above(chat.session)
    assert said == {
        Older.PERHAPS: "", Older.UNAVAILABLE: "this server cannot say what was said before",
        Older.FAILED: "earlier messages: not a member of this group", Older.LOADING: "reading what was said before",
        Older.NOTHING: "nothing was said before this", Older.NOT_KEPT: "more than is kept here",
    }  # fmt: skip
