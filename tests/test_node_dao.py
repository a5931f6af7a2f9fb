"""The SQL of a node: the sequence lock, and what it costs."""

import contextlib
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from harness import pure_python, ready_database
from wire import wait_until

from faults.mariadb import PrivateMariaDB
from jelly.cluster.node_dao import TURNS_ALONE, Identity, NodeDao
from jelly.cluster.wiring import open_dao
from jelly.dao import DatabaseWentBack, LeaseLost, StoredMessage
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.migrations import migrate
from jelly.mysql_pipeline import MysqlPipeline
from jelly.sessions import Device

Open = Callable[[], NodeDao]
DEADLOCKS = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"


@pytest.fixture
def open_node(mariadb: PrivateMariaDB) -> Iterator[Open]:
    """Registers a node over a database that all of them share."""
    url = ready_database(mariadb, "jelly_node_dao")
    with contextlib.ExitStack() as stack:

        def open_node() -> NodeDao:
            engine = pure_python(open_engine(url))
            engine.is_shared = True
            connection = stack.enter_context(contextlib.closing(DatabaseConnection(engine, writes=True)))
            migrate(connection)
            dao, _ = open_dao(connection, is_trusted=True)
            with connection.claimed(10.0), connection.transaction():
                dao.register(Identity("127.0.0.1:1", "test", 60_000, "none", "", "host", 1))
            dao.enter()
            return dao

        yield open_node


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What all nodes send, a text for each round trip."""
    texts: list[str] = []
    results = MysqlPipeline._results

    def note(self: MysqlPipeline, statements: list[str]) -> Iterator[dict[str, object]]:
        texts.append("; ".join(statements))
        return results(self, statements)

    monkeypatch.setattr(MysqlPipeline, "_results", note)
    return texts


def turn(dao: NodeDao, receiver_at: int = 0, login: str = "") -> int:
    """Store a message as the store does, for a user at a node; return its id."""
    with dao.connection.transaction():
        dao.move_mark(1)
        id = dao.allocate_id()
        dao.add_messages([StoredMessage(id, False, "alice", "bob", "hello", 0)], [("bob", id)])
        if login:
            dao.announce("in", login)
        dao.finish({receiver_at: id} if receiver_at else {})
    dao.mark = dao.new_mark
    dao.event = dao.head.event + len(dao.own_events())
    dao.horizon = id
    dao.committed(dao.head, dao.new_mark)
    return id


def alone(dao: NodeDao) -> None:
    """Take so many turns that the next one is expected to be alone, too."""
    for _ in range(TURNS_ALONE + 1):
        turn(dao)


def test_a_turn_is_two_round_trips(open_node: Open, sent: list[str]) -> None:
    """Begin and lock; everything else and the commit. Alone, a node need not look what others have
    changed.
    """
    dao = open_node()
    for name, count in (("FOR UPDATE", 1), ("UPDATE meta", TURNS_ALONE + 1)):
        for _ in range(count):
            sent.clear()
            turn(dao, receiver_at=7, login="alice")
        assert len(sent) == 2
        assert name in sent[0]
        assert sent[1].endswith("COMMIT")
        assert sent[1].count("UPDATE meta SET value = CASE") == 1
    assert "SELECT" not in "".join(sent)


def test_a_node_that_expects_to_be_alone_and_is_not(open_node: Open) -> None:
    """It finds the other's messages and events, and its own mark as it was."""
    first, second = open_node(), open_node()
    turn(first)
    alone(first)
    other = turn(second, receiver_at=first.number, login="carol")
    assert turn(first) > other
    assert first.head.last_for == other
    assert first.head.event == second.head.event + 1
    assert first.head.mark <= other < first.mark  # (a mark is the next id: within a millisecond, the other's)
    assert turn(second) > first.horizon


@pytest.mark.parametrize("content", ["", " two  spaces ", "é 😀\n\0 'x'; --", "x" * 200_000])
def test_what_was_stored_elsewhere(open_node: Open, content: str) -> None:
    """It comes as it was sent, in the order of ids, and only for the users of the node."""
    first, second = open_node(), open_node()
    with second.connection.transaction():
        second.move_mark(0)
        second.enter_session(Device("bob", ""), "")
        second.enter_session(Device("dora", ""), "")
        second.finish({})
    with first.connection.transaction():
        first.move_mark(3)
        ids = [first.allocate_id() for _ in range(3)]
        sent = [
            StoredMessage(ids[0], False, "alice", "bob", content, 1_700_000_000_000),
            StoredMessage(ids[1], True, "alice", "team", content, -1),
            StoredMessage(ids[2], False, "alice", "carol", content, 0),
        ]
        inbox = [("bob", ids[0]), ("bob", ids[1]), ("carol", ids[1]), ("dora", ids[1]), ("carol", ids[2])]
        first.add_messages(sent, inbox)
        first.finish({second.number: ids[1]})
    found = second.tail(ids[0] - 1, ids[2], 10)
    assert found is not None
    assert [(message, sorted(users)) for message, users in found] == [(sent[0], ["bob"]), (sent[1], ["bob", "dora"])]
    assert second.tail(ids[0], ids[2], 3) == found[1:]
    assert second.tail(ids[0], ids[2], 2) is None


