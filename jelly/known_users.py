"""The cache of user names: which users exist, so that a message needs no query for its receiver.

It knows names only. The members of groups are in the group cache (`groups.py`), and who is online
in `sessions.py`.
"""

from jelly.dao import Reading
from jelly.names import is_valid_name

MAX_KNOWN_USERS = 100_000
"""At most this many user names are cached."""


class KnownUsers:
    """The names of users who exist. Who does not exist any more must be forgotten (`forget`)."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.names: set[str] = set()
        """The cached names. Look here first: it saves each message a call."""
        self._forgotten = 0  # how often names were forgotten

    def forget_all(self) -> None:
        """Ask the database for each user again: it may not know all of them any more."""
        self._forgotten += 1
        self.names.clear()

    def forget(self, name: str) -> None:
        """A user does not exist any more."""
        self._forgotten += 1
        self.names.discard(name)

    def is_user(self, name: str) -> bool:
        """Whether there is a user of this name."""
        if name in self.names:
            return True
        if not is_valid_name(name):
            return False
        forgotten = self._forgotten
        with self._reading() as dao:
            if not dao.has_user(name):
                return False
        if len(self.names) >= MAX_KNOWN_USERS:
            # One at a time: if all were dropped at once, every sender would wait for a query.
            # (Workers may do this at the same time, as each step here is safe by itself. The set
            # may then hold a name too many for each worker.)
            self.names.pop()
        self.names.add(name)
        if forgotten != self._forgotten:
            self.names.discard(name)  # it may be this one that was forgotten, after it was read
        return True

    def has_been_user(self, name: str) -> bool:
        """Whether there is a user of this name, or was one: messages of deleted users stay."""
        if self.is_user(name):
            return True
        if not is_valid_name(name):
            return False
        with self._reading() as dao:
            return bool(dao.connection.query("SELECT 1 FROM deleted_names WHERE username = ?", (name,)))
