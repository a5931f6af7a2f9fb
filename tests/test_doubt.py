"""Commits in doubt: the connection to the database broke in the middle of them."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import InDoubtCommit, StartServer, kept_for, ready_database
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    GROUP_MESSAGE,
    OWN_PROFILE,
    PERSON_MESSAGE,
    SERVER_ERROR,
    SUCCESS,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from faults.proxy import CommitProxy
from jelly import store
from jelly.codec import Type
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.delivery import Delivery
from jelly.doubt import Doubt
from jelly.errors import StoreError
from jelly.fair_queue import Job
from jelly.indexing import DeferredIndexing
from jelly.migrations import migrate
from jelly.outcomes import NewMessage
from jelly.quotas import QuotaLimits, Quotas
from jelly.retention import Retention
from jelly.sessions import Session, Sessions
from jelly.sqlite_engine import SqliteEngine
from jelly.store import Store


@contextlib.contextmanager
def no_looks() -> Iterator[None]:
    """Within the block the database does not tell what has become of a commit in doubt."""

    def look(_self: Doubt, _dao: Dao) -> None:
        raise StoreError("away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Doubt, "look", look)
        yield


def test_a_commit_that_has_happened(commits: type[InDoubtCommit], start_server: StartServer) -> None:
    """Its messages are answered with SUCCESS and delivered, in their order."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
        alice.message("bob", "before")
        commits.breaks = True
        alice.message("bob", "in doubt")
        alice.message("bob", "after")
        assert bob.contents(3) == ["before", "in doubt", "after"]


def test_an_error_of_the_disk(commits: type[InDoubtCommit], start_server: StartServer) -> None:
    """It is never answered with SUCCESS. But what is there is delivered, and a repeat finds it."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    commits.code = sqlite3.SQLITE_IOERR_FSYNC
    message = {"receiver": "bob", "content": "in doubt", "time": 1, "requestId": "r1"}
    with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
        commits.breaks = True
        assert alice.call(PERSON_MESSAGE, **message).status == SERVER_ERROR
        assert bob.contents(1) == ["in doubt"]
        assert alice.call(PERSON_MESSAGE, **message).status == SUCCESS
        alice.message("bob", "after")
        assert bob.contents(1) == ["after"]


def test_a_commit_that_has_not_happened(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """Its messages are answered with SERVER_ERROR, and never arrive."""
    with CommitProxy(mariadb.port) as proxy:
        port = start_server(database=behind(proxy, mariadb), classic_gap=0).port
        register(port, "alice", "bob")
        with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
            proxy.cut_at_commit(happens=False)
            assert alice.call(PERSON_MESSAGE, receiver="bob", content="lost", time=1).status == SERVER_ERROR
            assert proxy.cuts == 1
            alice.message("bob", "after")
            assert bob.contents(1) == ["after"]


def test_an_answer_that_is_lost(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """The commit has reached MariaDB: the server finds it there, and answers with SUCCESS."""
    with CommitProxy(mariadb.port) as proxy:
        port = start_server(database=behind(proxy, mariadb), classic_gap=0).port
        register(port, "alice", "bob")
        with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
            proxy.cut_at_commit(happens=True)
            alice.message("bob", "in doubt")
            assert proxy.cuts == 1
            alice.message("bob", "after")
            assert bob.contents(2) == ["in doubt", "after"]


def test_a_database_that_restarts_meanwhile(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """It may have ended because a sync failed, so the commit is not answered with SUCCESS."""
    with CommitProxy(mariadb.port) as proxy:
        server = start_server(database=behind(proxy, mariadb), classic_gap=0)
        register(server.port, "alice", "bob")
        with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
            vars(server.engine)["_started_at"] = 0.0  # as if the one that is there now had started later
            proxy.cut_at_commit(happens=True)
            assert alice.call(PERSON_MESSAGE, receiver="bob", content="x", time=1).status == SERVER_ERROR
            assert bob.contents(1) == ["x"]


def behind(proxy: CommitProxy, mariadb: PrivateMariaDB) -> str:
    """The URL of a new database that is reached through a proxy."""
    return ready_database(mariadb, "doubt").replace(f":{mariadb.port}/", f":{proxy.port}/")


def test_what_stays_unknown(
    commits: type[InDoubtCommit], start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is answered with SERVER_ERROR when its time is over; others are not held up. What is found
    later is delivered.
    """
    monkeypatch.setattr(store, "DOUBT_SECONDS", 0.5)
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob", "carol")
    with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob, logged_in(port, "carol") as carol:
        with no_looks():
            commits.breaks = True
            started = time.monotonic()
            alice.send_message("bob", "in doubt")
            wait_until(lambda: not commits.breaks)
            assert carol.call(PERSON_MESSAGE, receiver="bob", content="others", time=1).status == SERVER_ERROR
            assert carol.call(OWN_PROFILE).status == SUCCESS  # reading goes on
            assert alice.receive().status == SERVER_ERROR
            assert time.monotonic() - started > 0.4
        wait_until(lambda: carol.call(PERSON_MESSAGE, receiver="bob", content="after", time=1).status == SUCCESS)
        assert bob.contents(2) == ["in doubt", "after"]
        alice.message("bob", "end")
        assert bob.contents(1) == ["end"]
    assert kept_for("alice", tmp_path / "jelly.db") == []


