"""The SQL of invitations: codes with which others join a group, or make an account."""

from typing import NamedTuple

from jelly.dao import Dao


class Invite(NamedTuple):
    """An invitation as the table holds it."""

    code_hash: str
    creator: str
    group: str
    """Empty: it is for an account only."""
    uses: int
    """How often it can still be used."""
    expires: int
    """In milliseconds since 1970."""


def find(dao: Dao, code_hash: str, now: int) -> Invite | None:
    """The invitation with a code; None if there is none, or not any more."""
    rows = dao.connection.query(
        "SELECT code_hash, creator, group_name, uses, expires FROM invites WHERE code_hash = ? AND expires > ?",
        (code_hash, now),
    )
    return Invite(*rows[0]) if rows else None


def add(dao: Dao, invite: Invite) -> None:
    dao.connection.change(
        "INSERT INTO invites (code_hash, creator, group_name, uses, expires) VALUES (?, ?, ?, ?, ?)", invite
    )


def count_of(dao: Dao, creator: str, now: int) -> int:
    """How many invitations of a user are valid. Those that are not are removed."""
    dao.connection.change("DELETE FROM invites WHERE creator = ? AND expires <= ?", (creator, now))
    return int(dao.connection.query("SELECT COUNT(*) FROM invites WHERE creator = ?", (creator,))[0][0])


def use(dao: Dao, invite: Invite) -> None:
    """Count one use. After the last one, the invitation goes."""
    if invite.uses > 1:
        dao.connection.change("UPDATE invites SET uses = uses - 1 WHERE code_hash = ?", (invite.code_hash,))
    else:
        dao.connection.change("DELETE FROM invites WHERE code_hash = ?", (invite.code_hash,))


def remove_of(dao: Dao, creator: str, group: str) -> None:
    """Remove the invitations to a group that somebody has made."""
    dao.connection.change("DELETE FROM invites WHERE creator = ? AND group_name = ?", (creator, group))


def remove_old(dao: Dao, now: int, limit: int) -> bool:
    """Remove at most `limit` invitations that have expired; whether there were any."""
    rows = dao.connection.query("SELECT code_hash FROM invites WHERE expires <= ? LIMIT ?", (now, limit))
    for (code_hash,) in rows:
        dao.connection.change("DELETE FROM invites WHERE code_hash = ?", (code_hash,))
    return bool(rows)
