"""No thread of the server ends by an exception, and nothing rests on the interpreter's lock."""

import contextlib
import itertools
import signal
import socket
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import NullTransport, StartServer
from wire import LOGIN, OWN_PROFILE, Wire, register, wait_until

from faults.process import Server
from jelly import cli, groups, passwords, queue_dispatch
from jelly.admission import Connections
from jelly.codec import Frame
from jelly.groups import GroupCache
from jelly.hashing import HashQueue
from jelly.queue_dispatch import LANE_LIMIT, Dispatcher, Lane, PendingRequest, RequestQueue
from jelly.send_queue import Flusher, SendQueue
from jelly.server import JellyServer
from jelly.sessions import Response, Session, Sessions
from jelly.store import Store
from jelly.timers import TimerHeap
from jelly.watchdog import Watchdog

BREAK = """
import signal, sys
from jelly import cli, send_queue, server, store, watchdog

def fail(*_):
    raise {error}

def break_it(*_):
    {thing} = {value}

signal.signal(signal.SIGUSR1, break_it)
sys.exit(cli.main(sys.argv[1:]))
"""
"""A server in which something begins to fail when SIGUSR1 comes."""

VITAL = {
    "acceptor": ("server.JellyServer.service_actions", "fail"),
    "store": ("store.Store._wait_for_work", "fail"),
    "flusher": ("send_queue.Flusher._wait", "fail"),
    "watchdog": ("watchdog.TICK", "'a quarter'"),
}
"""The threads that the server cannot do without, and how each is made to fail."""


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged of exceptions that nobody expected."""
    errors: list[str] = []
    for module in ("threads", "server", "watchdog", "queue_dispatch", "store", "groups"):
        monkeypatch.setattr(f"jelly.{module}.log_failure", lambda _, error: errors.append(str(error)))
    return errors


def broken(thing: str, value: str, error: str = "LookupError('a bug')") -> tuple[str, str]:
    return ("-c", BREAK.format(thing=thing, value=value, error=error))


@pytest.mark.parametrize("name", VITAL)
def test_a_thread_that_fails_for_good(name: str, tmp_path: Path) -> None:
    """The log tells it, and the server stops in order, with exit code 1, so that it is started
    again.
    """
    with Server(f"sqlite:///{tmp_path}/j.db", launch=broken(*VITAL[name])) as server:
        register(server.port, "alice")
        with Wire(server.port) as alice:
            alice.login("alice", features=[])
            server.process.send_signal(signal.SIGUSR1)
            if name in ("store", "flusher"):  # these two wait until there is something to do
                alice.send_message("alice", "hello")
            assert server.process.wait(12) == 1
        lines = server.log.decode().splitlines()
        assert sum(f"the thread jelly-{name} has ended" in line for line in lines) == 1
        assert lines[-1].endswith("stopped")
        assert "Traceback" not in server.log.decode()


def test_a_bug_while_the_server_stops(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The acceptor ends, although its loop fails after it was told to stop."""
    server = start_server()
    shutdown = server.shutdown

    def fail() -> None:
        looped.set()
        assert told.wait(10)
        raise LookupError("a bug")

    def tell() -> None:
        server._BaseServer__shutdown_request = True  # type: ignore[attr-defined]
        told.set()
        shutdown()

    told, looped = threading.Event(), threading.Event()
    monkeypatch.setattr(server, "service_actions", fail)
    monkeypatch.setattr(server, "shutdown", tell)
    assert looped.wait(10)
    server.stop()
    assert not server._acceptor.is_alive()
    assert logged == ["a bug"]


def test_a_thread_that_is_ended(tmp_path: Path) -> None:
    """SystemExit, which ends a thread without a word, is told, too."""
    launch = broken("watchdog.Watchdog.check", "fail", error="SystemExit('go')")
    with Server(f"sqlite:///{tmp_path}/j.db", launch=launch) as server:
        server.process.send_signal(signal.SIGUSR1)
        assert server.process.wait(12) == 1
        assert "SystemExit: go" in server.log.decode()
        assert "the thread jelly-watchdog has ended" in server.log.decode()


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> threading.Event:
    """Have the next call of a function raise an exception; the event says that it did."""
    original, failed = getattr(owner, name), threading.Event()

    def fail_once(*arguments: Any, **named: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise LookupError("a bug")
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, fail_once)
    return failed


