"""The SQL of invitations to groups: who was asked to become a member, and has not answered.

Only the store thread calls the functions that write, within its transaction. All of them raise
StoreError when the database fails.
"""

from jelly.dao import Dao


def invite(dao: Dao, username: str, group: str, inviter: str, asked_at: int) -> None:
    """Note that a user is asked, at a time in milliseconds since 1970, and was not before."""
    dao.connection.change(
        "INSERT INTO invitations (username, group_name, inviter, asked) VALUES (?, ?, ?, ?)",
        (username, group, inviter, asked_at),
    )


def inviter(dao: Dao, username: str, group: str) -> str | None:
    """Who has invited a user to a group; None if nobody has, or there was an answer."""
    rows = dao.connection.query(
        "SELECT inviter FROM invitations WHERE username = ? AND group_name = ?", (username, group)
    )
    return rows[0][0] if rows else None


def remove(dao: Dao, username: str, group: str) -> None:
    """Forget an invitation: it was answered, or withdrawn."""
    dao.connection.change("DELETE FROM invitations WHERE username = ? AND group_name = ?", (username, group))


def remove_of_group(dao: Dao, group: str) -> None:
    """Forget the invitations to a group that ends."""
    dao.connection.change("DELETE FROM invitations WHERE group_name = ?", (group,))


def remove_from(dao: Dao, username: str, inviter: str) -> None:
    """Forget the invitations of a user who come from somebody who is blocked."""
    dao.connection.change("DELETE FROM invitations WHERE username = ? AND inviter = ?", (username, inviter))


def remove_by(dao: Dao, group: str, inviter: str) -> None:
    """Forget the invitations to a group that come from somebody who may add no members any more."""
    dao.connection.change("DELETE FROM invitations WHERE group_name = ? AND inviter = ?", (group, inviter))


def count(dao: Dao, group: str) -> int:
    """How many users are invited to a group."""
    return int(dao.connection.query("SELECT COUNT(*) FROM invitations WHERE group_name = ?", (group,))[0][0])


def invited(dao: Dao, username: str, limit: int) -> dict[str, str]:
    """The groups to which a user is invited, each with who invites: at most `limit`, the newest
    first.
    """
    rows = dao.connection.query(
        "SELECT group_name, inviter FROM invitations WHERE username = ? ORDER BY asked DESC, group_name LIMIT ?",
        (username, limit),
    )
    return dict(rows)


def remove_old(dao: Dao, after: tuple[str, str], before: int, limit: int) -> tuple[str, str] | None:
    """Look at the next `limit` invitations; drop those from before a time.

    Returns the last one that was looked at (user and group), None if there is none behind `after`.
    """
    username, group = after
    rows = dao.connection.query(
        "SELECT username, group_name, asked FROM invitations WHERE username >= ? AND (username > ? OR group_name > ?) "
        "ORDER BY username, group_name LIMIT ?",
        (username, username, group, limit),
    )
    for username, group, asked in rows:
        if asked < before:
            remove(dao, username, group)
    return (username, group) if rows else None


def invited_on(dao: Dao, username: str, day: int) -> int:
    """How many users somebody has invited on a day, counted in days since 1970."""
    rows = dao.connection.query(
        "SELECT invited_count FROM users WHERE username = ? AND invited_day = ?", (username, day)
    )
    return int(rows[0][0]) if rows else 0


def note_invited(dao: Dao, username: str, day: int, count: int) -> None:
    """Remember how many users somebody has invited on a day."""
    dao.connection.change(
        "UPDATE users SET invited_day = ?, invited_count = ? WHERE username = ?", (day, count, username)
    )
