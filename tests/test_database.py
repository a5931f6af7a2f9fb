"""The databases: values come back as they were; tables are made, found and migrated."""

import contextlib
import fcntl
import itertools
import re
import sqlite3
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from harness import NullTransport, StartServer, allocate_ids
from wire import ADD_FRIEND, CREATE_GROUP, FRIEND_PROFILE, HISTORY, OWN_GROUPS, UPDATE_PROFILE, logged_in, register

from faults.mariadb import PrivateMariaDB
from faults.process import Server
from jelly import engines, fair_queue, migrations, passwords
from jelly.config import Settings
from jelly.dao import Dao, DatabaseWentBack, StoredMessage
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import ConfigError, StartError, StoreError
from jelly.fair_queue import FairQueue, Job
from jelly.migrations import ROWS_OF_META, migrate
from jelly.outcomes import NewMessage
from jelly.passwords import impossible_hash
from jelly.server import JellyServer
from jelly.sessions import Session

COLLATIONS = ["utf8mb4_general_ci", "utf8mb4_unicode_ci", "latin1_swedish_ci", "utf8mb3_bin"]


@pytest.mark.parametrize("collation", ["sqlite", *(pytest.param(name, id=f"mariadb-{name}") for name in COLLATIONS)])
def test_names_are_told_apart(collation: str, start_server: StartServer, request: pytest.FixtureRequest) -> None:
    """bob, Bob and böb are three users, whatever the default collation is."""
    settings = {}
    if collation != "sqlite":
        mariadb: PrivateMariaDB = request.getfixturevalue("mariadb")
        settings["database"] = mariadb.fresh_database("names", collation)
    port = start_server(classic_gap=1, **settings).port
    names = ["bob", "Bob", "böb", "боб", "😀", "ß", "ss"]
    register(port, "alice", *names)
    with logged_in(port, "alice") as alice:
        for name in names:
            alice.message(name, f"to {name}")
            alice.ok(ADD_FRIEND, friend=name)
            alice.ok(CREATE_GROUP, groupName=name)
        assert alice.refused(ADD_FRIEND, friend="BOB") == "no_such_user"
        assert list(alice.ok(OWN_GROUPS)["groups"]) == sorted(names)
        for name in names:
            with logged_in(port, name) as wire:
                assert wire.contents(1) == [f"to {name}"]
                wire.ok(UPDATE_PROFILE, name=name)
            assert alice.ok(FRIEND_PROFILE, friend=name) == {"username": name, "name": name}


def test_texts_come_back_as_they_were(dao: Dao) -> None:
    """Emoji, NUL, quotes, long texts, and times to the millisecond, far beyond 2038."""
    for id, content in enumerate(["😀 你好 \0'\"\\%s?\n", "x" * 60_000, ""], 1):
        message = StoredMessage(id, True, "alice", "team", content, 4102444800123)
        dao.add_messages([message], [("bob", id)])
        assert dao.waiting("bob", id - 1, 10) == [message]


def test_the_inbox(dao: Dao) -> None:
    """Pages come oldest first. A delivered row goes, and the message with its last row."""
    dao.add_messages(
        [StoredMessage(id, True, "a", "team", "x", 0) for id in range(1, 251)],
        [(name, id) for id in range(1, 251) for name in ("bob", "carol")],
    )
    assert [message.id for message in dao.waiting("bob", 0, 3)] == [1, 2, 3]
    assert [message.id for message in dao.waiting("bob", 248, 3)] == [249, 250]
    dao.remove_delivered([("bob", 200), ("nobody", 999)], keep=False)
    assert [message.id for message in dao.waiting("bob", 0, 1)] == [201]
    assert len(dao.waiting("carol", 0, 1000)) == 250
    dao.remove_delivered([("carol", 100)], keep=False)
    assert dao.connection.query("SELECT MIN(id), COUNT(*) FROM messages") == [(101, 150)]
    dao.remove_delivered([("bob", 250), ("carol", 250)], keep=True)
    assert dao.connection.query("SELECT COUNT(*) FROM inbox") == [(0,)]
    assert dao.connection.query("SELECT MIN(id), COUNT(*) FROM messages") == [(101, 150)]


