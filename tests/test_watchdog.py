"""Heartbeats and other deadlines. The tests need no clock: they tell `check` what time it is."""

import contextlib
import select
import signal
import threading
import time
from pathlib import Path

import pytest
from harness import StartServer
from wire import HEARTBEAT, OWN_PROFILE, RECONNECT, Wire, logged_in, pack, register, wait_until

from faults.process import Server
from jelly import tcp
from jelly.connection import Connection
from jelly.server import JellyServer
from jelly.sessions import Response
from jelly.watchdog import Watchdog


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    """A server with alice, on which the usual times hold: five misses of 6 seconds."""
    server = start_server()
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    return server


def only(server: JellyServer) -> Connection:
    """The one connection that there is."""
    wait_until(lambda: len(server.connections) == 1)
    [connection] = server.connections
    return connection


def closes_after(server: JellyServer, seconds: float) -> bool:
    """Whether the only connection is closed after this silence, and not half a second before."""
    connection = only(server)
    server.watchdog.check(connection.last_read_at + seconds - 0.5)
    if connection.send_queue.is_closed:
        return False
    server.watchdog.check(connection.last_read_at + seconds)
    return connection.send_queue.is_closed


def test_silence_after_login(server: JellyServer) -> None:
    """A client that says nothing is closed 30 seconds after it fell silent."""
    with logged_in(server.port, "alice") as alice:
        assert closes_after(server, 30)
        assert alice.is_closed_by_server()


@pytest.mark.parametrize(
    "data", [pack(HEARTBEAT), pack(0x77), pack(HEARTBEAT, b"ignored")], ids=["beat", "any", "body"]
)
def test_any_frame_clears_the_count(server: JellyServer, data: bytes) -> None:
    """Whatever the client sends, it has 30 seconds again, and heartbeats are never answered."""
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        before = connection.last_read_at
        alice.send(data)
        wait_until(lambda: connection.last_read_at > before)
        server.watchdog.check(before + 30)
        assert not connection.send_queue.is_closed
        assert alice.call(OWN_PROFILE).type == (0x77 if data == pack(0x77) else OWN_PROFILE)


def test_other_numbers(start_server: StartServer) -> None:
    """Interval and misses are the operator's."""
    server = start_server(heartbeat_interval=2.5, heartbeat_misses=2)
    register(server.port, "alice")
    with logged_in(server.port, "alice"):
        wait_until(lambda: len(server.connections) == 1)
        assert closes_after(server, 5)


def test_a_classic_client_after_a_reconnect(server: JellyServer) -> None:
    """It sends no heartbeats after RECONNECT, and is not closed for that until it has sent one."""
    with logged_in(server.port, "alice") as alice:
        token = alice.token
    wait_until(lambda: not server.connections)
    with Wire(server.port) as alice:
        alice.ok(RECONNECT, username="alice", token=token)
        connection = only(server)
        server.watchdog.check(time.monotonic() + 86400)
        assert not connection.send_queue.is_closed
        alice.heartbeat()
        wait_until(lambda: connection.session.has_heartbeat)
        assert closes_after(server, 30)


def test_a_look_that_is_late(server: JellyServer, caplog: pytest.LogCaptureFixture) -> None:
    """After a minute in which the process was stopped, no connection is closed until the other
    threads have had time to notice what came meanwhile. The next looks are as usual.
    """
    with logged_in(server.port, "alice"):
        connection = only(server)
        dog = Watchdog([connection], 30)
        begin = connection.last_read_at
        for seconds in (0.0, 1.0, 2.0, 3.0):
            dog._check_if_due(begin + seconds)
        for seconds in (63.0, 70.0, 92.9):
            dog._check_if_due(begin + seconds)
            assert not connection.send_queue.is_closed
        dog._check_if_due(begin + 93.0)
        assert connection.send_queue.is_closed
    assert "the server stood still for 59.0 s: closing no connection for 30.0 s" in caplog.text


def test_looks_that_are_always_late(server: JellyServer) -> None:
    """On a machine that is so busy, a dead connection is closed all the same."""
    with logged_in(server.port, "alice"):
        connection = only(server)
        dog = Watchdog([connection], 30)
        for look in range(20):
            dog._check_if_due(connection.last_read_at + 3 * look)
        assert connection.send_queue.is_closed


