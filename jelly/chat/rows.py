"""Lay out the lines of a conversation as rows of a screen; scrolling; the status bar.

A *line* is one message or one text of the chat; it takes one or more *rows* of the screen. A row is
a list of fragments, each a style and a text. This module sanitizes every text, and knows neither
the toolkit nor the terminal.

    14:03   alice │ are you there?
    14:03 ✗   bob │ no
                  │ not delivered: there is no user of this name. /resend sends it again
"""

from collections.abc import Iterator
from datetime import date
from itertools import islice
from typing import NamedTuple
from weakref import WeakKeyDictionary
from zlib import crc32

from client_api import State
from jelly.chat import texts
from jelly.chat.cells import ELLIPSIS, align_right, sanitize, sanitize_lines, text_width, truncate, wrap
from jelly.chat.history_loader import HISTORY_TEXTS
from jelly.chat.model import UNDELIVERED, Conversation, DeliveryStatus, HistoryState, Line, LineKind
from jelly.chat.session import Session

Row = list[tuple[str, str]]

NARROW = 40
"""At least this many cells are needed for columns."""
WIDEST_NAME = 16
MAX_TYPING = 3
"""At most this many names are shown of those who are typing."""
COLOURS = 5


class Columns(NamedTuple):
    """How many cells a row has, and how many of them the name takes (0: no columns)."""

    width: int
    name_width: int

    @property
    def text_width(self) -> int:
        """How many cells the text takes."""
        return self.width - (self.name_width + 11 if self.name_width else 2)


