"""The tables: made in an empty database, found, migrated from older versions, or refused."""

import contextlib
import itertools
import re
import sqlite3
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import allocate_ids
from schemas import make_old_version, reopen
from wire import HISTORY, logged_in

from faults.mariadb import PrivateMariaDB
from faults.process import Server
from jelly import migrations
from jelly.config import Settings
from jelly.dao import Dao, StoredMessage
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import StartError, StoreError
from jelly.migrations import ROWS_OF_META, migrate
from jelly.mysql_engine import MysqlEngine
from jelly.server import JellyServer
from jelly.sqlite_engine import SqliteEngine


def test_a_newer_schema_is_refused(empty_database_url: str) -> None:
    """An older program does not touch tables that it does not know."""
    for dao in reopen(empty_database_url):
        dao.connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
    with pytest.raises(StartError, match="schema version 99, this program knows 3: use a newer Jelly"):
        next(reopen(empty_database_url))


def refused_start(url: str) -> str:
    """Start a server that must not start on a database; what it says, which is one sentence."""
    with pytest.raises(StartError) as refused:
        JellyServer(Settings(database=url, port=0)).stop()
    [line] = str(refused.value).splitlines()
    return line


def rows_of_meta(url: str) -> dict[str, int]:
    """The table meta, after a message was stored in a new database."""
    for dao in reopen(url):
        if not dao.has_user("bob"):
            dao.add_user("bob", "hash")
            dao.add_messages([StoredMessage(allocate_ids(dao)[0], False, "a", "bob", "kept", 0)], [("bob", 1)])
        assert [message.content for message in dao.waiting("bob", 0, 10)] == ["kept"]
        rows: dict[str, int] = dict(dao.connection.query("SELECT name, value FROM meta"))
    assert rows == dict.fromkeys(ROWS_OF_META, 0) | {"next_id": 2, "schema_version": 3}
    return rows


