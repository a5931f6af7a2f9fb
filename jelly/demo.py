"""The temporary database of `python jelly.py --demo`.

It has two users, alice and bob, who are friends, and their group `team`.
"""

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
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # without letters that look alike


class Demo(NamedTuple):
    """The URL of the temporary database, and the password of each of its users."""

    url: str
    passwords: dict[str, str]


@contextlib.contextmanager
def demo_database(password_cost: int) -> Iterator[Demo]:
    """Create the database in a temporary directory, and delete it afterwards.

    Raises StartError if it cannot be created.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="jelly-demo-")
    except OSError as error:
        raise StartError(
            f"Cannot create a temporary directory for the demo: {error.strerror}. Set TMPDIR to another one."
        ) from error
    with directory as path:
        url = f"sqlite:///{Path(path) / 'jelly.db'}"
        # Random, because --host can open even this server to a network.
        passwords = {name: "".join(secrets.choice(_LETTERS) for _ in range(8)) for name in NAMES}
        try:
            _fill(url, passwords, password_cost)
        except StoreError as error:
            raise StartError(
                f"Cannot create the demo database in {path}: {error}. Set TMPDIR to a directory with room."
            ) from error
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
