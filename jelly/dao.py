"""Everything that Jelly asks of its database: one method a question, all SQL in this file.

A `Dao` works over one `Link`, so it belongs to one thread at a time. Reads may run anywhere; what writes is
called by the store thread alone (`store.py`), inside its transaction. That is why a method may look first and
write then: nobody writes in between. All methods raise StoreError when the database fails.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jelly.database import Link

CHUNK = 100
"""How many values one statement of varying length takes."""


class StoredMessage(NamedTuple):
    """A message as the table holds it. `receiver` is a group's name if `is_group`, else a person's."""

    id: int
    is_group: bool
    sender: str
    receiver: str
    content: str
    time: int


class Dao:
    """The queries, over one link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    # --- users and tokens -------------------------------------------------------------------------------

    def has_user(self, username: str) -> bool:
        return bool(self.link.query("SELECT 1 FROM users WHERE username = ?", (username,)))

    def password_hash(self, username: str) -> str | None:
        rows = self.link.query("SELECT password FROM users WHERE username = ?", (username,))
        return rows[0][0] if rows else None

    def add_user(self, username: str, password_hash: str) -> None:
        self.link.change("INSERT INTO users (username, password) VALUES (?, ?)", (username, password_hash))

    def profile(self, username: str) -> dict[str, str | None]:
        """The profile's fields in the protocol's order, None where nothing was ever said."""
        fields = ("name", "sex", "age", "phone", "address", "introduction")
        rows = self.link.query(f"SELECT {', '.join(fields)} FROM users WHERE username = ?", (username,))
        return dict(zip(fields, rows[0], strict=True))

    def update_user(self, username: str, values: dict[str, str]) -> None:
        """Set columns of a user; the keys come from the program, never from a client."""
        columns = ", ".join(f"{column} = ?" for column in values)
        self.link.change(f"UPDATE users SET {columns} WHERE username = ?", (*values.values(), username))

    def add_token(self, token_hash: str, username: str, expires: int, now: int, keep: int) -> None:
        """Store a token; drop the user's expired ones, and the oldest beyond `keep`."""
        self.link.change("DELETE FROM tokens WHERE username = ? AND expires <= ?", (username, now))
        older = self.link.query("SELECT token_hash FROM tokens WHERE username = ? ORDER BY expires DESC", (username,))
        for (surplus,) in older[keep - 1 :]:
            self.link.change("DELETE FROM tokens WHERE token_hash = ?", (surplus,))
        self.link.change(
            "INSERT INTO tokens (token_hash, username, expires) VALUES (?, ?, ?)", (token_hash, username, expires)
        )

    def token_owner(self, token_hash: str, now: int) -> str | None:
        rows = self.link.query("SELECT username FROM tokens WHERE token_hash = ? AND expires > ?", (token_hash, now))
        return rows[0][0] if rows else None

    def remove_token(self, token_hash: str, username: str) -> None:
        self.link.change("DELETE FROM tokens WHERE token_hash = ? AND username = ?", (token_hash, username))

    def remove_tokens(self, username: str) -> None:
        self.link.change("DELETE FROM tokens WHERE username = ?", (username,))

    # --- friends ----------------------------------------------------------------------------------------

    def friends(self, username: str) -> list[str]:
        rows = self.link.query("SELECT friend FROM friends WHERE username = ? ORDER BY friend", (username,))
        return [friend for (friend,) in rows]

    def is_friend(self, username: str, friend: str) -> bool:
        return bool(self.link.query("SELECT 1 FROM friends WHERE username = ? AND friend = ?", (username, friend)))

    def count_friends(self, username: str) -> int:
        return int(self.link.query("SELECT COUNT(*) FROM friends WHERE username = ?", (username,))[0][0])

    def add_friend(self, username: str, friend: str) -> None:
        self.link.change("INSERT INTO friends (username, friend) VALUES (?, ?)", (username, friend))

    def remove_friend(self, username: str, friend: str) -> None:
        self.link.change("DELETE FROM friends WHERE username = ? AND friend = ?", (username, friend))

    # --- groups -----------------------------------------------------------------------------------------

    def group(self, name: str) -> tuple[str, list[str]] | None:
        """A group's creator and its members, the creator first; None if there is no such group."""
        rows = self.link.query("SELECT creator FROM chat_groups WHERE name = ?", (name,))
        if not rows:
            return None
        members = self.link.query("SELECT username FROM members WHERE group_name = ? ORDER BY position", (name,))
        return rows[0][0], [member for (member,) in members]

    def groups_of(self, username: str) -> dict[str, list[str]]:
        """The groups a user is in, each with its members, the creator first."""
        rows = self.link.query(
            "SELECT m.group_name, m.username FROM members AS mine JOIN members AS m ON m.group_name = mine.group_name "
            "WHERE mine.username = ? ORDER BY m.group_name, m.position",
            (username,),
        )
        groups: dict[str, list[str]] = {}
        for group, member in rows:
            groups.setdefault(group, []).append(member)
        return groups

    def count_created_groups(self, username: str) -> int:
        return int(self.link.query("SELECT COUNT(*) FROM chat_groups WHERE creator = ?", (username,))[0][0])

    def count_groups_of(self, username: str) -> int:
        return int(self.link.query("SELECT COUNT(*) FROM members WHERE username = ?", (username,))[0][0])

    def add_group(self, name: str, creator: str) -> None:
        self.link.change("INSERT INTO chat_groups (name, creator) VALUES (?, ?)", (name, creator))
        self.link.change("INSERT INTO members (group_name, username, position) VALUES (?, ?, 0)", (name, creator))

    def remove_group(self, name: str) -> None:
        self.link.change("DELETE FROM members WHERE group_name = ?", (name,))
        self.link.change("DELETE FROM chat_groups WHERE name = ?", (name,))

    def add_member(self, group: str, username: str) -> None:
        last = self.link.query("SELECT MAX(position) FROM members WHERE group_name = ?", (group,))[0][0]
        self.link.change(
            "INSERT INTO members (group_name, username, position) VALUES (?, ?, ?)", (group, username, last + 1)
        )

    def remove_member(self, group: str, username: str) -> None:
        self.link.change("DELETE FROM members WHERE group_name = ? AND username = ?", (group, username))

    # --- messages ---------------------------------------------------------------------------------------

    def reserve_ids(self, count: int) -> int:
        """Set aside ids first to first + count - 1 for this process, for ever; return the first."""
        first = int(self.link.query("SELECT value FROM meta WHERE name = 'next_id'")[0][0])
        self.link.change("UPDATE meta SET value = ? WHERE name = 'next_id'", (first + count,))
        return first

    def add_messages(self, messages: Sequence[StoredMessage], inbox: Sequence[tuple[str, int]]) -> None:
        """Store messages, and a row (receiver, id) for each who is to get one."""
        self.link.insert(
            "INSERT INTO messages (id, is_group, sender, receiver, content, time) VALUES (?, ?, ?, ?, ?, ?)", messages
        )
        if inbox:
            self.link.insert("INSERT INTO inbox (receiver, message_id) VALUES (?, ?)", inbox)

    def waiting(self, receiver: str, after: int, limit: int) -> list[StoredMessage]:
        """The oldest messages in somebody's inbox whose id is above `after`, at most `limit`."""
        rows = self.link.query(
            "SELECT m.id, m.is_group, m.sender, m.receiver, m.content, m.time FROM inbox AS i "
            "JOIN messages AS m ON m.id = i.message_id "
            "WHERE i.receiver = ? AND i.message_id > ? ORDER BY i.message_id LIMIT ?",
            (receiver, after, limit),
        )
        return [StoredMessage(*row) for row in rows]

    def remove_delivered(self, delivered: Iterable[tuple[str, int]]) -> None:
        """For each (receiver, id): empty the inbox up to and including that id, and drop what nobody waits for."""
        pairs = list(delivered)
        for start in range(0, len(pairs), CHUNK):
            chunk = pairs[start : start + CHUNK]
            # Joined by OR, because on MySQL each statement is a round trip.
            which = " OR ".join(["(receiver = ? AND message_id <= ?)"] * len(chunk))
            parameters = [value for pair in chunk for value in pair]
            ids = self.link.query(f"SELECT DISTINCT message_id FROM inbox WHERE {which}", parameters)
            self.link.change(f"DELETE FROM inbox WHERE {which}", parameters)
            self._remove_messages([id for (id,) in ids])

    def _remove_messages(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            self.link.change(
                f"DELETE FROM messages WHERE id IN ({', '.join('?' * len(chunk))}) "
                "AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.message_id = messages.id)",
                chunk,
            )

    def remove_messages_between(self, first: int, last: int) -> None:
        """Take back messages whose commit failed in a way that leaves open whether it happened."""
        self.link.change("DELETE FROM inbox WHERE message_id BETWEEN ? AND ?", (first, last))
        self.link.change("DELETE FROM messages WHERE id BETWEEN ? AND ?", (first, last))
