"""The SQL of finding: users by the beginning of a name, and messages that contain a text.

A search walks from new messages to old ones, a slice of rows at a time, so that no query takes
long. The newest messages are not in the table `history` yet (`indexing.py`): they are walked over
in the table `messages`. Both walks have the same two queries, `slice_end` and `matches`.
"""

import sys
from typing import NamedTuple

from jelly.dao import MESSAGE, WITHIN_PAGE, Dao, StoredMessage
from jelly.database import DatabaseConnection
from jelly.names import nfkc

ESCAPE = "!"
"""Stands before a character that LIKE would not take as it is. (A backslash means different things
to different databases.)"""

LONG_TEXT = 12
"""A text of more characters is not searched for with LIKE."""
LAST_CHARACTER = chr(sys.maxunicode)
"""It stands behind all others, and no name has it."""


class Search(NamedTuple):
    """What a reader searches: the messages since <= id < before of some conversations.

    As in `HistoryQuery`, messages in the reader's inbox with ids above `sent_id` are left out.
    """

    reader: str
    text: str
    person: str | None
    group: str | None
    """With neither: all conversations of two with the reader, and all groups of the reader, each
    since the reader is a member."""
    since: int
    before: int
    sent_id: int
    device: str | None
    """Where the reader's session is, None if its device has no name."""
    indexed: int
    """Messages up to this id are found in the table `history`."""

    @property
    def is_everywhere(self) -> bool:
        """Whether all conversations of the reader are searched."""
        return self.person is None and self.group is None

    @property
    def is_in_history(self) -> bool:
        """Whether the walk has come to what the table `history` finds. Without a conversation it
        never does: there, the conversations of one user are not together.
        """
        return not self.is_everywhere and self.before <= self.indexed + 1

    @property
    def lowest(self) -> int:
        """Where this walk ends: no id is smaller."""
        is_above_history = not self.is_everywhere and not self.is_in_history
        return max(self.since, self.indexed + 1) if is_above_history else self.since


def names_with_prefix(dao: Dao, prefix: str, limit: int) -> list[str]:
    """The first names of users, in their order, whose NFKC forms begin with that of a prefix."""
    start = nfkc(prefix)
    rows = dao.connection.query(
        "SELECT username FROM users WHERE nfkc >= ? AND nfkc < ? ORDER BY nfkc, username LIMIT ?",
        (start, f"{start}{LAST_CHARACTER}", limit),
    )
    return [username for (username,) in rows]


def slice_end(dao: Dao, search: Search, rows: int) -> tuple[int | None, int, int]:
    """Of the next `rows` rows: the smallest id (None if there are no rows), how many rows there
    are, and about how long the messages are that `matches` is going to read.
    """
    # The LIMIT within makes every database read these rows and no others.
    if search.is_in_history:
        condition, sides = _in_history(search)
        slice = (
            f"SELECT h.message_id AS id FROM history AS h WHERE {condition} "
            "AND h.message_id >= ? AND h.message_id < ? ORDER BY h.message_id DESC LIMIT ?"
        )
        messages = "LEFT JOIN messages AS m ON m.id = s.id"
        sql = f"SELECT MIN(s.id), COUNT(*), SUM(LENGTH(m.content)) FROM ({slice}) AS s {messages}"
    else:
        condition, sides = _in_messages(search)
        slice = (
            f"SELECT m.id, CASE WHEN {condition} THEN LENGTH(m.content) END AS length FROM messages AS m "
            "WHERE m.id >= ? AND m.id < ? ORDER BY m.id DESC LIMIT ?"
        )
        sql = f"SELECT MIN(s.id), COUNT(*), SUM(s.length) FROM ({slice}) AS s"
    [(lowest, count, length)] = dao.connection.query(sql, (*sides, search.lowest, search.before, rows))
    return lowest, count, int(length or 0)


def matches(dao: Dao, search: Search, lowest: int, limit: int) -> list[StoredMessage]:
    """The newest messages from the id `lowest` on that have the text, the newest first, at most
    `limit`.
    """
    if search.is_in_history:
        condition, sides = _in_history(search)
        tables, id = "history AS h JOIN messages AS m ON m.id = h.message_id", "h.message_id"
    else:
        condition, sides = _in_messages(search)
        tables, id = "messages AS m", "m.id"
    like, patterns = _contains(dao.connection, search.text)
    bounds = (lowest, search.before)
    rows = dao.connection.query(
        f"SELECT {MESSAGE} FROM {tables} WHERE {id} >= ? AND {id} < ? AND {condition} AND {like} AND {WITHIN_PAGE} "
        f"ORDER BY {id} DESC LIMIT ?",
        (*bounds, *sides, *patterns, *bounds, search.reader, search.sent_id, search.device, limit),
    )
    return [StoredMessage(*row) for row in rows]


def _in_history(search: Search) -> tuple[str, tuple[object, ...]]:
    """The condition that a row of `history` is of the conversation, and its parameters."""
    if search.group is not None:
        sides: tuple[object, ...] = (1, search.group, "")
    else:
        names = (search.reader, search.person or "")
        sides = (0, min(names), max(names))
    return "h.is_group = ? AND h.one_side = ? AND h.other_side = ?", sides


def _in_messages(search: Search) -> tuple[str, tuple[object, ...]]:
    """The condition that a message is of the conversations that are searched, and its
    parameters.
    """
    reader = search.reader
    if search.group is not None:
        return "m.is_group = 1 AND m.receiver = ?", (search.group,)
    if search.person is not None:
        both = "m.is_group = 0 AND ((m.sender = ? AND m.receiver = ?) OR (m.sender = ? AND m.receiver = ?))"
        return both, (reader, search.person, search.person, reader)
    return (
        "((m.is_group = 0 AND (m.sender = ? OR m.receiver = ?)) OR (m.is_group = 1 AND EXISTS "
        "(SELECT 1 FROM members AS g WHERE g.group_name = m.receiver AND g.username = ? AND g.since <= m.id)))"
    ), (reader, reader, reader)


def _contains(connection: DatabaseConnection, text: str) -> tuple[str, tuple[str, ...]]:
    """The condition that a message has the text, and its parameters.

    LIKE compares the text anew at each place of a message. In one that is made for it, with a text
    that nearly matches everywhere, that takes seconds. INSTR does not, but costs SQLite more
    otherwise.
    """
    lower, texts = connection.lower_case, {text: None}
    if lower:
        return f"INSTR({lower.format('m.content')}, {lower.format('?')}) > 0", (text,)
    if not text.isascii():  # Ä is not taken for ä: so ask for the usual ways to write the word
        texts.update(dict.fromkeys((text.lower(), text.upper(), text.capitalize())))
    if len(text) > LONG_TEXT:
        each, patterns = "INSTR(LOWER(m.content), LOWER(?)) > 0", tuple(texts)
    else:
        each, patterns = f"m.content LIKE ? ESCAPE '{ESCAPE}'", tuple(f"%{_escaped(each)}%" for each in texts)
    return f"({' OR '.join([each] * len(texts))})", patterns


def _escaped(text: str) -> str:
    for special in (ESCAPE, "%", "_"):
        text = text.replace(special, ESCAPE + special)
    return text
