"""How often the store waits for MySQL: what needs no answer travels with what does."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import pure_python, ready_database
from mysql.connector import DatabaseError

from faults.mariadb import PrivateMariaDB
from jelly.cluster.node_dao import DatabaseTime, Identity, NodeDao
from jelly.dao import Dao, StoredMessage
from jelly.database import CommitInDoubt, DatabaseConnection
from jelly.engine import RowsRefused
from jelly.engines import open_engine
from jelly.errors import StoreError
from jelly.migrations import migrate
from jelly.mysql_pipeline import MysqlPipeline
from jelly.trusted_clock import TrustedClock


def message(id: int, content: str = "x") -> StoredMessage:
    return StoredMessage(id, False, "alice", "bob", content, 0)


@pytest.fixture(params=["pure", "one by one"])
def dao(mariadb: PrivateMariaDB, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dao]:
    """On a connection on which statements wait, and on one like the driver's C extension, where
    they do not.
    """
    engine = pure_python(open_engine(ready_database(mariadb, "trips")))
    if request.param != "pure":
        init = MysqlPipeline.__init__

        def one_by_one(self: MysqlPipeline, *arguments: Any) -> None:
            init(self, *arguments)
            self.is_pure_python = False

        monkeypatch.setattr(MysqlPipeline, "__init__", one_by_one)
    connection = DatabaseConnection(engine, writes=True)
    with contextlib.closing(connection):
        migrate(connection)
        yield Dao(connection)
    engine.release()


@pytest.fixture
def waits(request: pytest.FixtureRequest) -> bool:
    return "pure" in request.node.name


@pytest.fixture
def trips(dao: Dao, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent to the server, each time that it is asked."""
    sent: list[str] = []
    driver = type(dao.connection._raw.driver)
    send = driver._send_cmd

    def note(self: Any, command: int, argument: bytes | None = None, *others: Any, **more: Any) -> Any:
        sent.append((argument or b"").decode(errors="replace"))
        return send(self, command, argument, *others, **more)

    monkeypatch.setattr(driver, "_send_cmd", note)
    return sent


def store(dao: Dao, *messages: StoredMessage) -> None:
    with dao.connection.transaction():
        dao.move_mark(len(messages))
        dao.add_messages(messages, [("bob", each.id) for each in messages])
    dao.mark = dao.new_mark


def test_a_transaction_is_two_round_trips(dao: Dao, waits: bool, trips: list[str]) -> None:
    """The begin and the mark; the message, its place in the inbox, and the commit."""
    store(dao, message(1))
    del trips[:]
    store(dao, message(2))
    assert len(trips) == (2 if waits else 5), trips
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1, 2]


def test_a_question_is_one_round_trip(dao: Dao, trips: list[str]) -> None:
    """The driver does not ask first whether the server is still there."""
    dao.has_user("alice")
    del trips[:]
    dao.has_user("bob")
    assert len(trips) == 1, trips


def test_a_transaction_that_does_nothing(dao: Dao, waits: bool, trips: list[str]) -> None:
    with dao.connection.transaction():
        pass
    assert len(trips) == (0 if waits else 2)


def test_an_idle_connection_that_was_closed(dao: Dao, mariadb: PrivateMariaDB) -> None:
    """The first statement of a transaction finds that out, and nobody else does."""
    store(dao, message(1))
    mariadb.sql(f"KILL {dao.connection._raw.connection_id}")
    store(dao, message(2))
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1, 2]


