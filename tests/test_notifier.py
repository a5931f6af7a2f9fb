"""The notifier: many users are told, a few at a time, and in the order of the turns."""

import socket
from collections.abc import Iterator

import pytest
from clock import Clock
from harness import NullTransport

from jelly import notifier, send_queue
from jelly.notifier import PAUSE, SLICE, Notifier, RecentlyTold
from jelly.send_queue import Flusher, SendQueue
from jelly.sessions import Notice, Response, Session, Sessions
from jelly.timers import NEVER, TimerHeap


class CountingTransport(NullTransport):
    """A transport that notes when it was written."""

    written: list["CountingTransport"]

    def __init__(self) -> None:
        self.is_broken = False

    def write_queued(self) -> None:
        self.written.append(self)
        if self.is_broken:
            raise LookupError("a bug")

    def close(self) -> None:
        self.is_closed = True


class World:
    """A hundred modern users who are online."""

    def __init__(self) -> None:
        self.clock, self.timers, self.sessions = Clock(), TimerHeap(), Sessions()
        self.notifier = Notifier(self.sessions, self.timers.call_at, self.clock)
        self.written: list[CountingTransport] = []
        self.transports = [CountingTransport() for _ in range(100)]
        self.users = [f"user{number}" for number in range(100)]
        for user, transport in zip(self.users, self.transports, strict=True):
            transport.written = self.written
            session = Session(transport, "")
            session.user, session.is_modern = user, True
            self.sessions.attach(session)

    def call_due(self) -> None:
        for function in self.timers.pop_due(self.clock.now):
            function()


@pytest.fixture
def world() -> World:
    return World()


def test_a_few_at_a_time(world: World) -> None:
    """With pauses in between, and each once."""
    world.notifier.tell(world.users, b"frame")
    assert world.written == []
    world.call_due()
    assert len(world.written) == SLICE
    world.call_due()
    assert len(world.written) == SLICE
    while world.timers.next_due != NEVER:
        world.clock.now += PAUSE
        world.call_due()
    assert world.written == world.transports
    assert len(world.notifier) == 0
    world.notifier.tell(world.users[:1], b"frame")
    world.call_due()
    assert world.written[-1] is world.transports[0]


def test_a_client_that_cannot_be_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug closes its connection; the others are told."""
    errors: list[BaseException] = []
    monkeypatch.setattr(notifier, "log_failure", lambda _, error: errors.append(error))
    world.transports[1].is_broken = True
    world.notifier.tell(world.users[:3], b"frame")
    world.call_due()
    assert world.written == world.transports[:3]
    assert world.transports[1].is_closed
    assert len(errors) == 1


def test_what_was_told_lately() -> None:
    """Within a second; older things are forgotten."""
    clock = Clock()
    recent = RecentlyTold(clock)
    began = clock.now
    recent.note("a")
    clock.now += 0.5
    recent.note("b")
    assert (recent.wait_until("a"), recent.wait_until("b")) == (began + 1, began + 1.5)
    recent.note("a")
    clock.now += 0.9
    assert (recent.wait_until("a"), recent.wait_until("b"), recent.wait_until("c")) == (began + 1.5, began + 1.5, None)
    clock.now += 0.1
    assert (recent.wait_until("a"), len(recent)) == (None, 0)


# --- the send queue -------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[SendQueue, socket.socket]]:
    here, there = socket.socketpair()
    there.settimeout(5)
    flusher = Flusher()
    yield SendQueue(here, flusher, on_room=lambda: None), there
    flusher.stop()
    here.close()
    there.close()


def test_queued_notices_go_first(pair: tuple[SendQueue, socket.socket]) -> None:
    """Before what is sent next, whatever that is, and with `write_queued`."""
    queue, there = pair
    queue.queue_notice(b"1")
    queue.queue_notice(b"2")
    assert not queue.is_empty
    queue.send([Response(b"answer", 0.0)], [Notice(7, b"3")])
    assert there.recv(100) == b"123answer"
    queue.queue_notice(b"4")
    queue.write_queued()
    queue.write_queued()
    assert there.recv(100) == b"4"
    assert queue.is_empty
    queue.send([Response(b"at once", 0.0)])
    assert there.recv(100) == b"at once"


def test_queued_notices_at_the_end(pair: tuple[SendQueue, socket.socket]) -> None:
    """They are written before the closing frame; none is taken after it."""
    queue, there = pair
    queue.queue_notice(b"1")
    queue.finish(b"end")
    queue.queue_notice(b"2")
    assert queue.is_empty
    assert there.recv(100) + there.recv(100) == b"1end"
    queue.close()
    queue.queue_notice(b"3")
    assert queue.is_empty


def test_too_many_queued_notices(pair: tuple[SendQueue, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the limit are dropped."""
    monkeypatch.setattr(send_queue, "MAX_QUEUED", 3)
    queue, there = pair
    for number in range(10):
        queue.queue_notice(str(number).encode())
    queue.write_queued()
    assert there.recv(100) == b"012"