def test_a_server_that_stops_in_doubt(commits: type[InDoubtCommit], start_server: StartServer) -> None:
    """It answers SERVER_ERROR, and stops in time. Its successor delivers what is there."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with no_looks(), logged_in(server.port, "alice") as alice:
        commits.breaks = True
        alice.send_message("bob", "in doubt")
        wait_until(lambda: bool(server.store._doubtful_jobs))
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 5
        assert alice.receive().status == SERVER_ERROR
    with logged_in(start_server(classic_gap=0).port, "bob") as bob:
        assert bob.contents(1) == ["in doubt"]


def test_a_message_to_a_group_that_changes_in_doubt(start_server: StartServer, tmp_path: Path) -> None:
    """A message waits while the commit of a removal is in doubt, after which the members of all
    groups are forgotten. It is stored for those who are members then.
    """
    server = start_server(classic_gap=0)
    dao = server.store._dao
    register(server.port, "alice", "bob", "cat")
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="g")
        for member in ("bob", "cat"):
            alice.ok(ADD_MEMBER, groupName="g", member=member)
        alice.message("g", "to both", GROUP_MESSAGE)
        with server.store._turn:
            alice.send_message("g", "to bob", GROUP_MESSAGE)
            wait_until(lambda: bool(server.store._jobs))
            with dao.connection.transaction():
                dao.remove_member("g", "cat")
            server.groups.forget_all()
            server.groups.set_members("g", ("alice", "bob"))
        assert alice.receive_response().status == SUCCESS
    assert kept_for("bob", tmp_path / "jelly.db") == ["to both", "to bob"]
    assert kept_for("cat", tmp_path / "jelly.db") == ["to both"]


def test_a_login_in_doubt(
    commits: type[InDoubtCommit], start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classic session is not left online without its token: it is closed, and its client learns
    that the token is gone.
    """
    monkeypatch.setattr(store, "DOUBT_SECONDS", 0.2)
    port = start_server(classic_gap=0).port
    register(port, "alice")
    with logged_in(port, "alice") as first:
        with no_looks(), Wire(port) as second:
            commits.breaks = True
            assert second.login("alice").status == SERVER_ERROR
            assert first.call(OWN_PROFILE).status == SUCCESS
        assert first.is_closed_by_server()
    with Wire(port) as again:
        assert again.reconnect("alice", first.token).error == "invalid_token"


