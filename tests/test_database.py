"""The databases: values come back as they were; connections, claims and settings."""

import contextlib
import fcntl
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from harness import NullTransport, StartServer, allocate_ids
from schemas import reopen
from wire import ADD_FRIEND, CREATE_GROUP, FRIEND_PROFILE, OWN_GROUPS, UPDATE_PROFILE, logged_in, register

from faults.mariadb import PrivateMariaDB
from jelly import fair_queue, sqlite_engine
from jelly.dao import Dao, DatabaseWentBack, StoredMessage
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import ConfigError, StoreError
from jelly.fair_queue import FairQueue, Job
from jelly.mysql_engine import MysqlEngine
from jelly.outcomes import NewMessage
from jelly.passwords import impossible_hash
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
    alice = ("alice", "")
    assert [dao.token_owner(f"hash{number}", 0) for number in range(5)] == [None, None, alice, alice, alice]
    assert dao.token_owner("hash4", 104) is None
    dao.remove_token("hash4", "bob")
    assert dao.token_owner("hash4", 0) == alice
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
        if event == "call" and frame.f_globals["__name__"].startswith("jelly."):  # not what collects garbage
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


def test_a_damaged_file(tmp_path: Path) -> None:
    """The error says what to do: it does not pass by itself."""
    path = tmp_path / "jelly.db"
    for dao in reopen(f"sqlite:///{path}"):
        dao.add_user("alice", "hash")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"x" * (size - 4096))
    connection = DatabaseConnection(open_engine(f"sqlite:///{path}"))
    with contextlib.closing(connection), pytest.raises(StoreError, match=r"malformed .*`jelly restore FILE`"):
        connection.query("SELECT * FROM users")


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
        monkeypatch.setattr(MysqlEngine, "_value", lambda *_: ignores_case)  # noqa: B023 - used at once
        names = {MysqlEngine(f"mysql://u:p@h/{name}")._lock_name(None) for name in ("Chat", "chat")}
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
    monkeypatch.setattr(sqlite_engine, "WAL_BYTES", 2**20)
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