def columns_of(conversation: Conversation, width: int) -> Columns:
    """Return the layout of a conversation for a screen of `width` cells."""
    return Columns(width, min(conversation.name_width, WIDEST_NAME, width // 4) if width >= NARROW else 0)


def colour_of(name: str) -> str:
    """Return the style of a name: always the same one, on every machine."""
    return f"class:name{crc32(name.encode('utf-8', 'replace')) % COLOURS}"


_cache: WeakKeyDictionary[Line, tuple[object, list[Row]]] = WeakKeyDictionary()


def rows_of(line: Line, columns: Columns) -> list[Row]:
    """Return the rows of one line."""
    key = (columns, line.at, line.shown, line.status, line.reason)
    cached = _cache.get(line)
    if cached is None or cached[0] != key:
        make = _rows_in_columns if columns.name_width else _rows_without_columns
        cached = (key, list(make(line, columns)))
        _cache[line] = cached
    return cached[1]


def _name(line: Line) -> str:
    return sanitize(line.sender) if line.kind in (LineKind.OUTGOING, LineKind.INCOMING) else "--"


def _name_style(line: Line) -> str:
    if line.kind in (LineKind.INFO, LineKind.ERROR):
        return "class:dim"
    if line.is_mention:
        return "class:mention"
    return "class:me" if line.kind is LineKind.OUTGOING else colour_of(line.sender)


def _text_style(line: Line) -> str:
    if line.kind is LineKind.ERROR:
        return "class:error"
    return "class:dim" if line.status is DeliveryStatus.PENDING else ""


def _status_style(status: DeliveryStatus) -> str:
    return "class:error" if status in UNDELIVERED else "class:dim"


def _wrapped(text: str, cells: int) -> list[str]:
    return [row for part in sanitize_lines(text) for row in wrap(part, cells)]


def _rows_in_columns(line: Line, columns: Columns) -> Iterator[Row]:
    head: Row = [
        ("class:dim", line.at.strftime("%H:%M ")),
        (_status_style(line.status), f"{line.status.value:1} "),
        (_name_style(line), align_right(_name(line), columns.name_width)),
    ]
    indent: Row = [("", " " * (columns.name_width + 8))]
    separator = ("class:dim", " │ ")
    style = _text_style(line)
    for number, text in enumerate(_wrapped(line.shown, columns.text_width)):
        yield [*(indent if number else head), separator, (style, text)]
    if line.reason:
        for text in _wrapped(line.reason, columns.text_width):
            yield [*indent, separator, (_status_style(line.status), text)]


def _rows_without_columns(line: Line, columns: Columns) -> Iterator[Row]:
    name = truncate(_name(line), max(2, columns.width // 3))
    head = f"{line.status.value}{name}: " if line.kind in (LineKind.OUTGOING, LineKind.INCOMING) else f"{name} "
    first, *others = _wrapped(" " * max(0, text_width(head) - 2) + line.shown, columns.text_width)
    yield [(_name_style(line), head), (_text_style(line), first[max(0, text_width(head) - 2) :])]
    for text in others:
        yield [("", "  "), (_text_style(line), text)]
    if line.reason:
        for text in _wrapped(line.reason, columns.text_width):
            yield [("", "  "), (_status_style(line.status), text)]


def _divider(text: str, cells: int) -> Row:
    """Return a horizontal rule with a text in its middle."""
    shown = f" {text} "
    before, after = divmod(max(0, cells - text_width(shown)), 2)
    return [("class:dim", "─" * before + shown + "─" * (before + after))]


def visible_rows(
    conversation: Conversation,
    width: int,
    height: int,
    offset: int,
    today: date,
    new_title: str = "new",
    top_title: str = "",
) -> tuple[list[Row], int]:
    """Return `height` rows that end `offset` rows above the last one, and the possible offset.

    `new_title` stands above the first unread line, `top_title` above the oldest line.
    """
    upwards = list(islice(_rows_upwards(conversation, width, today, new_title, top_title), height + offset))
    offset = min(offset, max(0, len(upwards) - height))
    return [row for _, row in upwards[offset : offset + height]][::-1], offset


def _rows_upwards(
    conversation: Conversation, width: int, today: date, new_title: str = "", top_title: str = ""
) -> Iterator[tuple[Line | None, Row]]:
    """Yield all rows from the last to the first, each with its line (None: a divider)."""
    columns = columns_of(conversation, width)
    below: Line | None = None
    for line in reversed(conversation.lines):
        if below:
            if below is conversation.first_unread:
                yield None, _divider(new_title, width)
            if below.at.date() != line.at.date():
                yield None, _divider(below.at.date().isoformat(), width)
        for row in reversed(rows_of(line, columns)):
            yield line, row
        below = line
    if below and below.at.date() != today:
        yield None, _divider(below.at.date().isoformat(), width)
    if top_title:
        yield None, _divider(truncate(top_title, max(2, width - 2)), width)


def newest_shown(conversation: Conversation, width: int, height: int, offset: int, today: date) -> int:
    """Return the id of the newest message of which a row is visible; 0 if none is."""
    shown = islice(_rows_upwards(conversation, width, today), offset, offset + height)
    return next((line.id for line, _ in shown if line and line.id is not None), 0)


class Place(NamedTuple):
    """A row of a conversation, which it keeps when others are added or dropped."""

    line: Line
    row: int
    """Which row of the line, from its last one."""
    dividers: int
    """How many dividers are below the row, up to the last one that is visible."""


def place_at(conversation: Conversation, width: int, offset: int, today: date) -> Place | None:
    """Return the place of the last visible row; None if there is none."""
    row, last, dividers = 0, None, 0
    for number, (line, _) in enumerate(_rows_upwards(conversation, width, today)):
        row = row + 1 if line is last else 0
        last = line
        if number >= offset:
            if line:
                return Place(line, row, dividers)
            dividers += 1
    return None


def offset_of(conversation: Conversation, width: int, place: Place, today: date) -> int | None:
    """Return how many rows are below a place; None if its line is not here any more."""
    for number, (line, _) in enumerate(_rows_upwards(conversation, width, today)):
        if line is place.line:
            return max(0, number + place.row - place.dividers)
    return None


def history_status(session: Session) -> str:
    """Return what is known about the messages above the oldest line of the current conversation."""
    conversation = session.model.current
    if conversation.peer is None or conversation.history_state is HistoryState.MAYBE_MORE:
        return ""
    return session.translate(HISTORY_TEXTS[conversation.history_state], reason=conversation.history_error)


# --- the status bar -------------------------------------------------------------------------------


def status_bar(session: Session, width: int, offset: int) -> Row:
    """Return the status bar: the user, the connection, and the conversations with unread counts."""
    style = "class:bar" if session.state is State.ONLINE else "class:bar-off"
    left: Row = [
        ("class:bar", f" {truncate(sanitize(session.name), WIDEST_NAME)} │ "),
        (style, session.connection_status()),
    ]
    is_end = not (offset or session.model.current.below)
    right: Row = [] if is_end else [("class:bar", f" ↓ {session.translate(texts.BAR_MORE_BELOW)} ")]
    if typing := session.who_is_typing():
        names = session.translate.join_names([truncate(sanitize(name), WIDEST_NAME) for name in typing[:MAX_TYPING]])
        shown = truncate(session.translate(texts.BAR_TYPING, names=names), max(0, width // 3 - 2))
        right = [("class:bar", f" {shown} "), *right] if shown else right
    room = width - _width(left) - _width(right) - 3
    entries = list(_conversation_entries(session, everything=True))
    if _width(entries) > room:
        entries = [*_conversation_entries(session, everything=False), ("class:bar", f" {ELLIPSIS}")]
    return _pad_row([*left, ("class:bar", " │"), *entries], width - _width(right)) + right


def _conversation_entries(session: Session, everything: bool) -> Iterator[tuple[str, str]]:
    """Yield the conversations like ` [1:bob] 2:#team(3, 1!)`.

    Without `everything`: only the current one, and those with unread lines or a draft.
    """
    for number, each in enumerate(session.model):
        is_here = each is session.model.current
        if not (is_here or each.unread or each.draft or (everything and each.peer)):
            continue
        text = f"{number}:{truncate(each.title, WIDEST_NAME)}" + ("✎" if each.draft else "")
        if is_here:
            yield "class:bar-here", f" [{text}]"
        else:
            count = f"({each.unread}{f', {each.mentions}!' if each.mentions else ''})" if each.unread else ""
            yield ("class:bar-unread" if count else "class:bar", f" {text}{count}")


def sidebar(session: Session, width: int) -> list[Row]:
    """Return the list at the side: the conversations, and the members of the group that is open."""
    model = session.model
    shown: list[Row] = []
    for number, each in enumerate(model):
        if each.peer is None:
            continue
        mark = "#" if each.peer.is_group else _presence_mark(session, each.peer.name)
        count = f" ({each.unread})" if each.unread else ""
        style = "class:bar-here" if each is model.current else "class:me" if each.unread else ""
        name = truncate(sanitize(each.peer.name), width - 6 - len(count))
        shown.append(_pad_row([("class:dim", f"│{number:>2} "), ("", f"{mark} "), (style, f"{name}{count}")], width))
    peer = model.current.peer
    members = model.groups.get(peer.name, ()) if peer and peer.is_group else ()
    if members:
        shown.append([("class:dim", "│" + "─" * (width - 1))])
    shown.extend(
        _pad_row([("class:dim", "│ "), ("", f"{_presence_mark(session, name)} {sanitize(name)}")], width)
        for name in members
    )
    return shown


def _presence_mark(session: Session, name: str) -> str:
    is_online = True if name == session.name else session.model.friends.get(name)
    return " " if is_online is None else "●" if is_online else "○"


def _width(row: Row) -> int:
    return sum(text_width(text) for _, text in row)


def _pad_row(row: Row, cells: int) -> Row:
    """Shorten or pad a row to exactly `cells` cells."""
    fitted: Row = []
    for style, text in row:
        shown = truncate(text, cells)
        cells -= text_width(shown)
        fitted.append((style, shown))
    return [*fitted, ("class:bar", " " * cells)]


def prompt(session: Session, width: int) -> str:
    """Return the prompt before the input: the receiver of the text."""
    current = session.model.current
    return f"{truncate(current.title, max(4, width // 4))}> " if current.peer else "> "