def test_a_friend_that_is_found_late(
    commits: type[InDoubtCommit], start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was changed becomes known, although the client was told that it failed."""
    monkeypatch.setattr(store, "DOUBT_SECONDS", 0.2)
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice", features=["ack"]) as alice:
        with no_looks():
            commits.breaks = True
            assert alice.call(ADD_FRIEND, friend="bob").status == SERVER_ERROR
        wait_until(lambda: alice.call(ALL_FRIENDS).values.get("friends") == {"bob": False})
        with logged_in(port, "bob"):
            assert alice.receive_notice().values == {"event": "presence", "friend": "bob", "online": True}


class Notices:
    """A transport that notes which messages it was given."""

    tcp_acked_id = 0
    is_closed = False
    is_full = False
    is_memory_short = False
    has_room = True

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.answers: list[int] = []

    def has_left(self) -> bool:
        return self.is_closed

    def is_half_closed(self) -> bool:
        return False

    def when_not_full(self, function: object) -> None: ...
    def queue_notice(self, frame: bytes) -> None: ...
    def write_queued(self) -> None: ...
    def stop_pacing(self) -> None: ...
    def stop_confirming(self) -> None: ...
    def finish(self, closing_frame: object = b"") -> None: ...
    def close(self) -> None: ...

    def send(self, responses: Any = (), notices: Any = ()) -> None:
        self.ids += [id for id, _ in notices]
        self.answers += [frame[4] for frame, _ in responses]


class World:
    """A store on a SQLite file, whose turns the test takes, with a receiver who is behind."""

    def __init__(self, path: Path) -> None:
        self.engine = SqliteEngine(str(path))
        self.connection = DatabaseConnection(self.engine, writes=True)
        migrate(self.connection)
        sessions = Sessions()
        delivery = Delivery(sessions)
        self.bob, self.alice = Notices(), Notices()
        session = Session(self.bob, "127.0.0.1")
        session.user = "bob"
        sessions.attach(session)
        delivery.begin(session)
        self.sender = Session(self.alice, "127.0.0.1")
        self.sender.user = "alice"
        self.later: list[Callable[[], None]] = []
        self.now = 100.0
        self.went_back = 0
        self.store = Store(
            Dao(self.connection),
            delivery,
            DeferredIndexing(keeps_history=True),
            Retention(30),
            Quotas(QuotaLimits()),
            clock=lambda: self.now,
            call_later=lambda _seconds, function: self.later.append(function),
            on_database_went_back=self.note_going_back,
        )

    def note_going_back(self) -> None:
        self.went_back += 1

    def submit(self, content: str = "x") -> None:
        new = NewMessage(Type.PERSON_MESSAGE, "alice", "bob", content, 0, None)
        self.store.submit([Job(self.sender, [new], [self.now], 0, lambda: None)])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "jelly.db")
    yield made
    made.connection.close()
    made.engine.release()


def test_what_is_in_doubt_is_not_fed(commits: type[InDoubtCommit], world: World) -> None:
    """A message that can be read need not be on the disk, so no page brings it."""
    world.submit()
    commits.breaks = True
    world.store.take_turn()
    assert world.alice.answers == []
    with no_looks():
        world.store.take_turn()
    assert (world.bob.ids, world.alice.answers) == ([], [])
    world.now += store.LOOK_INTERVAL
    world.store.take_turn()
    assert world.alice.answers == [SUCCESS]
    world.now += store.RETRY_DELAY
    world.store.take_turn()
    assert len(world.bob.ids) == 1


def test_a_look_that_is_in_doubt_itself(commits: type[InDoubtCommit], world: World) -> None:
    """The next one knows the mark that it has left."""
    world.submit()
    commits.breaks = True
    world.store.take_turn()
    for _ in range(3):
        commits.breaks = True
        world.now += store.RETRY_DELAY
        world.store.take_turn()
        assert world.alice.answers == []
    world.now += store.RETRY_DELAY
    world.store.take_turn()
    assert world.alice.answers == [SUCCESS]


def test_only_one_thread_answers(commits: type[InDoubtCommit], world: World) -> None:
    """When the time is over while the store looks, each request still gets one answer."""
    world.submit()
    commits.breaks = True
    world.store.take_turn()
    [give_up] = world.later
    world.now += store.DOUBT_SECONDS
    give_up()
    give_up()
    assert world.alice.answers == [SERVER_ERROR]
    world.store.take_turn()
    assert world.alice.answers == [SERVER_ERROR]


def test_a_database_that_goes_back(world: World) -> None:
    """The next transaction notices it. Requests that were checked against the state that is gone
    are refused, and ids go on above all that were given.
    """
    world.submit()
    world.store.take_turn()
    highest = world.store._dao.peek_id()
    world.connection.execute("UPDATE meta SET value = 1 WHERE name = 'next_id'")
    world.connection.execute("DELETE FROM messages")
    world.submit("noticed")
    world.store.take_turn()
    assert (world.alice.answers, world.went_back) == ([SUCCESS, SERVER_ERROR], 0)
    world.submit("checked before")
    world.store.take_turn()
    assert (world.alice.answers[2:], world.went_back) == ([SERVER_ERROR], 1)
    world.submit("after")
    world.store.take_turn()
    assert (world.alice.answers[3:], world.went_back) == ([SUCCESS], 1)
    [(id, content)] = world.connection.query("SELECT id, content FROM messages")
    assert content == "after"
    assert id >= highest


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No look can be committed either. But it has seen that the transaction is not there, so its
    requests are answered at once.
    """

    class FullDisk(sqlite3.Connection):
        def commit(self) -> None:
            self.rollback()
            raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        connect = sqlite3.connect
        patch.setattr(sqlite3, "connect", lambda path, **options: connect(path, factory=FullDisk, **options))
        world.connection.close()
        world.submit()
        world.store.take_turn()
        world.store.take_turn()
        assert world.alice.answers == [SERVER_ERROR]
        world.submit()
        world.store.take_turn()
        assert world.alice.answers == [SERVER_ERROR, SERVER_ERROR]
        world.connection.close()
    world.now += store.RETRY_DELAY
    world.submit()
    world.store.take_turn()
    assert world.alice.answers == [SERVER_ERROR, SERVER_ERROR, SUCCESS]