def test_a_database_that_fails_at_the_start(
    empty_database_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a new one: the start is refused, and no id is given a second time."""
    rows_of_meta(empty_database_url)
    kind = SqliteEngine if empty_database_url.startswith("sqlite") else MysqlEngine
    query = kind.query

    def fail(engine: Any, raw: Any, sql: str, parameters: Any) -> Any:
        if "schema_version" in sql:
            if kind is SqliteEngine:
                raise sqlite3.OperationalError("disk I/O error")
            request.getfixturevalue("mariadb").sql(f"KILL {raw.connection_id}")  # each time: no retry helps
        return query(engine, raw, sql, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "query", fail)
        assert re.search(
            r"cannot be used: .*(disk I/O error|[Ll]ost connection|Connection not available)",
            refused_start(empty_database_url),
        )
    rows_of_meta(empty_database_url)


def test_an_account_that_may_not_read(mariadb: PrivateMariaDB) -> None:
    """It is told so, even if it may do everything else, and the database stays as it was."""
    url = mariadb.fresh_database("unread")
    rows_of_meta(url)
    mariadb.sql(
        "DROP USER IF EXISTS blind@'%'; CREATE USER blind@'%' IDENTIFIED BY 'password'; "
        "GRANT INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON unread.* TO blind@'%'"
    )
    assert re.search(r"cannot be used: .*SELECT command denied", refused_start(url.replace("jelly:", "blind:")))
    rows_of_meta(url)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("DROP TABLE meta", "users or messages, but its table meta does not say their schema version"),
        ("DELETE FROM meta", "users or messages, but its table meta does not say their schema version"),
        ("DELETE FROM meta WHERE name = 'schema_version'", "does not say their schema version: restore a backup"),
        ("DELETE FROM meta WHERE name = 'next_id'", "has lost its row next_id: restore a backup"),
        ("DELETE FROM meta WHERE name = 'indexed'", "has lost its row indexed: restore a backup"),
    ],
)
def test_a_database_that_has_lost_its_meta(empty_database_url: str, damage: str, sentence: str) -> None:
    """While there are users or messages, it is not taken for a new one."""
    rows_of_meta(empty_database_url)
    for dao in reopen(empty_database_url):
        with dao.connection.transaction():
            dao.connection.define(damage)
    assert sentence in refused_start(empty_database_url)


def test_nothing_deletes_from_meta() -> None:
    """Which ids were given stands there only."""
    files = [
        *Path(migrations.__file__).parent.parent.rglob("*.py"),
        Path(migrations.__file__).parents[2] / "schema.sql",
    ]
    for file in files:
        assert not re.search(r"(DELETE FROM|DROP TABLE|REPLACE INTO|TRUNCATE) +meta", file.read_text()), file


def test_an_older_schema_is_migrated(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step runs once, in order, and nothing is lost."""
    for dao in reopen(empty_database_url):
        dao.add_messages([StoredMessage(1, False, "a", "bob", "kept", 0)], [("bob", 1)])
    newer = migrations.SCHEMA_VERSION + 2
    steps = {
        newer - 1: ("ALTER TABLE users ADD COLUMN one INT",),
        newer: ("ALTER TABLE users ADD COLUMN two INT", lambda connection: connection.query("SELECT 1")),
    }
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", newer)
    monkeypatch.setattr(migrations, "STEPS", steps)
    for _ in range(2):
        for dao in reopen(empty_database_url):
            assert [message.content for message in dao.waiting("bob", 0, 10)] == ["kept"]
            assert dao.connection.query("SELECT one, two FROM users") == []
            assert dao.connection.query("SELECT value FROM meta WHERE name = 'schema_version'") == [(newer,)]


def definitions(dao: Dao, url: str) -> list[tuple[Any, ...]]:
    """The tables and indexes of a database, in its own words, without the order of the columns."""
    if url.startswith("sqlite"):
        columns = (
            'SELECT m.name, c.name, c.type, c."notnull", c.pk FROM sqlite_master AS m '
            "JOIN pragma_table_info(m.name) AS c ORDER BY m.name, c.name"
        )
        indexes = (
            "SELECT m.tbl_name, m.name, c.seqno, c.name FROM sqlite_master AS m JOIN pragma_index_info(m.name) AS c "
            "WHERE m.type = 'index' ORDER BY m.name, c.seqno"
        )
        return dao.connection.query(columns) + dao.connection.query(indexes)
    columns = (
        "SELECT table_name, column_name, column_type, is_nullable, collation_name FROM information_schema.columns "
        "WHERE table_schema = DATABASE() ORDER BY table_name, column_name"
    )
    indexes = (
        "SELECT table_name, index_name, seq_in_index, column_name FROM information_schema.statistics "
        "WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index"
    )
    return dao.connection.query(columns) + dao.connection.query(indexes)


@pytest.mark.parametrize("version", [1, 2])
def test_a_database_of_an_older_version(
    empty_database_url: str, version: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """It becomes like a new one, and keeps its users, groups and messages."""
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    if empty_database_url.startswith("mysql"):
        fresh = request.getfixturevalue("mariadb").fresh_database("fresh")
    expected = [definitions(dao, fresh) for dao in reopen(fresh)]
    old = make_old_version(empty_database_url, version)
    assert [definitions(dao, empty_database_url) for dao in reopen(empty_database_url)] == expected
    with (
        Server(empty_database_url, "--classic-gap=0") as server,
        logged_in(server.port, "bob", features=["ack"]) as bob,
    ):
        notices = [bob.receive_notice().values for _ in range(len(old))]
        assert [notice["content"] for notice in notices] == old
        assert [message["content"] for message in bob.ok(HISTORY, person="alice")["messages"]] == old[::2]
        assert [message["content"] for message in bob.ok(HISTORY, groupName="team")["messages"]] == old[1::2]
        bob.message("alice", "new")
        assert bob.ok(HISTORY, person="alice", limit=1)["messages"][0]["id"] > notices[-1]["id"]


def test_what_was_there_before_counts_as_read(empty_database_url: str) -> None:
    """In the conversations that a database of the version before has."""
    make_old_version(empty_database_url, 2)
    engine = open_engine(empty_database_url)
    connection = DatabaseConnection(engine, writes=True)
    for id, is_group, one_side, other_side in ((1_000_001, 0, "alice", "bob"), (1_000_002, 1, "team", "")):
        connection.execute(
            "INSERT INTO history (message_id, is_group, one_side, other_side) VALUES (?, ?, ?, ?)",
            (id, is_group, one_side, other_side),
        )
    connection.close()
    engine.release()
    for dao in reopen(empty_database_url):
        assert dao.connection.query("SELECT * FROM read_pointers ORDER BY username, is_group") == [
            ("alice", 0, "bob", 1_000_002), ("alice", 1, "team", 1_000_002),
            ("bob", 0, "alice", 1_000_002), ("bob", 1, "team", 1_000_002),
        ]  # fmt: skip


class CutOff:
    """Cuts each start off after one statement more than the one before.

    So a start meets what all before it have left, does again what they have done, and one thing
    that is new. When one of them comes to its end, the database was left at every place where a
    start can end, and every start that was cut off there was followed by another one.
    """

    def __init__(self) -> None:
        self.done: set[Any] = set()
        """The statements that were run so far, with their parameters."""
        self._may_go_on = False

    def starts(self, url: str, monkeypatch: pytest.MonkeyPatch) -> int:
        """Start until it is not cut off any more; how many times that took."""
        with monkeypatch.context() as patch:
            for name in ("define", "execute"):
                patch.setattr(DatabaseConnection, name, self._cutting_off(getattr(DatabaseConnection, name)))
            for count in itertools.count(1):
                self._may_go_on = True
                with contextlib.suppress(KeyboardInterrupt):
                    list(reopen(url))
                    return count
        raise AssertionError

    def _cutting_off(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def run_or_cut_off(connection: DatabaseConnection, sql: str, parameters: Sequence[Any] = ()) -> Any:
            step = sql, tuple(parameters)
            if step not in self.done and "WHERE 1 = 0" not in sql:  # (that tries what may be done, and does nothing)
                if not self._may_go_on:
                    raise KeyboardInterrupt
                self._may_go_on = False
            result = run(connection, sql, *([parameters] if parameters else []))
            self.done.add(step)
            return result

        return run_or_cut_off


def test_a_migration_cut_off_after_any_statement(
    empty_database_url: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, the next start goes on, and no message is lost."""
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    if empty_database_url.startswith("mysql"):
        fresh = request.getfixturevalue("mariadb").fresh_database("fresh")
    expected = [definitions(dao, fresh) for dao in reopen(fresh)]
    old = make_old_version(empty_database_url, 1)
    cut_off = CutOff()
    total = sum(isinstance(step, str) for steps in migrations.STEPS.values() for step in steps)
    assert cut_off.starts(empty_database_url, monkeypatch) >= total
    for dao in reopen(empty_database_url):
        assert definitions(dao, empty_database_url) == expected[0]
        assert [message.content for message in dao.waiting("bob", 0, 100)] == old
        assert dao.indexed_id() == 0
        assert dao.connection.query("SELECT value FROM meta WHERE name = 'schema_version'") == [(3,)]


def test_a_first_start_that_was_cut_off(mariadb: PrivateMariaDB) -> None:
    """MySQL commits each table by itself: the next start makes what is missing."""
    url = mariadb.fresh_database("half")
    for dao in reopen(url):
        dao.connection.execute("DROP TABLE inbox")
        dao.connection.execute("DELETE FROM meta")
    for dao in reopen(url):
        assert dao.waiting("bob", 0, 10) == []
        assert allocate_ids(dao) == [1]


def test_a_first_start_cut_off_after_any_statement(mariadb: PrivateMariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the first start ends, even between the last two rows, the next one goes on."""
    url, fresh = mariadb.fresh_database("cut"), mariadb.fresh_database("fresh")
    expected = [definitions(dao, fresh) for dao in reopen(fresh)]
    statements = migrations.split_statements(migrations.schema())
    assert CutOff().starts(url, monkeypatch) >= len(statements) + len(ROWS_OF_META) + 1
    for dao in reopen(url):
        assert definitions(dao, url) == expected[0]
        assert allocate_ids(dao) == [1]


@pytest.mark.parametrize(
    "table", ["notes (id BIGINT)", "users (name VARCHAR(32))", "meta (version VARCHAR(9))"], ids=lambda text: text[:5]
)
def test_a_database_of_another_program(empty_database_url: str, table: str, tmp_path: Path) -> None:
    """It is refused, and not a byte of it is changed."""
    engine = open_engine(empty_database_url)
    connection = DatabaseConnection(engine, writes=True)
    with connection.transaction():
        connection.define(f"CREATE TABLE {table[:-1]}, PRIMARY KEY ({table.split()[1][1:]}))")
    connection.close()
    engine.release()
    (tmp_path / "jelly.db.lock").unlink(missing_ok=True)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StartError, match="is not a database of Jelly, but has tables of another program: name another"):
        list(reopen(empty_database_url))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert connection.tables() == {table.split()[0]}
    connection.close()
    engine.release()


def test_tables_of_another_program_beside_ours(empty_database_url: str) -> None:
    """A database that is in use already may be shared."""
    for dao in reopen(empty_database_url):
        with dao.connection.transaction():
            dao.connection.define("CREATE TABLE notes (id BIGINT NOT NULL, PRIMARY KEY (id))")
    for dao in reopen(empty_database_url):
        assert "notes" in dao.connection.tables()


@pytest.mark.parametrize("missing", ["INSERT", "UPDATE", "DELETE"])
def test_an_account_that_may_not_write(mariadb: PrivateMariaDB, missing: str) -> None:
    """The server does not start, also if the account lacks a right on one table only."""
    url = mariadb.fresh_database("rights")
    for _ in reopen(url):
        pass
    rights = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    user = f"reader_{missing.lower()}"
    mariadb.sql(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'password'")
    try:
        for (table,) in mariadb.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'rights'"):
            granted = rights - ({missing} if table == "missed" else set())
            mariadb.sql(f"GRANT {', '.join(sorted(granted))} ON rights.{table} TO '{user}'@'%'")
        parts = urllib.parse.urlsplit(url)
        own = f"mysql://{user}:password@{parts.hostname}:{parts.port}/rights"
        with pytest.raises(StartError, match=rf"cannot be used: .*{missing} command denied .* what this user may do\."):
            JellyServer(Settings(port=0, database=own))
        mariadb.sql(f"GRANT {missing} ON rights.missed TO '{user}'@'%'")
        for _ in reopen(own):
            pass
    finally:
        mariadb.sql(f"DROP USER '{user}'@'%'")


def test_a_first_start_on_sqlite_that_was_cut_off(tmp_path: Path) -> None:
    """On SQLite all tables are made in one transaction, so an empty file is an empty database."""
    (tmp_path / "jelly.db").touch()
    for dao in reopen(f"sqlite:///{tmp_path}/jelly.db"):
        assert not dao.has_user("alice")


def test_a_statement_of_the_schema_that_fails(tmp_path: Path) -> None:
    """Nothing of it is overlooked, but for what is there already on a database where that may
    be.
    """
    engine = open_engine(f"sqlite:///{tmp_path}/jelly.db")
    connection = DatabaseConnection(engine, writes=True)
    migrate(connection)
    with pytest.raises(StoreError, match="no such table"):
        connection.define("CREATE INDEX i ON nowhere (x)")
    connection.close()
    engine.release()


def test_without_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that lacks the file is told which one."""
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(StartError, match=r"schema\.sql is missing"):
        migrations.schema()