def test_the_largest_batch_fits_into_a_packet(mariadb: PrivateMariaDB) -> None:
    """Even with large characters, a batch of the store fits into max_allowed_packet of MariaDB."""
    content = "😀" * 16_000
    new = NewMessage(0x15, "alice", "bob", content, 0, None)
    queue = FairQueue()
    queue.add(
        Job(Session(NullTransport(), ""), [new] * 64, [0.0] * 64, 64 * len(content.encode()), print) for _ in range(20)
    )
    count = sum(len(job.entries) for job in queue.take())
    assert count == fair_queue.BATCH_BYTES // len(content.encode())
    for dao in reopen(mariadb.fresh_database("large")):
        messages = [StoredMessage(id, False, "alice", "bob", content, 0) for id in range(count)]
        dao.add_messages(messages, [("bob", message.id) for message in messages])


def test_a_batch_of_messages_to_large_groups(mariadb: PrivateMariaDB) -> None:
    """One message to more members than a group may have fits into MariaDB's packets."""
    names = [f"a_member_with_a_long_name_{number:06}" for number in range(12_001)]
    for dao in reopen(mariadb.fresh_database("large")):
        dao.add_messages([StoredMessage(1, True, "alice", "g", "x", 0)], [(name, 1) for name in names])
        assert dao.connection.query("SELECT COUNT(*) FROM inbox") == [(12_001,)]


def test_every_content_comes_back(dao: Dao) -> None:
    """Whatever characters it has, alone or among many, and even if it is as large as a packet."""
    contents = ["", "'", "\\", "\\'", '"; --', "\0", "%s ? %(a)s", "x'00'", "NULL", "😀 böb\n\t", "-1", "5" * 5_000_000]
    messages = [StoredMessage(id, False, "alice", "bob", text, -(2**63)) for id, text in enumerate(contents, 1)]
    dao.add_messages(messages, [("bob", message.id) for message in messages])
    more = [
        StoredMessage(100 + id, True, "alice", "g", text, 2**63 - 1, "r'", -1) for id, text in enumerate(contents[:-1])
    ]
    dao.add_messages(more, [("bob", message.id) for message in more])
    assert dao.waiting("bob", 0, 50) == [
        *messages,
        *(message._replace(request_id=None, digest=None) for message in more),
    ]
    [row] = dao.connection.query("SELECT request_id, digest FROM messages WHERE id = 101")
    assert row == ("r'", -1)


def test_ids_are_never_given_twice(dao: Dao) -> None:
    """They grow by one. Those of a transaction that was rolled back are not used again."""
    assert allocate_ids(dao, 2) == [1, 2]
    assert dao.peek_id() == 3
    with contextlib.suppress(ZeroDivisionError), dao.connection.transaction():
        dao.move_mark(2)
        assert dao.allocate_id() == 3
        raise ZeroDivisionError
    assert allocate_ids(dao) == [5]
    assert allocate_ids(Dao(dao.connection)) == [6]


def test_the_last_id(dao: Dao) -> None:
    """No id is 2**53 or larger, as JavaScript could not tell it from the next one."""
    dao.connection.execute("UPDATE meta SET value = ? WHERE name = 'next_id'", (2**53 - 2,))
    assert allocate_ids(dao) == [2**53 - 2]
    with pytest.raises(StoreError, match="all ids of messages are used"):
        allocate_ids(dao, 2)
    assert allocate_ids(Dao(dao.connection)) == [2**53 - 1]


def test_a_database_that_goes_back_is_noticed(dao: Dao) -> None:
    """Each transaction moves the mark on from where the last one left it."""
    allocate_ids(dao, 3)
    dao.connection.execute("UPDATE meta SET value = 2 WHERE name = 'next_id'")
    with pytest.raises(DatabaseWentBack):
        allocate_ids(dao)
    dao.mark = dao.read_mark()
    assert allocate_ids(dao)[0] > 3


