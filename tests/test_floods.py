"""Floods of small frames: each client takes a small part of what all share."""

import threading

import pytest
from harness import StartServer
from wire import ACK, HEARTBEAT, LOGIN, OWN_PROFILE, SUCCESS, Wire, logged_in, pack, register, to_json, wait_until

from jelly import connection as connection_module
from jelly import passwords
from jelly.connection import REQUESTS_AT_ONCE, Connection
from jelly.queue_dispatch import LANE_LIMIT
from jelly.server import JellyServer

FLOOD = 2000


def only(server: JellyServer) -> Connection:
    wait_until(lambda: len(server.connections) == 1)
    [connection] = server.connections
    return connection


def test_behind_a_login(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a login waits for a hasher, no more than one request behind it takes a place."""
    server, may_go_on = start_server(), threading.Event()
    register(server.port, "alice")
    wait_until(lambda: not server.connections)

    def verify(*_: object) -> bool:
        assert may_go_on.wait(30)
        return False

    monkeypatch.setattr(passwords, "verify_password", verify)
    with Wire(server.port) as wire:
        wire.send(pack(LOGIN, to_json({"username": "alice", "password": "wrong"})))
        connection = only(server)
        wait_until(lambda: not connection.lane.waiting and connection.lane.busy.locked())
        wire.send(pack(OWN_PROFILE, b"") * FLOOD)
        wait_until(lambda: connection.is_paused)
        assert len(connection.lane.waiting) <= 1
        may_go_on.set()
        assert wire.receive().error == "wrong_credentials"


def test_of_one_user(start_server: StartServer) -> None:
    """While a lane is not served, a read puts few more requests into it than it may hold; later all
    are served.
    """
    server = start_server()
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "alice", features=["ack"]) as alice:  # a classic client gets one answer a gap
        connection = only(server)
        assert connection.lane.busy.acquire(timeout=10)
        alice.send(pack(OWN_PROFILE, to_json({"username": "alice"})) * FLOOD)
        wait_until(lambda: connection.is_paused)
        assert LANE_LIMIT <= len(connection.lane.waiting) < LANE_LIMIT + REQUESTS_AT_ONCE
        server.dispatcher._release(connection.lane)
        assert {alice.receive().status for _ in range(FLOOD)} == {SUCCESS}


@pytest.mark.parametrize("frame", [pack(HEARTBEAT, b""), pack(ACK, to_json({"id": 0}))], ids=["heartbeats", "ACKs"])
def test_of_frames_that_ask_for_nothing(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, frame: bytes
) -> None:
    """The reader takes a rest, and the client's next request is served after it."""
    monkeypatch.setattr(connection_module, "IDLE_RATE", 100)
    server = start_server()
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        alice.send(frame * 90)
        alice.ok(OWN_PROFILE)
        assert not connection.is_paused
        alice.send(frame * 90)
        wait_until(lambda: connection.is_paused)
        alice.ok(OWN_PROFILE)
