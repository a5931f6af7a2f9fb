"""The layout of lines as rows: columns, marks, dates, scrolling, and the status bar."""

from datetime import timedelta

import pytest
from fake_client import NOW, Chat

from client_api import Reason, State
from jelly.chat.cells import text_width
from jelly.chat.model import Conversation, DeliveryStatus, HistoryState, Line, LineKind, Peer
from jelly.chat.rows import Columns, Row, columns_of, history_status, prompt, rows_of, status_bar, visible_rows
from jelly.chat.server_events import TYPING_WINDOW

TODAY = NOW.date()


def texts_of(rows: list[Row]) -> list[str]:
    return ["".join(text for _, text in row).rstrip() for row in rows]


def conversation(*lines: Line) -> Conversation:
    made = Conversation(Peer("bob"))
    for line in lines:
        made.add(line)
    return made


def theirs(text: str, sender: str = "bob") -> Line:
    return Line(LineKind.INCOMING, NOW, text, sender)


def test_columns() -> None:
    """Names end in one column, texts begin in another; further rows are indented."""
    shown = conversation(
        theirs("hi"),
        theirs("one two three four five six", "王小明"),
        Line(LineKind.OUTGOING, NOW, "well\nyes", "alice", DeliveryStatus.PENDING),
        Line(LineKind.INFO, NOW, "bob is online"),
    )
    rows, _ = visible_rows(shown, 40, 20, 0, TODAY)
    assert texts_of(rows) == [
        "14:03      bob │ hi",
        "14:03   王小明 │ one two three four five",
        "               │ six",
        "14:03 …  alice │ well",
        "               │ yes",
        "14:03       -- │ bob is online",
    ]


def test_a_message_that_failed() -> None:
    """A failed message has a mark, and the reason below it."""
    line = Line(
        LineKind.OUTGOING,
        NOW,
        "hi",
        "alice",
        DeliveryStatus.FAILED,
        "not delivered: no such user. /resend sends it again",
    )
    assert texts_of(rows_of(line, Columns(50, 5))) == [
        "14:03 ✗ alice │ hi",
        "              │ not delivered: no such user.",
        "              │ /resend sends it again",
    ]


def test_a_line_changes() -> None:
    """The rows change when the delivery status changes."""
    line = Line(LineKind.OUTGOING, NOW, "hi", "alice", DeliveryStatus.PENDING)
    assert "…" in texts_of(rows_of(line, Columns(50, 5)))[0]
    line.status = DeliveryStatus.NONE
    assert texts_of(rows_of(line, Columns(50, 5))) == ["14:03   alice │ hi"]


def test_days() -> None:
    """A row with the date stands where the day changes, but not before today's first line."""
    yesterday = Line(LineKind.INCOMING, NOW - timedelta(days=1), "old", "bob")
    rows, _ = visible_rows(conversation(yesterday, theirs("new")), 40, 20, 0, TODAY)
    assert [text.strip("─ ") for text in texts_of(rows)] == [
        "2025-11-23",
        "14:03   bob │ old",
        "2025-11-24",
        "14:03   bob │ new",
    ]


def test_where_the_new_ones_begin() -> None:
    """A rule stands above the first unread line, unless nothing is above it."""
    shown = conversation(theirs("old"), theirs("one"), theirs("two"))
    shown.first_unread = shown.lines[1]
    rows, _ = visible_rows(shown, 40, 20, 0, TODAY, "新消息")
    assert [text.strip("─ ") for text in texts_of(rows)] == [
        "14:03   bob │ old",
        "新消息",
        "14:03   bob │ one",
        "14:03   bob │ two",
    ]
    assert text_width(texts_of(rows)[1]) == 40
    shown.first_unread = shown.lines[0]
    assert len(visible_rows(shown, 40, 20, 0, TODAY)[0]) == 3


@pytest.mark.parametrize("cells", [*range(1, 45), 80, 200])
def test_no_row_is_wider_than_the_screen(cells: int) -> None:
    """No row is too wide, not even with long names or wide characters."""
    shown = conversation(
        theirs("你好 hello\nworld", "王" * 30),
        theirs("word " * 30, "x"),
        Line(LineKind.OUTGOING, NOW, "hi", "alice", DeliveryStatus.UNKNOWN, "not known " * 5),
        Line(LineKind.ERROR, NOW, "wrong " * 9),
    )
    rows, _ = visible_rows(shown, cells, 1000, 0, TODAY)
    room = max(cells, 4)  # two cells of text after an indent of two are the minimum
    assert all(text_width(text) <= room for text in texts_of(rows))


def test_scrolling() -> None:
    """The offset counts from the end, and stops at the first row."""
    shown = conversation(*(theirs(str(number)) for number in range(100)))
    for offset, last, possible in ((0, "99", 0), (10, "89", 10), (1000, "9", 90)):
        rows, allowed = visible_rows(shown, 80, 10, offset, TODAY)
        assert len(rows) == 10
        assert texts_of(rows)[-1].endswith(f"│ {last}")
        assert allowed == possible
    assert visible_rows(conversation(theirs("x")), 80, 10, 5, TODAY)[1] == 0


