"""Databases with the tables of this version or of an older one."""

from collections.abc import Iterator
from pathlib import Path

from jelly import migrations, passwords
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.migrations import migrate


def reopen(url: str) -> Iterator[Dao]:
    """A Dao that may write, as a server has it after its start: `for dao in reopen(url):`."""
    engine = open_engine(url)
    connection = DatabaseConnection(engine, writes=True)
    try:
        migrate(connection)
        yield Dao(connection)
    finally:
        connection.close()
        engine.release()


def make_old_version(url: str, version: int) -> list[str]:
    """Make a database with an older version of the schema; the contents of bob's messages."""
    engine = open_engine(url)
    connection = DatabaseConnection(engine, writes=True)
    script = (Path(__file__).parent / f"schema_{version}.sql").read_text()
    with connection.transaction():
        for statement in migrations.split_statements(script):
            connection.define(statement)
    password = passwords.hash_password("pw", 1)
    for user in ("alice", "bob"):
        connection.execute("INSERT INTO users (username, password) VALUES (?, ?)", (user, password))
        connection.execute(
            "INSERT INTO members (group_name, username, position) VALUES ('team', ?, ?)", (user, user > "b")
        )
    connection.execute("INSERT INTO chat_groups (name, creator) VALUES ('team', 'alice')")
    contents = [f"{number} Grüße 👋" for number in range(10)]
    for id, content in enumerate(contents, 1_000_001):
        is_group = id % 2 == 0
        connection.execute(
            "INSERT INTO messages (id, is_group, sender, receiver, content, time) VALUES (?, ?, 'alice', ?, ?, 1)",
            (id, is_group, "team" if is_group else "bob", content),
        )
        connection.execute("INSERT INTO inbox (receiver, message_id) VALUES ('bob', ?)", (id,))
    rows = {"next_id": 2_000_001, "schema_version": version} | ({"filed": 0} if version == 2 else {})
    for row in rows.items():
        connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", row)
    connection.close()
    engine.release()
    return contents
