"""The SQL of edits.

An edit is a row of the table messages, so it has an id, inbox rows and a requestId like any
message. But its text is only in the row of the *original*, the message that it edits: there is one
place for a text, and a text that is recalled is gone when it is gone from there. In the row of the
original, `edited` is the id of the last edit; in the row of an edit, `replaces` is the id of the
original. Only the last edit has rows in inboxes.

A receiver who has been sent the original, and has not acknowledged it, would get it again after a
lost connection: then `inbox.text` keeps the text as it was.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from jelly.dao import VALUES_PER_STATEMENT, Dao

T = TypeVar("T")


class Original(NamedTuple):
    """A message that is to be edited."""

    id: int
    is_group: bool
    sender: str
    receiver: str
    content: str
    time: int
    edited: int | None
    """The id of its last edit."""

    @property
    def is_recalled(self) -> bool:
        """Whether its last edit was an empty one."""
        return self.edited is not None and not self.content


class Row(NamedTuple):
    """A row of an inbox."""

    receiver: str
    id: int
    size: int
    keeps_text: bool
    """Whether it has the text that its receiver was sent."""


def original(dao: Dao, id: int) -> Original | None:
    """The message with an id, or the one that the edit with this id edits; None if there is
    none.
    """
    rows = dao.connection.query(
        "SELECT o.id, o.is_group, o.sender, o.receiver, o.content, o.time, o.edited FROM messages AS m "
        "JOIN messages AS o ON o.id = COALESCE(m.replaces, m.id) WHERE m.id = ?",
        (id,),
    )
    return Original(*rows[0]) if rows else None


def readers(dao: Dao, group: str, id: int) -> set[str]:
    """The members of a group who may read a message: those since before it."""
    rows = dao.connection.query("SELECT username FROM members WHERE group_name = ? AND since <= ?", (group, id))
    return {name for (name,) in rows}


def waiting(dao: Dao, id: int | None) -> list[Row]:
    """The inbox rows of a message; none for None."""
    if id is None:
        return []
    rows = dao.connection.query(
        "SELECT receiver, message_id, size, text IS NOT NULL FROM inbox WHERE message_id = ?", (id,)
    )
    return [Row(receiver, id, size, bool(keeps_text)) for receiver, id, size, keeps_text in rows]


def replace(dao: Dao, id: int, content: str, edit: int) -> None:
    """Put another text into the row of a message. `edit`: the id of the edit."""
    dao.connection.change("UPDATE messages SET content = ?, edited = ? WHERE id = ?", (content, edit, id))


def resize(dao: Dao, id: int, receivers: Sequence[str], size: int) -> None:
    """The inbox rows of a message for some receivers stand for a text of `size` bytes now."""
    for some in _chunks(receivers):
        which = ", ".join("?" * len(some))
        dao.connection.change(
            f"UPDATE inbox SET size = ? WHERE message_id = ? AND receiver IN ({which})", (size, id, *some)
        )


def keep_text(dao: Dao, id: int, receivers: Sequence[str], content: str) -> None:
    """Keep the text of a message in the inbox rows of those who have been sent it."""
    for some in _chunks(receivers):
        which = ", ".join("?" * len(some))
        dao.connection.change(
            f"UPDATE inbox SET text = ? WHERE message_id = ? AND receiver IN ({which})", (content, id, *some)
        )


def take_out(dao: Dao, ids: Iterable[int]) -> None:
    """Remove all inbox rows of some messages."""
    for id in ids:
        dao.connection.change("DELETE FROM inbox WHERE message_id = ?", (id,))


def rows_of(dao: Dao, rows: Sequence[tuple[str, int]]) -> list[tuple[str, str, int]]:
    """Of these rows (receiver, id) of inboxes, those that are there: (receiver, sender, size)."""
    found: list[tuple[str, str, int]] = []
    for some in _chunks(rows):
        which = " OR ".join(["(i.receiver = ? AND i.message_id = ?)"] * len(some))
        found += dao.connection.query(
            "SELECT i.receiver, m.sender, i.size FROM inbox AS i "
            f"JOIN messages AS m ON m.id = i.message_id WHERE {which}",
            [value for row in some for value in row],
        )
    return found


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), VALUES_PER_STATEMENT):
        yield values[start : start + VALUES_PER_STATEMENT]