def test_names_do_not_take_the_screen() -> None:
    """Long names are shortened, and a narrow screen has no columns."""
    shown = conversation(theirs("hi", "a" * 32))
    assert columns_of(shown, 80).name_width == 16
    assert columns_of(shown, 39).name_width == 0
    assert texts_of(visible_rows(shown, 30, 5, 0, TODAY)[0]) == ["aaaaaaaaa…: hi"]


def test_the_bar() -> None:
    """The bar shows the user, the connection and the conversations with unread counts."""
    chat = Chat()
    chat.receive("carol", "hello", "team")
    chat.session.open(Peer("bob"))
    chat.model[Peer("dave")].draft = "dear"
    assert texts_of([status_bar(chat.session, 80, 0)]) == [" alice │ connected │ 1:#team(1) [2:bob] 3:dave✎"]
    assert texts_of([status_bar(chat.session, 80, 7)])[0].endswith("↓ more below")
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    (text,) = texts_of([status_bar(chat.session, 80, 0)])
    assert text.startswith(" alice │ not connected since 14:03, trying again │ 1:#team(1)")


def test_the_bar_says_who_is_typing() -> None:
    """In the conversation that is open, for six seconds, or until the message comes."""
    chat = Chat()
    chat.receive("bob", "hello")
    chat.receive("carol", "hello", group="team")
    chat.system("typing", user="bob")
    chat.system("typing", user="dave")  # there is no conversation with dave
    for user in ("carol", "dave", "erin", "frank"):
        chat.system("typing", user=user, group="team")
    assert Peer("dave") not in chat.model.conversations
    assert "typing" not in texts_of([status_bar(chat.session, 120, 0)])[0]
    chat.session.open(Peer("team", True))
    assert texts_of([status_bar(chat.session, 120, 0)])[0].endswith("carol, dave, erin typing…")
    assert texts_of([status_bar(chat.session, 120, 3)])[0].endswith("carol, dave, erin typing…  ↓ more below")
    chat.receive("carol", "here I am", group="team")
    assert texts_of([status_bar(chat.session, 120, 0)])[0].endswith("dave, erin, frank typing…")
    chat.session.open(Peer("bob"))
    assert texts_of([status_bar(chat.session, 120, 0)])[0].endswith("bob typing…")
    for cells in (0, 1, 5, 12, 20, 40):
        assert sum(text_width(text) for _, text in status_bar(chat.session, cells, 0)) == cells
    chat.session.now = lambda: NOW + TYPING_WINDOW
    assert "typing" not in texts_of([status_bar(chat.session, 120, 0)])[0]


@pytest.mark.parametrize("cells", [0, 1, 5, 20, 40, 60, 80, 200])
def test_the_bar_fits(cells: int) -> None:
    """If there is too little room, only conversations with unread messages are listed."""
    chat = Chat()
    for number in range(20):
        chat.receive(f"王小明{number}", "hello")
        if number != 7:
            chat.model[Peer(f"王小明{number}")].unread = 0
    row = status_bar(chat.session, cells, 0)
    assert sum(text_width(text) for _, text in row) == cells
    if cells >= 60:
        assert "8:王小明7(1)" in texts_of([row])[0]


def test_the_prompt() -> None:
    """The prompt names the receiver."""
    chat = Chat()
    assert prompt(chat.session, 80) == "> "
    chat.session.open(Peer("team", True))
    assert prompt(chat.session, 80) == "#team> "
    chat.session.open(Peer("x\x1b" * 40))
    assert prompt(chat.session, 40) == "x␛x␛x␛x␛x…> "


def test_history_status_above_the_oldest_line() -> None:
    """The history status stands above the oldest line only."""
    shown = conversation(*(theirs(str(number)) for number in range(5)))
    rows, offset = visible_rows(shown, 40, 3, 10, TODAY, top_title="the beginning")
    assert (offset, texts_of(rows)[0].strip("─ ")) == (3, "the beginning")
    assert "the beginning" not in "".join(texts_of(visible_rows(shown, 40, 3, 2, TODAY, top_title="the beginning")[0]))


def test_history_status() -> None:
    """Each history state but MAYBE_MORE has a text."""
    chat = Chat()
    assert history_status(chat.session) == ""
    chat.session.open(Peer("bob"))
    chat.model.current.history_error = "not a member of this group"
    said = {}
    for state in HistoryState:
        chat.model.current.history_state = state
        said[state] = history_status(chat.session)
    assert said == {
        HistoryState.MAYBE_MORE: "",
        HistoryState.UNSUPPORTED: "this server has no message history",
        HistoryState.FAILED: "cannot load earlier messages: not a member of this group",
        HistoryState.LOADING: "loading earlier messages",
        HistoryState.COMPLETE: "there are no earlier messages",
        HistoryState.TRUNCATED: "earlier messages are no longer in memory",
    }
