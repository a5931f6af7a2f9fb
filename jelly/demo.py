"""A database for trying out, which `python jelly.py --demo` serves: alice and bob, friends, and their group `team`."""

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import StartError, StoreError
from jelly.migrations import migrate
from jelly.passwords import hash_password

NAMES = ("alice", "bob")
GROUP = "team"
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look like another


class Demo(NamedTuple):
    """A database that is gone when the server stops, and the password of each user in it."""

    url: str
    passwords: dict[str, str]


@contextlib.contextmanager
def demo_database(password_cost: int) -> Iterator[Demo]:
    """Make it in a temporary directory, and remove it afterwards. Raises StartError if there is no room for it."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="jelly-demo-")
    except OSError as error:
        raise StartError(f"There is no temporary directory for the demo: {error.strerror}.") from error
    with directory as path:
        url = f"sqlite:///{Path(path) / 'jelly.db'}"
        # New ones each time: --host may open even this server to a network.
        passwords = {name: "".join(secrets.choice(_LETTERS) for _ in range(8)) for name in NAMES}
        try:
            _fill(url, passwords, password_cost)
        except StoreError as error:
            raise StartError(f"The database of the demo cannot be made in {path}: {error}.") from error
        yield Demo(url, passwords)


def _fill(url: str, passwords: dict[str, str], cost: int) -> None:
    engine = open_engine(url)
    connection = DatabaseConnection(engine, writes=True)
    try:
        migrate(connection)
        dao = Dao(connection)
        with connection.transaction():
            for name, password in passwords.items():
                dao.add_user(name, hash_password(password, cost))
            for name in NAMES:
                for friend in set(NAMES) - {name}:
                    dao.add_friend(name, friend)
            dao.add_group(GROUP, NAMES[0])
            for member in NAMES[1:]:
                dao.add_member(GROUP, member)
    finally:
        connection.close()
        engine.release()
