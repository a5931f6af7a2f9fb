"""The store by itself: batches, and who takes its turn."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from harness import NullTransport
from wire import wait_until

from jelly import indexing
from jelly.codec import Type
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.delivery import Delivery
from jelly.errors import StoreError
from jelly.fair_queue import Entry, Job
from jelly.indexing import DeferredIndexing
from jelly.messages import SUCCESS
from jelly.migrations import migrate
from jelly.outcomes import Answer, NewMessage, Write
from jelly.quotas import QuotaLimits, Quotas
from jelly.retention import Retention
from jelly.sessions import Notice, Response, Session, Sessions
from jelly.sqlite_engine import SqliteEngine
from jelly.store import Store


class Recorder(NullTransport):
    """A transport that notes the frames of the responses, and which thread sent them."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.threads: list[str] = []

    def send(self, responses: Sequence[Response] = (), notices: Sequence[Notice] = ()) -> None:  # type: ignore[override]
        assert not notices
        self.frames += [response.frame for response in responses]
        self.threads.append(threading.current_thread().name)


class World:
    """A store on a new SQLite file, and one session that writes."""

    def __init__(self, path: Path) -> None:
        self.engine = SqliteEngine(str(path))
        connection = DatabaseConnection(self.engine, writes=True)
        migrate(connection)
        self.dao = Dao(connection)
        self.sessions = Sessions()
        quotas = Quotas(QuotaLimits())
        self.store = Store(
            self.dao, Delivery(self.sessions), DeferredIndexing(keeps_history=True), Retention(30), quotas
        )
        self.transport = Recorder()
        self.session = Session(self.transport, "127.0.0.1")
        self.session.user = "alice"
        self.done: list[str] = []

    def job(self, *entries: Entry) -> Job:
        """A job with these entries; a message to bob if there are none."""
        made = list(entries) or [NewMessage(Type.PERSON_MESSAGE, "alice", "bob", "hello", 1, None)]
        return Job(
            self.session,
            made,
            [0.0] * len(made),
            1,
            lambda: self.done.append("done"),
            is_write=isinstance(made[0], Write),
        )

    def stored(self) -> int:
        reader = DatabaseConnection(self.engine)
        [(count,)] = reader.query("SELECT COUNT(*) FROM messages")
        reader.close()
        return int(count)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "jelly.db")
    yield made
    made.store.stop()
    made.dao.connection.close()
    made.engine.release()


class Watched(AbstractContextManager[None]):
    """Notes what has happened when it is entered and left."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.stored: list[int] = []
        self.answers: list[int] = []

    def __enter__(self) -> None:
        self._note()

    def __exit__(self, *_: object) -> None:
        self._note()

    def _note(self) -> None:
        self.stored.append(self._world.stored())
        self.answers.append(len(self._world.transport.frames))


def test_a_step_writes_then_answers(world: World) -> None:
    """Answers keep their places, and a job is done after its last answer."""
    first, last = Answer(b"first"), Answer(b"last")
    message = NewMessage(Type.PERSON_MESSAGE, "alice", "bob", "hello", 1, None)
    world.store.submit([world.job(first, message, last)])
    world.store.take_turn()
    assert world.transport.frames == [b"first", SUCCESS[Type.PERSON_MESSAGE], b"last"]
    assert world.done == ["done"]
    assert world.stored() == 1


def test_an_idle_store_is_worked_by_the_caller(world: World) -> None:
    """`write_now` commits and answers on the calling thread; only the transaction counts as
    blocking.
    """
    watched = Watched(world)
    assert world.store.write_now(world.job(), watched)
    assert watched.stored == [0, 1]
    assert watched.answers == [0, 0]
    assert world.transport.threads == [threading.current_thread().name]
    assert world.done == ["done"]


def test_a_store_with_other_work_is_left_to_its_thread(world: World) -> None:
    """Jobs that came before go first, and a turn that is under way is not joined."""
    world.store.submit([world.job(Answer(b"before"), *world.job().entries)])
    assert not world.store.write_now(world.job(), nullcontext())
    world.store.take_turn()
    with world.store._turn:
        assert not world.store.write_now(world.job(), nullcontext())
    assert world.stored() == 1


def test_a_failure_in_a_turn_of_the_caller(world: World) -> None:
    """The job is answered with an error and done, and the next one is written."""

    def fail(_: Dao) -> None:
        raise StoreError("no disk")

    def answer(_: object) -> Answer:
        return Answer(b"never")

    assert world.store.write_now(world.job(Write(Type.ADD_FRIEND, fail, answer)), nullcontext())
    assert [frame[3:5] for frame in world.transport.frames] == [bytes([Type.ADD_FRIEND, 0x34])]
    assert world.store.write_now(world.job(), nullcontext())
    assert world.done == ["done", "done"]
    assert world.stored() == 1


def test_what_a_turn_of_the_caller_leaves_is_done_when_it_is_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store thread, which slept with nothing to do, wakes up to index the message."""
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.01)
    world.store.start()
    wait_until(lambda: bool(world.store._condition._waiters))  # type: ignore[attr-defined]
    assert world.store.write_now(world.job(), nullcontext())
    reader = DatabaseConnection(world.engine)
    wait_until(lambda: reader.query("SELECT MAX(id) FROM messages") == [(Dao(reader).indexed_id(),)])
    reader.close()