def test_tokens(dao: Dao) -> None:
    """They belong to one user and expire, and only the youngest ones are kept."""
    for number in range(5):
        dao.add_token(f"hash{number}", "alice", expires=100 + number, now=0, keep=3)
    assert [dao.token_owner(f"hash{number}", 0) for number in range(5)] == [None, None, "alice", "alice", "alice"]
    assert dao.token_owner("hash4", 104) is None
    dao.remove_token("hash4", "bob")
    assert dao.token_owner("hash4", 0) == "alice"
    dao.add_token("new", "alice", expires=999, now=103, keep=3)
    assert dao.token_owner("hash3", 0) is None  # expired, so it went
    dao.remove_tokens("alice")
    assert dao.token_owner("new", 0) is None


def test_known_addresses(dao: Dao) -> None:
    """Each user has some, the oldest go, and the newest time counts."""
    with dao.connection.transaction():
        dao.add_user("alice", "hash")
        dao.add_user("bob", "hash")
        for number, network in enumerate(["10.0.0.1", "2001:db8::/64", "10.0.0.1", "10.0.0.2"]):
            dao.remember_address("alice", network, 100 * number, keep=2)
    assert dao.credentials("alice", "10.0.0.1") == ("hash", 200)
    assert dao.credentials("alice", "10.0.0.2") == ("hash", 300)
    assert dao.credentials("alice", "2001:db8::/64") == ("hash", None)
    assert dao.credentials("bob", "10.0.0.1") == ("hash", None)
    assert dao.credentials("nobody", "10.0.0.1") == (None, None)
    with dao.connection.transaction():
        assert dao.remove_old_addresses(before=300, limit=10)
        assert not dao.remove_old_addresses(before=300, limit=10)
    assert dao.credentials("alice", "10.0.0.1") == ("hash", None)
    assert dao.credentials("alice", "10.0.0.2") == ("hash", 300)


def test_what_hashes_cost(dao: Dao) -> None:
    """The costs of a sample of all accounts, whether they have one digit or two."""
    with dao.connection.transaction():
        for number, cost in enumerate([14, 9, 14, 14, 1]):
            dao.add_user(f"user{number}", impossible_hash(cost))
    assert dao.hash_costs(100) == {14: 3, 9: 1, 1: 1}
    assert dao.hash_costs(2) == {14: 1, 9: 1}


def test_a_transaction_is_all_or_nothing(dao: Dao) -> None:
    """After an error inside, nothing of it is stored, and the connection works on."""
    dao.add_user("alice", "hash")

    def add_both() -> None:
        with dao.connection.transaction():
            dao.add_user("bob", "hash")
            dao.add_user("alice", "hash")

    with pytest.raises(StoreError):
        add_both()
    assert not dao.has_user("bob")
    assert dao.has_user("alice")


def test_a_bug_in_a_transaction_is_not_the_database_s(dao: Dao) -> None:
    """It is raised as it is, rolls back what was written, and the connection stays."""
    before = dao.connection._raw

    def fail() -> None:
        with dao.connection.transaction():
            dao.add_user("alice", "hash")
            raise AttributeError  # the driver for MySQL raises it when a connection breaks

    with pytest.raises(AttributeError):
        fail()
    assert not dao.has_user("alice")
    assert dao.connection._raw is before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_message_takes_few_calls(dao: Dao) -> None:
    """One message in one transaction on SQLite: calls of our own functions, and two INSERTs."""
    messages = [StoredMessage(number + 1, False, "alice", "bob", str(number), 0) for number in range(2)]
    calls: list[str] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_qualname)

    for message in messages:  # the first one opens the connection
        calls.clear()
        sys.setprofile(note)
        try:
            with dao.connection.transaction():
                dao.add_messages([message], [("bob", message.id)])
        finally:
            sys.setprofile(None)
    assert len(calls) <= 9, calls
    assert dao.waiting("bob", 0, 10) == messages


