"""The SQL of consent: who was asked before being shown on a friend list, and what they said.

An entry of a friend list has a *standing*. The entries of older databases count as accepted. Only
the store thread calls the functions that write, within its transaction. All of them raise
StoreError when the database fails.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from jelly.dao import Dao

DAY_MS = 86_400_000
"""Milliseconds of a day."""
BLOCKED = "EXISTS (SELECT 1 FROM blocks AS b WHERE b.username = f.friend AND b.person = f.username)"
"""Whether the friend in a row f of a friend list has blocked its owner."""
NAMES_PER_QUERY = 500
"""About so many users it is asked at a time whether they have accepted."""


class Standing(IntEnum):
    """What the user on a friend list has said to it."""

    ASKED = 0
    """Nothing yet."""
    ACCEPTED = 1
    """Yes; or nobody needed to ask."""
    DECLINED = 2


class Acquaintance(NamedTuple):
    """What decides whether a user must be asked."""

    can_be_asked: bool
    """Whether the user's latest login had the feature `contacts`."""
    has_blocked: bool
    """Whether the user has blocked the one who wants to ask."""
    standing: Standing | None
    """What the one who wants to ask has on the user's own list; None: not on it."""


def note_login(dao: Dao, username: str, can_be_asked: bool) -> None:
    """Remember whether a user can be asked: the latest login says it."""
    dao.connection.change(
        "UPDATE users SET can_be_asked = ? WHERE username = ? AND can_be_asked <> ?",
        (int(can_be_asked), username, int(can_be_asked)),
    )


def must_ask(found: Acquaintance, policy: str) -> bool:
    """Whether a user is asked before being shown on a friend list, or put into a group.

    `policy` is `ask`, `open` or `strict`. Those who have the asker on their own list need not be
    asked: they have asked or accepted first.
    """
    if policy == "open" or found.standing is not None:
        return False
    return found.can_be_asked or policy == "strict"


def acquaintance(dao: Dao, username: str, asker: str) -> Acquaintance | None:
    """What a user is to somebody who wants to add them; None if there is no such user."""
    rows = dao.connection.query(
        "SELECT can_be_asked, (SELECT COUNT(*) FROM blocks AS b WHERE b.username = u.username AND b.person = ?), "
        "(SELECT standing FROM friends AS f WHERE f.username = u.username AND f.friend = ?) "
        "FROM users AS u WHERE u.username = ?",
        (asker, asker, username),
    )
    if not rows:
        return None
    can_be_asked, has_blocked, standing = rows[0]
    return Acquaintance(bool(can_be_asked), bool(has_blocked), None if standing is None else Standing(standing))


def standing(dao: Dao, username: str, friend: str) -> Standing | None:
    """The standing of an entry on a user's list; None if it is not on it."""
    rows = dao.connection.query("SELECT standing FROM friends WHERE username = ? AND friend = ?", (username, friend))
    return Standing(rows[0][0]) if rows else None


def is_shown(dao: Dao, username: str, friend: str) -> bool | None:
    """Whether a user sees more of somebody on the friend list than the name: that one has accepted,
    and has not blocked the user. None if that one is not on the list.
    """
    rows = dao.connection.query(
        f"SELECT standing = ? AND NOT {BLOCKED} FROM friends AS f WHERE f.username = ? AND f.friend = ?",
        (Standing.ACCEPTED, username, friend),
    )
    return bool(rows[0][0]) if rows else None


def add_friend(dao: Dao, username: str, friend: str, asked_at: int | None) -> None:
    """Put a user on a friend list. `asked_at`: when the user was asked, in milliseconds since 1970;
    None if the user need not be asked.
    """
    values = (Standing.ACCEPTED, 0) if asked_at is None else (Standing.ASKED, asked_at)
    dao.connection.change(
        "INSERT INTO friends (username, friend, standing, asked) VALUES (?, ?, ?, ?)", (username, friend, *values)
    )


def set_standing(dao: Dao, username: str, friend: str, standing: Standing) -> None:
    """Note what the user on a friend list has said."""
    dao.connection.change(
        "UPDATE friends SET standing = ? WHERE username = ? AND friend = ?", (standing, username, friend)
    )


def accepted_friends(dao: Dao, username: str, limit: int) -> list[str]:
    """The users on a friend list who have accepted, and have not blocked its owner: the first ones
    by name, at most `limit`.
    """
    rows = dao.connection.query(
        f"SELECT f.friend FROM friends AS f WHERE f.username = ? AND f.standing = ? AND NOT {BLOCKED} "
        "ORDER BY f.friend LIMIT ?",
        (username, Standing.ACCEPTED, limit),
    )
    return [friend for (friend,) in rows]


def accepted_among(dao: Dao, username: str, names: Sequence[str]) -> set[str]:
    """Those of some users who are on a friend list, have accepted, and do not block its owner."""
    found: set[str] = set()
    for start in range(0, len(names), NAMES_PER_QUERY):
        some = names[start : start + NAMES_PER_QUERY]
        rows = dao.connection.query(
            f"SELECT f.friend FROM friends AS f WHERE f.username = ? AND f.friend IN ({', '.join('?' * len(some))}) "
            f"AND f.standing = ? AND NOT {BLOCKED}",
            (username, *some, Standing.ACCEPTED),
        )
        found |= {friend for (friend,) in rows}
    return found


def hidden(dao: Dao, username: str) -> dict[str, bool]:
    """The users on a friend list who are shown as offline whatever they are, in the order of their
    names: each with whether that is because they have not accepted (or they have blocked the user).
    """
    rows = dao.connection.query(
        f"SELECT f.friend, f.standing FROM friends AS f WHERE f.username = ? AND (f.standing <> ? OR {BLOCKED}) "
        "ORDER BY f.friend",
        (username, Standing.ACCEPTED),
    )
    return {friend: standing != Standing.ACCEPTED for friend, standing in rows}


def count_pending(dao: Dao, username: str) -> int:
    """How many users on a friend list have not accepted."""
    rows = dao.connection.query(
        "SELECT COUNT(*) FROM friends WHERE username = ? AND standing <> ?", (username, Standing.ACCEPTED)
    )
    return int(rows[0][0])


def requests(dao: Dao, username: str, limit: int) -> list[str]:
    """Who has asked a user and has no answer: at most `limit`, the newest first."""
    rows = dao.connection.query(
        "SELECT username FROM friends WHERE friend = ? AND standing = ? ORDER BY asked DESC, username LIMIT ?",
        (username, Standing.ASKED, limit),
    )
    return [asker for (asker,) in rows]


def asked_on(dao: Dao, username: str, day: int) -> int:
    """How many requests a user has made on a day, counted in days since 1970."""
    rows = dao.connection.query("SELECT asked_count FROM users WHERE username = ? AND asked_day = ?", (username, day))
    return int(rows[0][0]) if rows else 0


def note_asked(dao: Dao, username: str, day: int, count: int) -> None:
    """Remember how many requests a user has made on a day."""
    dao.connection.change("UPDATE users SET asked_day = ?, asked_count = ? WHERE username = ?", (day, count, username))