@pytest.mark.allocations
def test_a_long_message_to_many(open_node: Open) -> None:
    """Its text is read once, and not once for each receiver; and many of them not at once."""
    first, second = open_node(), open_node()
    users = [f"user{number}" for number in range(100)]
    with second.connection.transaction():
        second.move_mark(0)
        for user in users:
            second.enter_session(Device(user, ""), "")
        second.finish({})
    content = "x" * 50_000 + "😀"
    with first.connection.transaction():
        first.move_mark(200)
        sent = [StoredMessage(first.allocate_id(), True, "alice", "team", content, 0) for _ in range(180)]
        first.add_messages(sent, [(user, sent[0].id) for user in users] + [("user0", each.id) for each in sent[1:]])
        first.finish({second.number: sent[-1].id})
    second.tail(sent[0].id - 1, sent[0].id, 1000)  # what is needed only once
    tracemalloc.start()
    found = second.tail(sent[0].id - 1, sent[0].id, 1000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert [(message, sorted(receivers)) for message, receivers in found] == [(sent[0], sorted(users))]
    assert most < 20 * len(content)  # each character takes four bytes
    assert second.tail(sent[0].id - 1, sent[-1].id, 1000) is None


def test_how_that_is_found(open_node: Open, sent: list[str]) -> None:
    """Row by row in the order of ids, also while few users are online: nothing is sorted."""
    dao = open_node()
    turn(dao)
    with dao.connection.transaction():
        dao.move_mark(0)
        dao.enter_session(Device("bob", ""), "")
        dao.finish({})
    sent.clear()
    assert len(dao.tail(0, dao.horizon, 10) or ()) == 1
    plan = repr(dao.connection.query(f"EXPLAIN {sent[0]}"))
    assert "inbox_of_message" in plan
    assert "filesort" not in plan
    assert "join buffer" not in plan


def test_the_marks_are_written(open_node: Open) -> None:
    """A commit in doubt is found by the mark of the node, also after a turn alone, and also if
    another node has written since.
    """
    first, second = open_node(), open_node()
    alone(first)
    mark = first.mark
    turn(second)
    with first.connection.transaction():
        assert first.read_mark() == mark


def test_a_turn_that_fails_is_not_expected(open_node: Open) -> None:
    dao = open_node()
    alone(dao)
    before = dao.mark
    with contextlib.suppress(ZeroDivisionError), dao.connection.transaction():
        dao.move_mark(1)
        raise ZeroDivisionError
    assert turn(dao) >= before
    assert dao.head.mark == before


def test_a_node_that_was_declared_dead_writes_nothing(open_node: Open) -> None:
    """However sure it is to be alone."""
    first, second = open_node(), open_node()
    turn(second)
    alone(first)
    with second.connection.transaction():
        second.move_mark(0)
        second.remove_node(first.number)
        second.finish({})
    with pytest.raises(LeaseLost), first.connection.transaction():
        first.move_mark(1)


def test_a_database_that_has_gone_back(open_node: Open) -> None:
    """However sure the node is to be alone."""
    dao = open_node()
    alone(dao)
    with dao.connection.transaction():
        dao.connection.execute(f"UPDATE meta SET value = value - 1 WHERE name IN ('next_id', 'mark.{dao.number}')")
    with pytest.raises(DatabaseWentBack), dao.connection.transaction():
        dao.move_mark(1)


def test_a_database_that_has_lost_what_a_hint_has_told(open_node: Open) -> None:
    """It is as the node itself has left it, and yet it has gone back."""
    dao = open_node()
    alone(dao)
    dao.horizon += 10
    with pytest.raises(DatabaseWentBack), dao.connection.transaction():
        dao.move_mark(1)


def test_nodes_do_not_wait_for_each_other(open_node: Open, mariadb: PrivateMariaDB) -> None:
    """Also a node that expects to be alone begins with the row with which others begin who look: no
    other one has locked what it writes at the end.
    """
    first, second = open_node(), open_node()
    turn(second)
    alone(first)
    deadlocks = mariadb.sql(DEADLOCKS)
    other = threading.Thread(target=turn, args=(second,))
    with first.connection.transaction():
        first.move_mark(1)
        other.start()
        wait_until(
            lambda: mariadb.sql("SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'") != []
        )
        first.announce("in", "alice")
        first.finish({second.number: first.allocate_id()})
    other.join()
    assert mariadb.sql(DEADLOCKS) == deadlocks
    assert second.head.last_for == first.new_mark - 1
    assert second.head.event == first.head.event + 1
