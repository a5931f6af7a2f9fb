"""The SQL of what happens to accounts: logins that are listed and ended, accounts that are disabled
or deleted.

A deleted account leaves its name behind, in the table `deleted_names`: nobody gets that name again,
because messages of its user stay in the history of others. The account itself goes at once. What
else the user had may be much, so it goes in slices, a little later (`purge_slice`).
"""

import time
from typing import NamedTuple

from jelly.dao import Dao
from jelly.names import nfkc

ID_LENGTH = 16
"""How many digits of a token's hash name a login."""
ROWS_OF_USER = (
    ("friends", "username"),
    ("friends", "friend"),
    ("tokens", "username"),
    ("known_addresses", "username"),
    ("missed", "username"),
    ("inbox", "receiver"),
    ("reports", "reporter"),
    ("invites", "creator"),
    ("blocks", "username"),
    ("read_pointers", "username"),
    ("invitations", "username"),
    ("invitations", "inviter"),
    ("devices", "username"),
)
"""The tables, each with a column, whose rows with the name of a deleted user go. (Of groups, see
`deletion.py`.)"""
LONG_TABLES = {
    ("friends", "username"): "friend",
    ("friends", "friend"): "username",
    ("inbox", "receiver"): "message_id",
    ("read_pointers", "username"): "partner",
}
"""Those of which a user may have many rows, each with a column by which these are cut in slices."""
ROWS_THAT_STAY = (
    ("messages", "sender"),
    ("messages", "receiver"),
    ("history", "one_side"),
    ("history", "other_side"),
    ("requests", "sender"),
    ("reports", "person"),
    ("blocks", "person"),
    ("read_pointers", "partner"),
    ("reports", "receiver"),
    ("deleted_names", "username"),
    ("deleted_names", "nfkc"),
    ("operator_commands", "username"),
    ("sessions", "username"),
)
"""The same of rows that do not go with the account: messages stay as long as those of others,
requests for a week, reports about the user for the operator, blocks until they are taken back. A
row of `sessions` goes with the session."""


class OwnLogin(NamedTuple):
    """A login whose token is still valid."""

    id: str
    created: int
    """In milliseconds since 1970; 0: not known."""
    network: str
    """From where; empty: not known."""
    expires: int
    device: str
    """Empty: not known."""


def logins(dao: Dao, username: str, now: int) -> list[OwnLogin]:
    """The logins of a user whose tokens are valid, the newest first."""
    rows = dao.connection.query(
        f"SELECT SUBSTR(token_hash, 1, {ID_LENGTH}), created, network, expires, device FROM tokens "
        "WHERE username = ? AND expires > ? ORDER BY created DESC, expires DESC, token_hash",
        (username, now),
    )
    return [OwnLogin(*row) for row in rows]


def renew_token(dao: Dao, token_hash: str, now: int, expires: int, most: int, interval: int) -> None:
    """Let a token expire later, at most `most` after its user gave the password; all in
    milliseconds.

    A token that is not valid, or that would expire less than `interval` later, stays as it is. So
    does one of which it is not known when the password was given.
    """
    dao.connection.change(
        "UPDATE tokens SET expires = CASE WHEN created + ? < ? THEN created + ? ELSE ? END "
        "WHERE token_hash = ? AND created > 0 AND expires > ? AND expires <= ? AND expires < created + ?",
        (most, expires, most, expires, token_hash, now, expires - interval, most),
    )


def end_login(dao: Dao, username: str, id: str) -> str | None:
    """Make the token of a login invalid. Returns its device (perhaps empty); None if there was no
    such login.
    """
    which = f"username = ? AND SUBSTR(token_hash, 1, {ID_LENGTH}) = ?"
    rows = dao.connection.query(f"SELECT device FROM tokens WHERE {which}", (username, id))
    dao.connection.change(f"DELETE FROM tokens WHERE {which}", (username, id))
    return rows[0][0] if rows else None


def logins_on(dao: Dao, username: str, device: str) -> list[str]:
    """The ids of the logins of a user on a device whose tokens were not removed."""
    rows = dao.connection.query(
        f"SELECT SUBSTR(token_hash, 1, {ID_LENGTH}) FROM tokens WHERE username = ? AND device = ?", (username, device)
    )
    return [id for (id,) in rows]


def is_disabled(dao: Dao, username: str) -> bool:
    return bool(dao.connection.query("SELECT 1 FROM users WHERE username = ? AND disabled = 1", (username,)))


def set_disabled(dao: Dao, username: str, is_disabled: bool) -> None:
    """Disable an account, which ends its tokens, or enable it."""
    dao.connection.change("UPDATE users SET disabled = ? WHERE username = ?", (int(is_disabled), username))
    if is_disabled:
        dao.remove_tokens(username)


def delete(dao: Dao, username: str) -> None:
    """Delete an account. The rest goes later (`deletion.py`)."""
    dao.connection.change("DELETE FROM users WHERE username = ?", (username,))
    dao.connection.change(
        "INSERT INTO deleted_names (username, nfkc, since, purged) VALUES (?, ?, ?, 0)",
        (username, nfkc(username), int(time.time() * 1000)),
    )
    dao.remove_tokens(username)


def unpurged(dao: Dao, before: int) -> str | None:
    """A user who was deleted before a time, and of whom something may be left; None if nobody."""
    rows = dao.connection.query(
        "SELECT username FROM deleted_names WHERE purged = 0 AND since < ? ORDER BY since LIMIT 1", (before,)
    )
    return rows[0][0] if rows else None


def purge_slice(dao: Dao, username: str, limit: int) -> bool:
    """Remove rows of a deleted user, at most `limit` of one table; whether there may be more."""
    connection = dao.connection
    for table, column in ROWS_OF_USER:
        other = LONG_TABLES.get((table, column))
        if other is None:
            connection.change(f"DELETE FROM {table} WHERE {column} = ?", (username,))
            continue
        # MySQL and SQLite share no LIMIT for a DELETE: so up to the last value of the slice.
        [(last, count)] = connection.query(
            f"SELECT MAX({other}), COUNT(*) FROM "
            f"(SELECT {other} FROM {table} WHERE {column} = ? ORDER BY {other} LIMIT ?) AS slice",
            (username, limit),
        )
        if count:
            connection.change(f"DELETE FROM {table} WHERE {column} = ? AND {other} <= ?", (username, last))
            return True
    return False


def note_purged(dao: Dao, username: str) -> None:
    """Nothing of a deleted user is left but the name."""
    dao.connection.change("UPDATE deleted_names SET purged = 1 WHERE username = ?", (username,))
