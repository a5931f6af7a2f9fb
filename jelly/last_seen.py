"""When users were online last: written as their sessions begin and end, shown to friends only.

A session may end on any thread, and its end alone is worth no transaction. So what ends is gathered
here, and the store writes it with its next transaction, or a second later. On a node, that is the
transaction which tells the others of the end: who hears it finds the time, too.
"""

import math
import threading
import time
from collections.abc import Callable

from jelly.contacts_dao import Standing
from jelly.dao import Dao

FEATURE = "seen"
WRITE_DELAY = 1.0
"""Seconds until the end of a session is written, if nothing else is written before."""
RETRY_DELAY = 1.0
"""Seconds until it is tried again after a transaction failed."""
MOST_AT_ONCE = 200
"""At most this many users are written in one transaction."""


def note(dao: Dao, username: str, seen: int) -> None:
    """Write that a user is, or was, online at a time, in milliseconds since 1970."""
    dao.connection.change("UPDATE users SET seen = ? WHERE username = ? AND seen < ?", (seen, username, seen))


def is_shown(dao: Dao, username: str) -> bool:
    """Whether a user lets friends see when they were online last."""
    return not dao.connection.query("SELECT 1 FROM users WHERE username = ? AND hides_seen = 1", (username,))


def shown_to(dao: Dao, watcher: str, friend: str) -> int | None:
    """When a user was online last, for somebody who has that user as a friend.

    None if nobody knows, if the user does not show it, or has not agreed to be that friend: by
    saying yes when asked, or by having the other as a friend, too. (Who cannot be asked is a friend
    of whoever wants it, and has agreed to nothing.)
    """
    has_said_yes = "f.username = ? AND f.friend = users.username AND f.standing = ? AND f.asked > 0"
    has_the_other = "f.username = users.username AND f.friend = ?"
    rows = dao.connection.query(
        "SELECT seen FROM users WHERE username = ? AND hides_seen = 0 AND seen > 0 AND "
        f"(EXISTS (SELECT 1 FROM friends AS f WHERE {has_the_other}) "
        f"OR EXISTS (SELECT 1 FROM friends AS f WHERE {has_said_yes}))",
        (friend, watcher, watcher, Standing.ACCEPTED),
    )
    return int(rows[0][0]) if rows else None


class LastSeen:
    """The ends of sessions that are not written yet."""

    def __init__(self, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        """`wall`: the time to note, in seconds since 1970."""
        self._wall, self._clock = wall, clock
        self._lock = threading.Lock()  # guards the two below
        self.pending: dict[str, int] = {}
        """For each of these users, when the last session ended, in milliseconds since 1970."""
        self.due_at = math.inf
        """When they must be written, by the clock."""
        self.written: dict[str, int] = {}
        """Those of them that are in the open transaction. Only turns of the store use it."""

    def session_ended(self, user: str) -> None:
        """A session of a user has ended. Any thread may call it."""
        with self._lock:
            self.pending[user] = int(self._wall() * 1000)
            self.due_at = min(self.due_at, self._clock() + WRITE_DELAY)

    def write(self, dao: Dao) -> None:
        """In a transaction: write what is pending, or a part of it."""
        with self._lock:
            self.written = dict(list(self.pending.items())[:MOST_AT_ONCE])
        for user, seen in self.written.items():
            note(dao, user, seen)

    def committed(self) -> None:
        """The transaction is committed."""
        with self._lock:
            for user, seen in self.written.items():
                if self.pending.get(user) == seen:  # else another session has ended since
                    del self.pending[user]
            if not self.pending:
                self.due_at = math.inf
        self.written = {}

    def on_failure(self) -> None:
        """A transaction has failed, or is in doubt: write it again."""
        self.written = {}
        with self._lock:
            if self.pending:
                self.due_at = self._clock() + RETRY_DELAY

    def read(self, dao: Dao, watcher: str, friend: str) -> int | None:
        """Return what `shown_to` does, also if it is not written yet."""
        newest = self.pending.get(friend, 0)  # first: what is not here any more is in the database
        stored = shown_to(dao, watcher, friend)
        return None if stored is None else max(stored, newest)
