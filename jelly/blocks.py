"""Who has blocked whom: the SQL of it, and in memory those who have blocked anybody.

Most users block nobody. So the names of those who do are kept in memory, and a message to anybody
else needs no query. A name too many does no harm: then the database is asked. All functions raise
StoreError when the database fails.
"""

from jelly.dao import Dao


class Blocks:
    """The users who have blocked somebody. Only turns of the store use it."""

    def __init__(self) -> None:
        self.blockers: set[str] = set()
        """All who block anybody now, and perhaps some who did."""
        self.is_stale = False
        """Whether some may be missing: then the next transaction loads them."""

    def load(self, dao: Dao) -> None:
        """Read the names: on a node, in a transaction, so that no other node adds one meanwhile."""
        self.blockers = {name for (name,) in dao.connection.query("SELECT DISTINCT username FROM blocks")}
        self.is_stale = False


def add(dao: Dao, username: str, person: str) -> None:
    """Have a user block a person, who is not blocked yet."""
    dao.connection.change("INSERT INTO blocks (username, person) VALUES (?, ?)", (username, person))


def remove(dao: Dao, username: str, person: str) -> None:
    dao.connection.change("DELETE FROM blocks WHERE username = ? AND person = ?", (username, person))


def is_blocked(dao: Dao, username: str, person: str) -> bool:
    """Whether a user has blocked a person."""
    return bool(dao.connection.query("SELECT 1 FROM blocks WHERE username = ? AND person = ?", (username, person)))


def blocked_by(dao: Dao, username: str) -> list[str]:
    """Whom a user has blocked, in the order of the names."""
    rows = dao.connection.query("SELECT person FROM blocks WHERE username = ? ORDER BY person", (username,))
    return [person for (person,) in rows]