def test_an_idle_connection_that_the_server_says_goodbye_to(
    dao: Dao, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL sends an error before it closes one for `wait_timeout`, and the begin finds it."""
    store(dao, message(1))
    driver = dao.connection._raw.driver
    goodbye = DatabaseError(errno=4031, msg="The client was disconnected", sqlstate="HY000")

    def say(*_: Any) -> Any:
        raise goodbye

    monkeypatch.setattr(driver, "cmd_query_iter" if waits else "cmd_query", say)
    store(dao, message(2))
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1, 2]


def test_rows_that_are_refused(dao: Dao, mariadb: PrivateMariaDB, request: pytest.FixtureRequest) -> None:
    """All of them are named, nothing is committed, and the connection stays open."""
    request.addfinalizer(lambda: mariadb.sql("DROP DATABASE trips"))
    mariadb.sql("ALTER TABLE trips.messages MODIFY content VARCHAR(10) NOT NULL")
    number = dao.connection._raw.connection_id
    messages = [message(id, "x" * (20 if id in (2, 5) else 5)) for id in range(1, 8)]
    with pytest.raises(RowsRefused) as caught:
        store(dao, *messages)
    assert not isinstance(caught.value, CommitInDoubt)
    assert [row[0] for row in caught.value.rows] == [2, 5]
    assert dao.waiting("bob", 0, 9) == []
    store(dao, *[each for each in messages if each.id not in (2, 5)])
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1, 3, 4, 6, 7]
    assert dao.connection._raw.connection_id == number


def test_a_statement_before_the_commit_that_fails(dao: Dao) -> None:
    """Then the commit has not happened, and is not in doubt."""
    store(dao, message(1))
    for _ in range(2):  # the connection works afterwards
        with pytest.raises(StoreError, match="Duplicate entry") as caught:
            store(dao, message(2), message(1))
        assert not isinstance(caught.value, CommitInDoubt)
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1]
    store(dao, message(3))
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1, 3]


def test_a_connection_that_is_lost_at_the_commit(dao: Dao, mariadb: PrivateMariaDB) -> None:
    """Nobody knows what has happened."""
    store(dao, message(1))
    add = dao.add_messages

    def lose_the_connection(*arguments: Any) -> None:
        add(*arguments)
        mariadb.sql(f"KILL {dao.connection._raw.connection_id}")

    dao.add_messages = lose_the_connection  # type: ignore[method-assign, assignment]
    with pytest.raises(CommitInDoubt):
        store(dao, message(2))
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [1]


def test_a_database_that_hangs_at_the_commit(
    dao: Dao, mariadb: PrivateMariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows and the commit have been sent, and may happen yet."""
    monkeypatch.setitem(dao.connection._engine._arguments, "read_timeout", 1)  # type: ignore[attr-defined]
    dao.connection.close()
    store(dao, message(1))
    add = dao.add_messages

    def hang(*arguments: Any) -> None:
        add(*arguments)
        mariadb.pause()

    dao.add_messages = hang  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(CommitInDoubt):
            store(dao, message(2))
    finally:
        mariadb.resume()


def test_a_question_within_a_transaction(dao: Dao) -> None:
    """It sees what waited before it, and a statement with a text does, too."""
    with dao.connection.transaction():
        dao.move_mark(1)
        dao.add_messages([message(1, "é; DROP TABLE users; -- 'x")], [("bob", 1)])
        assert [each.content for each in dao.waiting("bob", 0, 9)] == ["é; DROP TABLE users; -- 'x"]
        dao.add_messages([message(2)], [("bob", 2)])
        dao.remove_delivered([("bob", 1)], keep=False)
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [2]


def test_deferred_work(dao: Dao, waits: bool, trips: list[str]) -> None:
    """What is indexed, and the rows of an inbox that are removed, travel with the commit."""
    store(dao, message(1), message(2))
    trips.clear()
    with dao.connection.transaction():
        dao.move_mark(0)
        assert dao.index_messages(0, 10, with_history=True) == (2, 2)
        dao.remove_delivered([("bob", 1)], keep=True)
    dao.mark = dao.new_mark
    assert len(trips) == (3 if waits else 8), trips
    assert dao.indexed_id() == 2
    assert [each.id for each in dao.waiting("bob", 0, 9)] == [2]


def test_a_transaction_of_a_node(dao: Dao, trips: list[str], waits: bool) -> None:
    """Two round trips, as on a single server: the sequence lock travels with the begin, and what
    others must know with the commit.
    """
    database_time = DatabaseTime(time.time, time.monotonic)
    node = NodeDao(dao.connection, TrustedClock(wall=database_time.now), database_time)
    with dao.connection.transaction():
        node.register(Identity("here", "0", 5000, "none", "", "host", 1))
    node.enter()
    for _ in range(2):
        with dao.connection.transaction():
            trips.clear()
            node.move_mark(1)
            node.announce("in", "alice")
            id = node.allocate_id()
            node.add_messages([message(id)], [("bob", id)])
            node.finish({2: id})
        node.mark = node.new_mark
        node.event += 1
        if waits:
            assert len(trips) == 2, trips
    assert dao.waiting("bob", 0, 10)


def test_a_login(dao: Dao, waits: bool, trips: list[str]) -> None:
    """Each question is a round trip; what changes something travels with the next one."""
    store(dao, message(1))
    trips.clear()
    with dao.connection.transaction():
        dao.move_mark(0)
        dao.add_token("hash", "alice", 9, 1, keep=1)
        dao.note_modern_login("alice")
        dao.remember_address("alice", "127.0.0.1", 1, keep=1)
        assert not dao.friends("alice", "", 10)
    assert len(trips) == (5 if waits else 10), trips
    assert dao.token_owner("hash", 1) == ("alice", "")


def test_more_changes_than_fit_into_a_packet(dao: Dao, waits: bool, trips: list[str]) -> None:
    """They are sent before; nothing is lost, in their order."""
    dao.connection._engine._max_packet = 4096  # type: ignore[attr-defined]
    names = [f"user{number}" for number in range(100)]
    with dao.connection.transaction():
        for name in names:
            dao.add_user(name, "-")
        dao.update_user(names[0], {"password": "new"})
    assert max(map(len, trips)) < 4096
    assert len(trips) == pytest.approx(7, abs=3) if waits else len(trips) == 103
    assert dao.usernames("", 200) == sorted(names)
    assert dao.password_hash(names[0]) == "new"
