"""One member of a large group does not stop the server: transactions are small, users take turns,
and a stop ends in time.
"""

import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest
from harness import NullTransport, StartServer
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    GROUP_MESSAGE,
    PATIENCE,
    SUCCESS,
    Wire,
    logged_in,
    register,
)

from jelly import delivery, fair_queue
from jelly.dao import Dao, StoredMessage
from jelly.delivery import Delivery
from jelly.fair_queue import Job
from jelly.queue_dispatch import Dispatcher
from jelly.sessions import Notice, Session, Sessions

MEMBERS = [f"member{number}" for number in range(10)]
COUNT = 40
"""How many messages are sent at once."""


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction has as many rows as the group has members."""
    monkeypatch.setattr(fair_queue, "BATCH_ROWS", len(MEMBERS))


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows of inboxes each transaction with messages has."""
    rows: list[int] = []
    add_messages = Dao.add_messages

    def note(dao: Dao, messages: Sequence[StoredMessage], inbox: Sequence[tuple[str, int]]) -> None:
        rows.append(len(inbox))
        add_messages(dao, messages, inbox)

    monkeypatch.setattr(Dao, "add_messages", note)
    return rows


def found(port: int) -> None:
    """Have the first member make the group."""
    register(port, *MEMBERS, "alice", "bob")
    with logged_in(port, MEMBERS[0]) as founder:
        founder.ok(CREATE_GROUP, groupName="all")
        for member in MEMBERS[1:]:
            founder.ok(ADD_MEMBER, groupName="all", member=member)


def flood(wire: Wire) -> None:
    for number in range(COUNT):
        wire.send_message("all", str(number), GROUP_MESSAGE)


@pytest.mark.usefixtures("small_batches")
def test_a_flood_is_written_piece_by_piece(start_server: StartServer, transactions: list[int]) -> None:
    """A transaction has no more rows than it may; answers and messages keep their order."""
    server = start_server(classic_gap=0)
    found(server.port)
    with (
        logged_in(server.port, MEMBERS[0], features=["ack"]) as flooder,
        logged_in(server.port, MEMBERS[1], features=["ack"]) as reader,
    ):
        flood(flooder)
        assert [flooder.receive_response().status for _ in range(COUNT)] == [SUCCESS] * COUNT
        assert reader.contents(COUNT) == [str(number) for number in range(COUNT)]
    assert sum(transactions) == COUNT * (len(MEMBERS) - 1)
    assert max(transactions) <= len(MEMBERS)


@pytest.mark.usefixtures("small_batches")
def test_another_pair_is_served_meanwhile(
    start_server: StartServer, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that comes during a flood is in one of the next two transactions."""
    server = start_server(classic_gap=0)
    found(server.port)
    with logged_in(server.port, MEMBERS[0], features=[]) as flooder, logged_in(server.port, "alice") as alice:
        waits, goes_on = threading.Event(), threading.Event()
        add_messages = Dao.add_messages

        def wait(dao: Dao, messages: Sequence[StoredMessage], inbox: Sequence[tuple[str, int]]) -> None:
            waits.set()
            assert goes_on.wait(PATIENCE)
            add_messages(dao, messages, inbox)

        monkeypatch.setattr(Dao, "add_messages", wait)
        flood(flooder)
        assert waits.wait(PATIENCE)
        submitted = threading.Event()
        submit = server.store.submit

        def note(jobs: Sequence[Job]) -> None:
            submit(jobs)
            submitted.set()

        monkeypatch.setattr(server.store, "submit", note)
        monkeypatch.setattr(server.store, "write_now", lambda *_: False)
        alice.send_message("bob", "hello")
        assert submitted.wait(PATIENCE)
        goes_on.set()
        assert alice.receive().status == SUCCESS
        assert 1 in transactions[:3]
        assert [flooder.receive_response().status for _ in range(COUNT)] == [SUCCESS] * COUNT


@pytest.mark.usefixtures("small_batches")
def test_a_stop_without_time_for_a_flood(
    start_server: StartServer, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is up, what is not in a transaction is dropped without an answer."""
    server = start_server(classic_gap=0)
    found(server.port)
    monkeypatch.setattr(server.store, "hurry", lambda: None)
    monkeypatch.setattr(server.store, "write_now", lambda *_: False)  # else a worker may be in the turn
    waits, is_late = threading.Event(), threading.Event()
    add_messages = Dao.add_messages

    def wait(dao: Dao, messages: Sequence[StoredMessage], inbox: Sequence[tuple[str, int]]) -> None:
        waits.set()
        assert is_late.wait(PATIENCE)
        add_messages(dao, messages, inbox)

    def drop(*_: object) -> None:
        drop_waiting()
        is_late.set()

    drop_waiting = server.store.drop_waiting
    monkeypatch.setattr(Dao, "add_messages", wait)
    monkeypatch.setattr(Dispatcher, "wait_until_idle", lambda *_: False)
    monkeypatch.setattr(server.store, "drop_waiting", drop)
    with logged_in(server.port, MEMBERS[0], features=[]) as flooder:
        flood(flooder)
        assert waits.wait(PATIENCE)
        server.stop()
        assert is_late.is_set()
        assert len(transactions) == 1
    assert not server.store._jobs


class Inbox:
    """Stands in for a Dao: everybody has these many messages waiting."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.asked: list[str] = []

    def waiting(self, receiver: str, after: int, limit: int, upto: int, device: None) -> list[StoredMessage]:
        self.asked.append(receiver)
        ids = range(after + 1, min(self._count, after + limit, upto) + 1)
        return [StoredMessage(id, True, "alice", "all", "x", 1) for id in ids]


class Counting(NullTransport):
    """A transport that counts the messages."""

    count = 0

    def send(self, responses: object = (), notices: object = ()) -> None:
        self.count += len(cast(list[Notice], notices))


def test_pages_for_many_take_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """All members fall behind at once, say: between their pages others are served."""
    monkeypatch.setattr(delivery, "FEED_MESSAGES", 300)
    sessions = Sessions()
    fed = Delivery(sessions)
    transports = [Counting() for _ in MEMBERS]
    for user, transport in zip(MEMBERS, transports, strict=True):
        session = Session(cast(Any, transport), "")
        session.user = user
        sessions.attach(session)
        fed.begin(session)
    dao = Inbox(250)
    turns = 0
    while fed.has_work:
        before = sum(transport.count for transport in transports)
        fed.feed(cast(Any, dao), lambda *_: None)
        turns += 1
        assert sum(transport.count for transport in transports) - before <= 300 + delivery.PAGE
    assert [transport.count for transport in transports] == [250] * len(MEMBERS)
    assert turns >= 250 * len(MEMBERS) // 400
    assert dao.asked[: len(MEMBERS)] == MEMBERS, "nobody gets a second page before the others have one"
