"""Everything has a bound, and each bound an answer."""

import contextlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    CREATE_GROUP,
    LOGIN,
    OWN_PROFILE,
    SERVER_ERROR,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    wait_until,
)

from jelly import connection, group_service, lists, passwords, tcp
from jelly import server as server_module
from jelly.connection import READ_SIZE
from jelly.outcomes import CpuTask, Place, Write
from jelly.requests import PROFILE_LIMITS
from jelly.send_queue import SendQueue
from jelly.server import JellyServer
from jelly.trusted_clock import TrustedClock

ROOT = Path(__file__).parent.parent


def test_connections(start_server: StartServer) -> None:
    """When all places are taken by users, others are turned away at once; when one leaves there is
    room again.
    """
    server = start_server(max_connections=3)
    register(server.port, "alice", "bob", "carol", "dave")
    wait_until(lambda: not server.connections)
    wires = [logged_in(server.port, name) for name in ("alice", "bob", "carol")]
    with Wire(server.port) as surplus:
        assert surplus.is_closed_by_server()
    wires.pop().close()
    wait_until(lambda: len(server.connections) == 2)
    with logged_in(server.port, "dave") as dave:
        dave.ok(OWN_PROFILE)
    for wire in wires:
        wire.close()


def test_a_connection_that_is_accepted_while_the_server_stops(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread begins when `stop` has closed all others: it ends, too, and the client is not left
    waiting.
    """
    begins, may_begin = threading.Event(), threading.Event()

    def set_socket_options(sock: socket.socket) -> None:
        begins.set()
        assert may_begin.wait(10)
        tcp.set_socket_options(sock)

    server = start_server()
    stand_in = SimpleNamespace(set_socket_options=set_socket_options, limit_buffers=tcp.limit_buffers)
    monkeypatch.setattr(connection, "tcp", stand_in)
    with Wire(server.port) as late:
        assert begins.wait(10)
        server.stop()
        may_begin.set()
        assert late.is_closed_by_server()


@pytest.mark.parametrize("field", PROFILE_LIMITS)
def test_profiles(port: int, field: str) -> None:
    """A value has as many characters as its limit says, counted as characters, and not one more."""
    register(port, "alice")
    with logged_in(port, "alice") as alice:
        longest = "界" * PROFILE_LIMITS[field]
        alice.ok(UPDATE_PROFILE, **{field: longest})
        assert alice.refused(UPDATE_PROFILE, **{field: longest + "x"}) == "too_long"
        assert alice.ok(OWN_PROFILE)[field] == longest


@pytest.mark.parametrize("length", [0, 1, 128, 129])
def test_passwords(port: int, length: int) -> None:
    """A password has 1 to 128 characters."""
    with Wire(port) as wire:
        reply = wire.call(0x12, username="alice", password="界" * length)
        assert reply.error == ("" if 1 <= length <= 128 else "invalid_password")


def test_lists(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Friends, members and groups have limits, far above what people need."""
    for module, limit in (
        (lists, "MAX_FRIENDS"),
        (group_service, "MAX_MEMBERS"),
        (group_service, "MAX_OWN_GROUPS"),
    ):
        assert getattr(module, limit) >= 200
        monkeypatch.setattr(module, limit, 2)
    monkeypatch.setattr(group_service, "MAX_GROUPS_JOINED", 1)
    register(port, "alice", "bob", "carol", "dave")
    with logged_in(port, "alice") as alice:
        alice.ok(ADD_FRIEND, friend="bob")
        alice.ok(ADD_FRIEND, friend="carol")
        assert alice.refused(ADD_FRIEND, friend="dave") == "limit_reached"
        alice.ok(CREATE_GROUP, groupName="one")
        alice.ok(CREATE_GROUP, groupName="two")
        assert alice.refused(CREATE_GROUP, groupName="three") == "limit_reached"
        alice.ok(ADD_MEMBER, groupName="one", member="bob")
        assert alice.refused(ADD_MEMBER, groupName="one", member="carol") == "limit_reached"
        assert alice.refused(ADD_MEMBER, groupName="two", member="bob") == "limit_reached"


def test_a_service_that_raises(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a SERVER_ERROR, the connection and the worker live, and the log has one line without a
    traceback.
    """
    server = start_server(workers=1)
    register(server.port, "alice")
    table: Any = server.dispatcher._services._handlers
    logged: list[str] = []
    monkeypatch.setattr("jelly.queue_dispatch.log_failure", lambda _, error: logged.append(repr(error)))
    with logged_in(server.port, "alice") as alice:
        works, table[OWN_PROFILE] = table[OWN_PROFILE], lambda *_: 1 // 0
        reply = alice.call(OWN_PROFILE)
        assert (reply.status, reply.error) == (SERVER_ERROR, "internal")
        table[OWN_PROFILE] = works
        alice.ok(OWN_PROFILE)
    assert len(logged) == 1


@pytest.mark.parametrize("stage", ["at once", "while hashing", "while writing", "after the commit"])
def test_a_service_that_raises_at_any_stage(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Wherever it fails, it is one SERVER_ERROR and one line, and the request behind it is
    served.
    """

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    outcomes: dict[str, Any] = {
        "at once": lambda *_: fail(),
        "while hashing": lambda *_: CpuTask(fail, Place.KNOWN),
        "while writing": lambda *_: Write(ADD_FRIEND, fail, fail),
        "after the commit": lambda *_: Write(ADD_FRIEND, lambda _: None, fail),
    }
    logged: list[str] = []
    for module in ("queue_dispatch", "store"):
        monkeypatch.setattr(f"jelly.{module}.log_failure", lambda _, error: logged.append(repr(error)))
    server = start_server(workers=1, classic_gap=0)
    register(server.port, "alice")
    monkeypatch.setitem(server.dispatcher._services._handlers, ADD_FRIEND, outcomes[stage])
    with logged_in(server.port, "alice") as alice:
        for _ in range(3):
            alice.send_request(ADD_FRIEND, friend="alice")
            alice.send_request(OWN_PROFILE)
            replies = [alice.receive() for _ in range(2)]
            assert [(reply.type, reply.error) for reply in replies] == [(ADD_FRIEND, "internal"), (OWN_PROFILE, "")]
    assert logged == ["ZeroDivisionError()"] * 3


@pytest.mark.parametrize("workers", [1, 2], ids=["store thread", "worker"])
def test_a_delivery_that_raises(start_server: StartServer, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Nobody waits for an answer that does not come: the connection ends, and what was committed
    arrives.
    """
    logged: list[str] = []
    monkeypatch.setattr("jelly.store.log_failure", lambda _, error: logged.append(repr(error)))
    server = start_server(workers=workers, classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, monkeypatch.context() as patch:
        patch.setattr("jelly.delivery.Delivery.flush", lambda *_: 1 // 0)
        alice.send_message("bob", "committed")
        with pytest.raises(EOFError):
            alice.receive()
    wait_until(lambda: logged)
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["committed"]


def test_a_transport_that_raises(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its own connection ends: the others of the batch have their answers, and the message
    comes again.
    """
    logged: list[str] = []
    monkeypatch.setattr("jelly.delivery.log_failure", lambda _, error: logged.append(repr(error)))
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            broken, send = server.sessions.get("bob"), SendQueue.send
            assert broken is not None

            def fail_for_bob(self: SendQueue, responses: Any = (), notices: Any = ()) -> None:
                if self is broken.transport:
                    raise MemoryError
                send(self, responses, notices)

            with monkeypatch.context() as patch:
                patch.setattr(SendQueue, "send", fail_for_bob)
                alice.message("bob", "hello")
                assert bob.is_closed_by_server()
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert bob.contents(1) == ["hello"]
    assert logged == ["MemoryError()"]


def test_out_of_threads(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client for whom there is no thread is turned away; those inside are served, and later ones
    are let in.
    """
    server = start_server()
    register(server.port, "alice")
    with logged_in(server.port, "alice") as alice:
        with monkeypatch.context() as patch:
            patch.setattr(socketserver.ThreadingMixIn, "process_request", no_thread)
            with Wire(server.port) as other:
                assert other.is_closed_by_server()
            alice.ok(OWN_PROFILE)
        logged_in(server.port, "alice").close()


def no_thread(*_: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_a_flood_of_logins(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are served while two hundred passwords are still being checked."""
    server = start_server(password_cost=7, classic_gap=0)
    register(server.port, "alice")
    may_check, verify = threading.Event(), passwords.verify_password

    def verify_later(password: str, stored: str) -> bool:
        assert may_check.wait(10)
        return verify(password, stored)

    with logged_in(server.port, "alice") as alice, contextlib.ExitStack() as stack:
        stack.callback(may_check.set)
        monkeypatch.setattr(passwords, "verify_password", verify_later)
        flood = [stack.enter_context(Wire(server.port)) for _ in range(200)]
        for number, wire in enumerate(flood):
            wire.send_request(LOGIN, username=f"user{number}", password="x")
        for number in range(20):
            alice.message("alice", str(number))
        assert select.select([wire.socket for wire in flood], [], [], 0)[0] == []
        may_check.set()
        assert {wire.receive().error for wire in flood} == {"wrong_credentials"}


def test_the_tokens_of_a_user(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has a limited number of tokens; one more login ends the oldest, and no other."""
    monkeypatch.setattr("jelly.tokens.MAX_TOKENS", 3)
    times = itertools.count(int(time.time()))
    monkeypatch.setattr(TrustedClock, "latest", lambda _: next(times))
    register(port, "alice")
    tokens = []
    for _ in range(4):
        with logged_in(port, "alice") as alice:
            tokens.append(alice.token)
    for token, error in zip(tokens, ["invalid_token", "", "", ""], strict=True):
        with Wire(port) as wire:
            assert wire.reconnect("alice", token).error == error


def test_bodies(start_server: StartServer) -> None:
    """The largest body is what the operator says, to the byte; a larger one ends the connection
    unread.
    """
    port = start_server(max_body=1024).port
    register(port, "alice")
    body = b'{"username":"alice"}'
    with logged_in(port, "alice") as alice:
        alice.send(pack(OWN_PROFILE, body.ljust(1024)))
        assert alice.receive().body == body
        alice.send(pack(OWN_PROFILE, body.ljust(1025))[:9])
        reply = alice.receive()
        assert (reply.type, reply.error) == (OWN_PROFILE, "malformed_frame")
        assert alice.is_closed_by_server()


def test_what_is_held_before_a_login_is_answered(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a password is hashed, one large body is held and no more is read: it waits on the
    client's side. Then all of it is served, in order; and the pause does not count as silence, or
    as a frame that does not end.
    """
    may_hash = threading.Event()
    verify = passwords.verify_password
    monkeypatch.setattr(passwords, "verify_password", lambda *values: may_hash.wait(20) and verify(*values))
    server = start_server(classic_gap=0)
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    body = b'{"username":"alice"}'.center(60_000)
    with Wire(server.port) as alice:
        alice.send_request(LOGIN, username="alice", password="pw")
        sender = threading.Thread(target=alice.send, args=(pack(OWN_PROFILE, body) * 20,))
        sender.start()
        wait_until(lambda: server.connections)
        [connection] = server.connections
        wait_until(lambda: connection.is_paused)
        assert sum(len(request.frame.body) for request in connection.lane.waiting) < 65536 + READ_SIZE
        server.watchdog.check(time.monotonic() + 15)
        assert not connection.send_queue.is_closed
        may_hash.set()
        sender.join()
        assert alice.receive().type == LOGIN
        assert [alice.receive().type for _ in range(20)] == [OWN_PROFILE] * 20
        assert not connection.is_paused


def test_many_small_requests_before_a_login(port: int) -> None:
    """What needs no login does not pile up either, and every frame is answered."""
    with Wire(port) as wire:
        wire.send(pack(0xFF, bytes(1000)) * 200)
        assert {wire.receive().error for _ in range(200)} == {"unknown_type"}
        assert wire.login("nobody").error == "wrong_credentials"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel is not asked")
@pytest.mark.parametrize("features", [None, []], ids=["classic", "modern"])
def test_what_the_kernel_holds_for_a_client_that_does_not_read(
    start_server: StartServer, features: list[str] | None
) -> None:
    """It takes some of the first messages; the others wait in the database, and none is lost."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, socket.socket() as bob:
        bob.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bob.connect(("127.0.0.1", server.port))
        body = {"username": "bob", "password": "pw"} | ({} if features is None else {"features": features})
        bob.sendall(pack(LOGIN, json.dumps(body).encode()))
        wait_until(lambda: server.sessions.get("bob"))
        [connection] = [c for c in tuple(server.connections) if c.session.user == "bob"]
        for number in range(100):
            alice.message("bob", str(number).ljust(60_000))
        assert 0 < (tcp.unacknowledged(connection.request) or 0) < 256 * 1024
    with logged_in(server.port, "bob") as reader:
        assert [int(content) for content in reader.contents(100)] == list(range(100))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel is not asked")
def test_what_the_kernel_holds_for_a_reader_that_stops() -> None:
    """A buffer that was read from for a while does not grow, so little waits in it once nobody
    reads.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            tcp.limit_buffers(accepted)
            client.setblocking(False)
            for _ in range(5000):
                while fits(client):
                    pass
                for _ in range(4):
                    accepted.recv(READ_SIZE)
            wait_until(lambda: not fits(client))
            assert 0 < tcp.unread(accepted) < 256 * 1024


def fits(sock: socket.socket) -> bool:
    """Whether a socket took some more bytes."""
    with contextlib.suppress(BlockingIOError):
        return sock.send(bytes(60_000)) > 0
    return False


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_out_of_descriptors(tmp_path: Path) -> None:
    """Users who come when no descriptor is left are turned away, those inside are served, and it
    heals when descriptors are free.
    """
    command = [
        sys.executable,
        "-S",
        "jelly.py",
        "--port=0",
        "--password-cost=1",
        f"--database=sqlite:///{tmp_path}/j.db",
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
    assert process.stderr is not None
    try:
        while "listening" not in (line := process.stderr.readline()):
            assert line
        port = int(line.partition(" port ")[2].split(";")[0])
        register(port, "alice")
        alice = logged_in(port, "alice")
        register(port, *[f"user{number}" for number in range(60)])
        crowd: list[Wire] = []
        while len(crowd) < 60:
            crowd.append(Wire(port))
            crowd[-1].send_request(LOGIN, username=f"user{len(crowd) - 1}", password="pw")
        while "the limit of open files" not in (line := process.stderr.readline()):
            assert line
        before, started = cpu_seconds(process.pid), time.monotonic()
        while time.monotonic() - started < 1:
            alice.ok(OWN_PROFILE)
            time.sleep(0.05)
        assert cpu_seconds(process.pid) - before < 0.25
        for each in crowd:
            each.close()
        with Wire(port) as wire:
            assert wire.login("nobody").error == "wrong_credentials"
        alice.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_more_connections_than_descriptors(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that is about to run out of them stops accepting, says so once, and goes on when one
    is free.
    """
    tries: list[float] = []
    accept = JellyServer.get_request
    monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.01)

    def noted(self: JellyServer) -> Any:
        tries.append(time.monotonic())
        return accept(self)

    monkeypatch.setattr(JellyServer, "get_request", noted)
    server = start_server()
    server._descriptors_for_connections = 1
    with Wire(server.port) as first:
        first.wait_until_served()
        with Wire(server.port) as second:
            wait_until(lambda: len(tries) > 3)
            assert "cannot accept connections: Too many open files" in caplog.text
            first.close()
            second.wait_until_served()
    assert caplog.text.count("cannot accept") == 1


def test_a_bug_in_a_connection(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends that connection; the log tells it, and others are served."""
    logged: list[str] = []
    server = start_server()
    with monkeypatch.context() as patched, Wire(server.port) as wire:
        wire.wait_until_served()
        patched.setattr("jelly.server.log_failure", lambda _, error: logged.append(str(error)))
        patched.setattr(connection.Connection, "_read", lambda *_: [].pop())
        wire.heartbeat()
        assert wire.is_closed_by_server()
        wait_until(lambda: logged)
    assert logged == ["pop from empty list"]
    with Wire(server.port) as wire:
        wire.wait_until_served()


def test_a_stop_that_finds_no_end(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be answered in time is told in the log."""
    server = start_server()
    monkeypatch.setattr(server.dispatcher, "wait_until_idle", lambda *_: False)
    server.stop()
    server.stop()  # once is enough
    assert caplog.text.count("stopped with requests that were not answered") == 1


def test_a_bug_in_a_worker(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection whose requests it was serving ends; the worker lives, also if it is the only
    one.
    """
    logged: list[str] = []
    server = start_server(workers=1)
    with monkeypatch.context() as patched, Wire(server.port) as wire:
        patched.setattr("jelly.queue_dispatch.log_failure", lambda _, error: logged.append(str(error)))
        patched.setattr(server.dispatcher, "_serve", lambda _: [].pop())
        wire.send_request(OWN_PROFILE)
        assert wire.is_closed_by_server()
    assert set(logged) == {"pop from empty list"}  # for each try to serve what waits there
    with Wire(server.port) as wire:
        wire.wait_until_served()