def converse(server: JellyServer) -> None:
    """Alice, on a classic connection, does something that needs every thread."""
    with Wire(server.port) as alice:
        alice.login("alice")
        alice.ok(OWN_PROFILE)
        alice.message("alice", "hello")
        assert "hello" in alice.contents(1)
        alice.ok(OWN_PROFILE)


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(JellyServer, "service_actions", id="acceptor"),
        pytest.param(Connections, "admit", id="acceptor, in verify_request"),
        pytest.param(Store, "_wait_for_work", id="store"),
        pytest.param(Flusher, "_wait", id="flusher"),
        pytest.param(TimerHeap, "pop_due", id="watchdog, flusher or hasher"),
        pytest.param(HashQueue, "get", id="hasher"),
        pytest.param(Dispatcher, "_serve", id="worker"),
        pytest.param(queue_dispatch, "yield_cpu", id="worker that was woken"),
        pytest.param(Sessions, "detach", id="reader, at its end"),
    ],
)
def test_one_bug(owner: Any, name: str, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs at most one connection; everything works after it, and nothing is left."""
    server = start_server(workers=1)
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    failed = fails_once(monkeypatch, owner, name)
    with contextlib.suppress(OSError, EOFError):
        converse(server)
    wait_until(failed.is_set)
    converse(server)
    wait_until(lambda: not server.connections)


def test_walking_over_connections_that_come_and_go(start_server: StartServer) -> None:
    """A connection that is added meanwhile disturbs nobody; a set would raise RuntimeError."""
    server = start_server()
    with Wire(server.port) as one, Wire(server.port) as two:
        one.wait_until_served()
        two.wait_until_served()
        walk = iter(server.connections)
        first = next(walk)
        with Wire(server.port) as three:
            three.wait_until_served()
            assert len({first, *walk}) == 2


def test_connections_that_come_and_go_all_the_time(start_server: StartServer) -> None:
    """While eight threads open and close connections, the limit of one address is looked at for
    each.
    """
    server = start_server(max_per_address=1000, max_connections=2000)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda _: Wire(server.port).close(), range(400)):
                server.watchdog.check(0.0)
    finally:
        sys.setswitchinterval(usual)
    with Wire(server.port) as wire:
        wire.wait_until_served()


class Vanishing:
    """A connection whose deadlines are gone at the second look, as when its frame is just
    completed.
    """

    address = "somewhere"
    opened_at = last_read_at = 0.0
    has_received_data = is_paused = True
    awaits_login = False
    header_since = None
    finished_at = finishing_since = closing_frame_at = None

    def __init__(self) -> None:
        self.session = Session(NullTransport(), "")
        self.send_queue = self
        self._looks: Counter[str] = Counter()
        self.is_closed = False

    def _once(self, name: str) -> float | None:
        self._looks[name] += 1
        return 0.0 if self._looks[name] == 1 else None

    @property
    def incomplete_since(self) -> float | None:
        return self._once("incomplete")

    @property
    def stalled_since(self) -> float | None:
        return self._once("stalled")

    holds_responses = is_memory_short = True

    @property
    def unsent_since(self) -> float | None:
        return self._once("unsent")

    def close(self) -> None:
        self.is_closed = True


def test_a_deadline_that_vanishes_between_two_looks(logged: list[str]) -> None:
    """The watchdog looks once, so it does not add seconds to None."""
    connections: list[Any] = [Vanishing(), Vanishing()]
    Watchdog(connections, 1000).check(1.0)
    assert logged == []
    assert not any(connection.is_closed for connection in connections)


def test_a_connection_that_cannot_be_looked_at(logged: list[str]) -> None:
    """The deadlines of the others hold all the same."""
    connections: list[Any] = [None, Vanishing()]
    Watchdog(connections, 1000).check(100.0)
    assert len(logged) == 1
    assert connections[1].is_closed


def test_whether_a_send_queue_is_empty_while_it_encrypts() -> None:
    """What was taken out to be encrypted is still to be written, although it is in no list just
    then.
    """
    answers: list[bool] = []
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    flusher = Flusher()

    def encrypt(data: bytes) -> bytes:
        thread.start()
        thread.join(0.5)  # as long as it may take who does not wait for the lock
        return data

    transport = SendQueue(here, flusher, on_room=lambda: None, encrypt=encrypt)
    thread = threading.Thread(target=lambda: answers.append(transport.is_empty))
    transport.send([Response(b"x" * 1_000_000, 0.0)])
    thread.join()
    assert answers == [False]
    flusher.stop()
    here.close()
    there.close()


class GuardedLane(Lane):
    """A lane that notes whether the mutex was held when its event was changed."""

    queue: RequestQueue
    guarded: list[bool]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "room" and hasattr(self, "queue"):
            self.guarded.append(self.queue.mutex.locked())
        super().__setattr__(name, value)


def test_a_reader_that_stops_waiting_for_room() -> None:
    """It takes its event away under the lock: a worker that has just found it would set None."""
    lane, queue = GuardedLane(Session(NullTransport(), "")), RequestQueue(10_000)
    lane.queue, lane.guarded = queue, []
    lane.incoming = [PendingRequest(Frame(1, 0x1F, 0, b""), 0.0)] * LANE_LIMIT
    queue.put(lane)
    assert not queue.wait_for_room(lane, 0.0)
    assert lane.room is None
    assert lane.guarded == [True, True]


def test_a_hasher_that_cannot_answer(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The connection ends, and its lane does not stay closed, which would hold up a stop."""
    server = start_server()
    failed = fails_once(monkeypatch, queue_dispatch, "send_answers")
    with Wire(server.port) as wire:
        wire.send_request(LOGIN, username="nobody", password="wrong")
        assert wire.is_closed_by_server()
        assert failed.is_set()
    assert logged == ["a bug"]


def test_a_hasher_that_is_ended(start_server: StartServer, monkeypatch: pytest.MonkeyPatch, logged: list[str]) -> None:
    """SystemExit, say, ends the connection, and no client waits for an answer that never comes."""

    def end(*_: object) -> bool:
        raise SystemExit("go")

    server = start_server()
    with monkeypatch.context() as patch, Wire(server.port) as wire:
        patch.setattr(passwords, "verify_password", end)
        wire.send_request(LOGIN, username="nobody", password="wrong")
        assert wire.is_closed_by_server()
    assert logged == ["go"]
    with Wire(server.port) as wire:
        assert wire.login("nobody").error == "wrong_credentials"


def test_no_thread_for_a_login(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is connected can log in while the system has no more threads: the hashers are there
    from the start.
    """
    server = start_server()
    with Wire(server.port) as first, Wire(server.port) as second:
        wait_until(lambda: len(server.connections) == 2)

        def no_more_threads(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            assert first.login("nobody").error == "wrong_credentials"
            assert second.login("nobody").error == "wrong_credentials"


def test_no_thread_for_the_next_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweeper tries again: else idle groups would stay for ever."""
    monkeypatch.setattr(groups, "THREAD_PAUSE", 0.01)
    cache = GroupCache(0.01, 0.01)
    sweeps: list[int] = []
    monkeypatch.setattr(cache, "sweep", lambda: sweeps.append(0))
    cache.start()
    start, tries = threading.Timer.start, itertools.count()

    def starts_later(timer: threading.Timer) -> None:
        if next(tries) < 3:
            raise RuntimeError("can't start new thread")
        start(timer)

    monkeypatch.setattr(threading.Timer, "start", starts_later)
    wait_until(lambda: next(tries) > 3 and len(sweeps) > 2)
    cache.stop()


def test_a_thread_that_ends_is_one_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other thread ends by an exception, the log tells it in a line."""
    monkeypatch.setattr(cli, "log_failure", lambda log, error: log.error("%s: %s", type(error).__name__, error))
    monkeypatch.setattr(threading, "excepthook", cli._log_thread_end)

    def fail(error: BaseException) -> None:
        raise error

    for error in (LookupError("a bug"), GeneratorExit("gone")):
        thread = threading.Thread(target=fail, args=(error,), name="jelly-reader-somewhere")
        thread.start()
        thread.join()
    lines = [(record.name, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("jelly.jelly-reader-somewhere", "LookupError: a bug"),
        ("jelly.jelly-reader-somewhere", "GeneratorExit: gone"),
    ]