def test_a_value_that_does_not_fit_is_an_error(database_url: str, dao: Dao) -> None:
    """MySQL does not shorten it silently. (SQLite has no lengths: the program checks them.)"""
    if database_url.startswith("mysql"):
        with pytest.raises(StoreError, match="Data too long"):
            dao.add_user("x" * 33, "hash")


def reopen(url: str) -> Iterator[Dao]:
    engine = open_engine(url)
    connection = DatabaseConnection(engine, writes=True)
    try:
        migrate(connection)
        yield Dao(connection)
    finally:
        connection.close()
        engine.release()


def test_a_link_to_the_database_is_the_same_database(tmp_path: Path) -> None:
    """A second server is refused by whatever name it calls the file."""
    (tmp_path / "symlink.db").symlink_to(tmp_path / "jelly.db")
    for _ in reopen(f"sqlite:///{tmp_path}/jelly.db"):
        with pytest.raises(StoreError, match="another server is using this database"):
            list(reopen(f"sqlite:///{tmp_path}/symlink.db"))


def sqlite_holds_its_lock(path: Path) -> bool:
    """Whether a process has SQLite's own lock on a file, seen from another process."""
    code = f"import fcntl; fcntl.lockf(open({str(path)!r}, 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode != 0


def test_a_hard_link_to_the_database_is_the_same_database(tmp_path: Path) -> None:
    """A second claim is refused, and does not cost the first one SQLite's own locks."""
    path = tmp_path / "jelly.db"
    for dao in reopen(f"sqlite:///{path}"):
        (tmp_path / "linked.db").hardlink_to(path)
        assert sqlite_holds_its_lock(path)
        for _ in range(2):
            with pytest.raises(StoreError, match="another server is using this database"):
                list(reopen(f"sqlite:///{tmp_path}/linked.db"))
        dao.connection.close()
        with dao.connection.transaction():  # it connects again
            dao.add_user("alice", "hash")
        assert sqlite_holds_its_lock(path)
    assert not sqlite_holds_its_lock(path)
    for dao in reopen(f"sqlite:///{tmp_path}/linked.db"):
        assert dao.has_user("alice")


def test_a_system_on_which_the_lock_meets_sqlites_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the file itself is not locked, and the lock on the file beside it does the work."""

    def is_refused(*_: object) -> None:
        raise PermissionError

    (tmp_path / "symlink.db").symlink_to(tmp_path / "jelly.db")
    monkeypatch.setattr(fcntl, "lockf", is_refused)
    for dao in reopen(f"sqlite:///{tmp_path}/jelly.db"):
        with (tmp_path / "jelly.db").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StoreError, match="another server is using this database"):
            list(reopen(f"sqlite:///{tmp_path}/symlink.db"))
        assert not dao.has_user("alice")


def test_a_newer_schema_is_refused(database_url: str) -> None:
    """An older program does not touch tables that it does not know."""
    for dao in reopen(database_url):
        dao.connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
    with pytest.raises(StartError, match="schema version 99, this program knows 3: use a newer Jelly"):
        next(reopen(database_url))


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
    database_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a new one: the start is refused, and no id is given a second time."""
    rows_of_meta(database_url)
    kind = engines.SqliteEngine if database_url.startswith("sqlite") else engines.MysqlEngine
    query = kind.query

    def fail(engine: Any, raw: Any, sql: str, parameters: Any) -> Any:
        if "schema_version" in sql:
            if kind is engines.SqliteEngine:
                raise sqlite3.OperationalError("disk I/O error")
            request.getfixturevalue("mariadb").sql(f"KILL {raw.connection_id}")  # each time: no retry helps
        return query(engine, raw, sql, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "query", fail)
        assert re.search(
            r"cannot be used: .*(disk I/O error|[Ll]ost connection|Connection not available)",
            refused_start(database_url),
        )
    rows_of_meta(database_url)


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
def test_a_database_that_has_lost_its_meta(database_url: str, damage: str, sentence: str) -> None:
    """While there are users or messages, it is not taken for a new one."""
    rows_of_meta(database_url)
    for dao in reopen(database_url):
        with dao.connection.transaction():
            dao.connection.define(damage)
    assert sentence in refused_start(database_url)