def test_a_heartbeat_that_no_reader_has_read(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it lies in the kernel the client is not taken for silent."""
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        may_read, read = threading.Event(), Connection._read

        def read_later(self: Connection, data: bytes) -> None:
            may_read.wait(10)
            read(self, data)

        monkeypatch.setattr(Connection, "_read", read_later)
        before = connection.last_read_at
        alice.heartbeat()
        wait_until(lambda: tcp.has_unread(connection.request, connection.send_queue.read_bytes))
        server.watchdog.check(before + 30)
        assert not connection.send_queue.is_closed
        may_read.set()
        wait_until(lambda: connection.last_read_at > before)
        assert closes_after(server, 30)


def test_a_server_that_was_stopped(tmp_path: Path) -> None:
    """Of clients that went on sending heartbeats while it stood still, none is closed when it goes
    on. (A client is silent after 2 seconds here.)
    """
    options = ("--heartbeat-interval=0.5", "--heartbeat-misses=4")
    with Server(f"sqlite:///{tmp_path}/j.db", *options) as server, contextlib.ExitStack() as stack:
        names = [f"user{number}" for number in range(40)]
        register(server.port, *names)
        clients: list[Wire] = []
        for name in names:
            clients.append(stack.enter_context(logged_in(server.port, name)))
            for client in clients:  # on a busy machine, all the logins take longer than 2 seconds
                client.heartbeat()

        def beat(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.heartbeat()
                time.sleep(0.2)

        server.process.send_signal(signal.SIGSTOP)
        beat(4)
        server.process.send_signal(signal.SIGCONT)
        beat(3)
        closed, _, _ = select.select([client.socket for client in clients], [], [], 0)
        assert len(closed) == 0


def test_nothing_after_connecting(server: JellyServer) -> None:
    """A client that connects and sends nothing is closed after 10 seconds, without an answer."""
    with Wire(server.port) as wire:
        assert closes_after(server, 10)
        assert wire.socket.recv(1) == b""


def test_half_a_frame(server: JellyServer) -> None:
    """A frame that has begun must be whole within 10 seconds, however slowly more of it comes."""
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        frame = pack(OWN_PROFILE, b'{"username":"alice"}')
        alice.send(frame[:5])
        wait_until(lambda: connection.incomplete_since is not None)
        begun = connection.incomplete_since or 0.0
        alice.send(frame[5:8])
        wait_until(lambda: connection.last_read_at > begun)
        server.watchdog.check(begun + 9.9)
        assert not connection.send_queue.is_closed
        server.watchdog.check(begun + 10.001)  # (begun + 10) - begun may be a little less than 10
        assert connection.send_queue.is_closed


def test_a_whole_frame_ends_the_wait(server: JellyServer) -> None:
    """When the frame is whole, its deadline is gone; the next half has its own."""
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        frame = pack(OWN_PROFILE, b'{"username":"alice"}')
        alice.send(frame[:5])
        wait_until(lambda: connection.incomplete_since is not None)
        begun = connection.incomplete_since or 0.0
        alice.send(frame[5:] + frame[:3])
        assert alice.receive().type == OWN_PROFILE
        assert (connection.incomplete_since or 0.0) > begun
        alice.send(frame[3:])
        assert alice.receive().type == OWN_PROFILE
        assert connection.incomplete_since is None


def test_a_client_that_does_not_close_after_the_last_answer(server: JellyServer) -> None:
    """After the server's last answer the client has a moment to close; then the server does."""
    with Wire(server.port) as wire:
        connection = only(server)
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.receive().error == "malformed_frame"
        wait_until(lambda: connection.send_queue.finished_at is not None)
        server.watchdog.check((connection.send_queue.finished_at or 0.0) + 3)
        wait_until(lambda: not server.connections)


def test_a_client_that_does_not_take_the_closing_frame(server: JellyServer) -> None:
    """It is closed after three seconds, even if the frame could not be written."""
    with logged_in(server.port, "alice"):
        send_queue = only(server).send_queue
        send_queue.send([Response(b"x" * 10_000_000, 0.0)])
        send_queue.finish(b"last")
        told_at = send_queue.closing_frame_at or 0.0
        server.watchdog.check(told_at + 2.9)
        assert not send_queue.is_closed
        server.watchdog.check(told_at + 3)
        assert send_queue.is_closed


def test_run_calls_now(server: JellyServer) -> None:
    """When the server stops, nobody waits for what was to happen later."""
    calls: list[str] = []
    server.watchdog.call_later(1000, lambda: calls.append("second"))
    server.watchdog.call_later(500, lambda: calls.append("first"))
    server.watchdog.run_calls_now()
    wait_until(lambda: calls == ["first", "second"])


def test_calls_back_later(server: JellyServer) -> None:
    """`call_later` calls on the watchdog's thread, in the order of the times."""
    calls: list[int] = []
    for number, seconds in ((2, 0.02), (1, 0.01), (0, 0.0)):
        server.watchdog.call_later(seconds, lambda number=number: calls.append(number))  # type: ignore[misc]
    wait_until(lambda: calls == [0, 1, 2])


def test_a_call_that_fails(server: JellyServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells it, and the watchdog lives: without it dead connections would stay open."""

    def fail() -> None:
        raise LookupError("a bug")

    calls: list[str] = []
    server.watchdog.call_later(0, fail)
    server.watchdog.call_later(0, lambda: calls.append("the next one"))
    wait_until(lambda: calls)
    assert "the watchdog failed: LookupError: a bug" in caplog.text