def test_nothing_deletes_from_meta() -> None:
    """Which ids were given stands there only."""
    files = [
        *Path(migrations.__file__).parent.parent.rglob("*.py"),
        Path(migrations.__file__).parents[2] / "schema.sql",
    ]
    for file in files:
        assert not re.search(r"(DELETE FROM|DROP TABLE|REPLACE INTO|TRUNCATE) +meta", file.read_text()), file


def test_an_older_schema_is_migrated(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step runs once, in order, and nothing is lost."""
    for dao in reopen(database_url):
        dao.add_messages([StoredMessage(1, False, "a", "bob", "kept", 0)], [("bob", 1)])
    newer = migrations.SCHEMA_VERSION + 2
    steps = {
        newer - 1: ("ALTER TABLE users ADD COLUMN one INT",),
        newer: ("ALTER TABLE users ADD COLUMN two INT", lambda connection: connection.query("SELECT 1")),
    }
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", newer)
    monkeypatch.setattr(migrations, "STEPS", steps)
    for _ in range(2):
        for dao in reopen(database_url):
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
    database_url: str, version: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """It becomes like a new one, and keeps its users, groups and messages."""
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    if database_url.startswith("mysql"):
        fresh = request.getfixturevalue("mariadb").fresh_database("fresh")
    expected = [definitions(dao, fresh) for dao in reopen(fresh)]
    old = make_old_version(database_url, version)
    assert [definitions(dao, database_url) for dao in reopen(database_url)] == expected
    with Server(database_url, "--classic-gap=0") as server, logged_in(server.port, "bob", features=["ack"]) as bob:
        notices = [bob.receive_notice().values for _ in range(len(old))]
        assert [notice["content"] for notice in notices] == old
        assert [message["content"] for message in bob.ok(HISTORY, person="alice")["messages"]] == old[::2]
        assert [message["content"] for message in bob.ok(HISTORY, groupName="team")["messages"]] == old[1::2]
        bob.message("alice", "new")
        assert bob.ok(HISTORY, person="alice", limit=1)["messages"][0]["id"] > notices[-1]["id"]


def test_a_migration_cut_off_after_any_statement(
    database_url: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, the next start completes it, and no message is lost."""
    define = DatabaseConnection.define
    total = sum(isinstance(step, str) for steps in migrations.STEPS.values() for step in steps)
    for most in range(total + 1):
        url = f"sqlite:///{tmp_path}/{most}.db"
        if database_url.startswith("mysql"):
            url = request.getfixturevalue("mariadb").fresh_database("cut")
        old = make_old_version(url, 1)
        left = iter(range(most))

        def cut_off(connection: DatabaseConnection, statement: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            define(connection, statement)

        with monkeypatch.context() as patch:
            patch.setattr(DatabaseConnection, "define", cut_off)
            with pytest.raises(KeyboardInterrupt) if most < total else contextlib.nullcontext():
                list(reopen(url))
        for dao in reopen(url):
            assert [message.content for message in dao.waiting("bob", 0, 100)] == old
            assert dao.indexed_id() == 0
            [(version,)] = dao.connection.query("SELECT value FROM meta WHERE name = 'schema_version'")
            assert version == migrations.SCHEMA_VERSION


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
    """Wherever the first start ends, even between the last two rows, the second completes it."""
    define, execute = DatabaseConnection.define, DatabaseConnection.execute
    for most in itertools.count():
        url = mariadb.fresh_database("cut")
        left = iter(range(most))

        def cut_off(act: Callable[..., Any], left: Iterator[int] = left) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return act(*arguments)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(DatabaseConnection, "execute", cut_off(execute))
            patch.setattr(DatabaseConnection, "define", cut_off(define))
            try:
                list(reopen(url))
            except KeyboardInterrupt:
                patch.undo()
            else:
                break
        for dao in reopen(url):
            assert allocate_ids(dao) == [1]
    assert most > 8


@pytest.mark.parametrize(
    "table", ["notes (id BIGINT)", "users (name VARCHAR(32))", "meta (version VARCHAR(9))"], ids=lambda text: text[:5]
)
def test_a_database_of_another_program(database_url: str, table: str, tmp_path: Path) -> None:
    """It is refused, and not a byte of it is changed."""
    engine = open_engine(database_url)
    connection = DatabaseConnection(engine, writes=True)
    with connection.transaction():
        connection.define(f"CREATE TABLE {table[:-1]}, PRIMARY KEY ({table.split()[1][1:]}))")
    connection.close()
    engine.release()
    (tmp_path / "jelly.db.lock").unlink(missing_ok=True)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StartError, match="is not a database of Jelly, but has tables of another program: name another"):
        list(reopen(database_url))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert connection.tables() == {table.split()[0]}
    connection.close()
    engine.release()


def test_tables_of_another_program_beside_ours(database_url: str) -> None:
    """A database that is in use already may be shared."""
    for dao in reopen(database_url):
        with dao.connection.transaction():
            dao.connection.define("CREATE TABLE notes (id BIGINT NOT NULL, PRIMARY KEY (id))")
    for dao in reopen(database_url):
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


def test_a_weak_mariadb_is_warned_about(mariadb: PrivateMariaDB, caplog: pytest.LogCaptureFixture) -> None:
    """If a commit is not synced to the disk, the log says so at the start."""
    url = mariadb.fresh_database("weak")
    mariadb.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        for _ in reopen(url):
            assert "innodb_flush_log_at_trx_commit is not 1" in caplog.text
    finally:
        mariadb.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1")


def test_a_binary_log_that_is_not_synced(mariadb: PrivateMariaDB, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so at the start: after a power cut, what the binary log lacks is taken back. (It
    is on by default in MySQL, and off in MariaDB.)"""
    url = mariadb.fresh_database("weak")
    [[is_on, usual]] = mariadb.sql("SELECT @@GLOBAL.log_bin, @@GLOBAL.sync_binlog")
    for value, is_weak in (("1", False), ("0", is_on == "1"), ("100", is_on == "1")):
        mariadb.sql(f"SET GLOBAL sync_binlog = {value}")
        caplog.clear()
        for _ in reopen(url):
            assert ("sync_binlog is not 1" in caplog.text) == is_weak
    mariadb.sql(f"SET GLOBAL sync_binlog = {usual}")


@pytest.mark.parametrize("other", ["x" * 60 + "b", "X" * 60 + "a"], ids=["end", "case"])
def test_a_database_with_nearly_the_same_name(mariadb: PrivateMariaDB, other: str) -> None:
    """Each has its own server: its name is neither cut nor compared without regard to case."""
    urls = [mariadb.fresh_database(name) for name in ("x" * 60 + "a", other)]
    connections = [DatabaseConnection(open_engine(url), writes=True) for url in urls]
    for connection in connections:
        connection.open()
    again = DatabaseConnection(open_engine(urls[1]), writes=True)
    with pytest.raises(StoreError, match="another server is using this database"):
        again.open()
    for connection in connections:
        connection.close()


def test_a_server_that_ignores_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Chat` and `chat` are one database there, so they have one lock."""
    pytest.importorskip("mysql.connector")
    for ignores_case in (0, 1, 2):
        monkeypatch.setattr(engines.MysqlEngine, "_value", lambda *_: ignores_case)  # noqa: B023 - used at once
        names = {engines.MysqlEngine(f"mysql://u:p@h/{name}")._lock_name(None) for name in ("Chat", "chat")}
        assert len(names) == (1 if ignores_case else 2)
        assert max(map(len, names)) <= 64


class Reading(threading.Thread):
    """Reads from a SQLite database without a break until it is left, overlapping with others."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._connection = DatabaseConnection(open_engine(url))
        self._ends = False

    def run(self) -> None:
        while not self._ends:
            self._connection.query("SELECT COUNT(*), MAX(content) FROM messages")
        self._connection.close()

    def __enter__(self) -> "Reading":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self.join()


@pytest.mark.parametrize("name", ["jelly.db", "symlink.db"])
def test_the_log_beside_sqlite_is_bounded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is emptied even if there is always a reader, and found behind a symlink, too."""
    monkeypatch.setattr(engines, "WAL_BYTES", 2**20)
    (tmp_path / "symlink.db").symlink_to(tmp_path / "jelly.db")
    url = f"sqlite:///{tmp_path}/{name}"
    log = tmp_path / "jelly.db-wal"
    sizes = []
    for dao in reopen(url):
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(Reading(url))
            for _ in range(60):
                with dao.connection.transaction():
                    dao.move_mark(50)
                    dao.add_messages(
                        [StoredMessage(dao.allocate_id(), False, "a", "b", "x" * 4000, 1) for _ in range(50)], []
                    )
                dao.mark = dao.new_mark
                sizes.append(log.stat().st_size)
    assert max(sizes) < 8 * 2**20


def test_mysql_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    monkeypatch.setitem(sys.modules, "mysql", None)
    monkeypatch.setitem(sys.modules, "mysql.connector", None)
    with pytest.raises(ConfigError, match="pip install 'mysql-connector-python"):
        open_engine("mysql://u:p@127.0.0.1/jelly")


@pytest.mark.parametrize("error", [ImportError, AttributeError, "InterfaceError"])
def test_a_c_extension_that_does_not_load(
    mariadb: PrivateMariaDB, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | str
) -> None:
    """The driver's Python part does instead, and is what all later connections are made with."""
    connector = pytest.importorskip("mysql.connector")
    raised = getattr(connector, error) if isinstance(error, str) else error
    asked: list[bool] = []
    connect = connector.connect

    def connect_in_python(use_pure: bool, **arguments: Any) -> Any:
        asked.append(use_pure)
        if not use_pure:
            raise raised("no C extension")
        return connect(use_pure=True, **arguments)

    engine = open_engine(mariadb.fresh_database("pure"))
    monkeypatch.setattr(connector, "HAVE_CEXT", False)
    monkeypatch.setattr(connector, "connect", connect_in_python)
    for _ in range(2):
        connection = DatabaseConnection(engine)
        assert [tuple(row) for row in connection.query("SELECT 1")] == [(1,)]
        connection.close()
    engine.release()
    assert asked == [False, True, True]


def test_a_connection_that_cannot_be_set_up(mariadb: PrivateMariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed again, and the failure is the database's."""
    connector = pytest.importorskip("mysql.connector")
    made: list[Any] = []

    class Refusing:
        def __init__(self) -> None:
            self.is_closed = False
            made.append(self)

        def cursor(self) -> Any:
            raise connector.errors.OperationalError("gone")

        def close(self) -> None:
            self.is_closed = True

    engine = open_engine(mariadb.fresh_database("gone"))
    monkeypatch.setattr(connector, "connect", lambda **_: Refusing())
    connection = DatabaseConnection(engine)
    with pytest.raises(StoreError, match="gone"):
        connection.query("SELECT 1")
    assert [each.is_closed for each in made] == [True, True]
    engine.release()


def test_a_connection_of_ours_whose_end_the_database_has_missed(mariadb: PrivateMariaDB) -> None:
    """It holds the lock that keeps other servers out; the new one ends it, and has the lock."""
    pytest.importorskip("mysql.connector")
    engine = open_engine(mariadb.fresh_database("missed"))
    lost, new = DatabaseConnection(engine, writes=True), DatabaseConnection(engine, writes=True)
    lost.query("SELECT 1")
    new.query("SELECT 1")
    assert len(mariadb.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'jelly'")) == 1
    for each in (lost, new):
        each.close()
    engine.release()


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
