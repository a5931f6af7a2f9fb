"""How the client library sends requests, pairs them with their responses, and ends them when the
connection is lost. The test plays the server. A server that grants features is a modern one. One
that grants none may be the original, which takes one request at a time and none near a
heartbeat."""

import socket
import time
from concurrent.futures import wait
from threading import Thread
from typing import Any

import pytest
from client_tools import (
    SYSTEM,
    NewClient,
    Recorder,
    ScriptedServer,
    error,
    message,
    notice,
    response,
    result,
)
from wire import (
    ADD_FRIEND,
    HEARTBEAT,
    LOGOUT,
    OWN_PROFILE,
    PERSON_MESSAGE,
    SERVER_BUSY,
    pack,
    wait_until,
)

from client_api import (
    ConnectionLost,
    Profile,
    Reason,
    RequestTimeout,
    ServerBusy,
    State,
)
from jelly.client import pipeline
from jelly.client.addresses import Address
from jelly.client.connection_manager import MAX_QUEUED
from jelly.client.pipeline import WINDOW
from jelly.client.stream import FrameStream

PROFILE = response(OWN_PROFILE, username="alice")

# --- towards a server that grants no features -----------------------------------------------------


def test_classic_one_request_at_a_time(new_client: NewClient, script: ScriptedServer) -> None:
    """The next request is sent only after the response to the one before it, in the order of the
    calls."""
    alice = new_client(script.port)
    peer = script.log_in(alice, features=None)
    futures = [alice.add_friend(f"u{number}") for number in range(5)]
    assert peer.receive().type == HEARTBEAT
    for number, future in enumerate(futures):
        assert peer.receive() == (1, ADD_FRIEND, 0, b'{"username":"alice","friend":"u%d"}' % number)
        if number == 1:
            assert peer.is_silent()
        peer.answer(ADD_FRIEND)
        assert result(future) is True


def test_classic_heartbeat_right_after_the_login(new_client: NewClient, script: ScriptedServer) -> None:
    """The original would keep a connection without a heartbeat online for ever; a modern server
    needs none yet."""
    assert script.log_in(new_client(script.port), features=None).receive().type == HEARTBEAT
    assert script.log_in(new_client(script.port), features=()).is_silent()


def test_classic_nothing_near_a_heartbeat(
    new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request within 0.1 s after a heartbeat is sent after that time."""
    monkeypatch.setattr(pipeline, "CLASSIC_GAP", 0.4)
    alice = new_client(script.port, heartbeat=0.6)
    peer = script.log_in(alice, features=None)
    for _ in range(2):
        assert peer.receive().type == HEARTBEAT
        came_at = time.monotonic()
        profile = alice.own_profile()
        peer.receive_request(OWN_PROFILE)
        assert time.monotonic() - came_at >= 0.2
        peer.send(PROFILE)
        assert result(profile) == Profile("alice")


def test_classic_requests_of_many_threads_wait_for_room(new_client: NewClient, script: ScriptedServer) -> None:
    """Threads that make too many requests wait, and hear of a lost connection."""
    alice = new_client(script.port, reconnect=False)
    peer = script.log_in(alice, features=None)
    peer.receive_request(HEARTBEAT)
    futures: list[Any] = []
    thread = Thread(target=lambda: futures.extend(alice.own_profile() for _ in range(MAX_QUEUED + 5)))
    thread.start()
    peer.receive_request(OWN_PROFILE)
    wait_until(lambda: len(futures) >= MAX_QUEUED)
    peer.send(PROFILE)
    peer.receive_request(OWN_PROFILE)
    peer.close()
    thread.join()
    done, pending = wait(futures, 10)
    assert (len(done), len(pending)) == (MAX_QUEUED + 5, 0)
    assert sum(future.exception() is None for future in futures) == 1


def test_a_thread_that_waits_for_room_behind_cancelled_requests(
    new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on when they leave the queue, although nothing is sent for them."""
    alice = new_client(script.port)
    peer = script.log_in(alice, features=None)
    peer.receive_request(HEARTBEAT)
    profile, *queued = [alice.own_profile() for _ in range(MAX_QUEUED + 1)]
    peer.receive_request(OWN_PROFILE)
    futures: list[Any] = []
    thread = Thread(target=lambda: futures.append(alice.own_profile()))
    thread.start()
    time.sleep(0.1)
    assert all(future.cancel() for future in queued)
    flush = FrameStream.flush

    def flush_later(stream: FrameStream) -> None:
        time.sleep(0.1)  # the response wakes the thread, which finds the queue still full
        flush(stream)

    monkeypatch.setattr(FrameStream, "flush", flush_later)
    peer.send(PROFILE)
    result(profile)
    thread.join(5)
    assert len(futures) == 1


# --- towards a modern server ----------------------------------------------------------------------


def test_modern_requests_are_pipelined(new_client: NewClient, script: ScriptedServer) -> None:
    """A full window is sent at once; each response makes room for one more."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    futures = [alice.add_friend(f"u{number}") for number in range(WINDOW + 10)]
    for _ in range(WINDOW):
        peer.receive_request(ADD_FRIEND)
    assert peer.is_silent()
    for number in range(10):
        peer.answer(ADD_FRIEND)
        assert peer.receive_request(ADD_FRIEND)["friend"] == f"u{WINDOW + number}"
    peer.send(response(ADD_FRIEND) * WINDOW)
    assert [result(future) for future in futures] == [True] * len(futures)


def test_what_responses_make_room_for_is_sent_together(
    new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses that arrive in one read cause one write, not one each."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    futures = [alice.add_friend(f"u{number}") for number in range(WINDOW + 20)]
    for _ in range(WINDOW):
        peer.receive_request(ADD_FRIEND)
    writes = []
    send = FrameStream.send

    def note(stream: FrameStream, data: bytes) -> None:
        writes.append(data)
        send(stream, data)

    monkeypatch.setattr(FrameStream, "send", note)
    peer.send(response(ADD_FRIEND) * 20)
    for _ in range(20):
        peer.receive_request(ADD_FRIEND)
    assert len(writes) == 1
    peer.send(response(ADD_FRIEND) * WINDOW)
    assert [result(future) for future in futures] == [True] * len(futures)


def test_modern_heartbeat(new_client: NewClient, script: ScriptedServer) -> None:
    """A heartbeat is sent after some time without sending, and again; a request delays it."""
    alice = new_client(script.port, heartbeat=0.3)
    start = time.monotonic()
    peer = script.log_in(alice)
    assert peer.receive().type == HEARTBEAT
    assert time.monotonic() - start >= 0.3
    start = time.monotonic()
    alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    assert peer.receive().type == HEARTBEAT
    assert time.monotonic() - start >= 0.3


# --- the end of the connection --------------------------------------------------------------------


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_connection_loss_tells_what_was_sent(new_client: NewClient, script: ScriptedServer, is_reset: bool) -> None:
    """Nobody knows about requests that were sent; queued ones were never done.

    Both fail before the client is back.
    """
    recorder = Recorder()
    alice = new_client(script.port, recorder)
    peer = script.log_in(alice)
    futures = [alice.own_profile() for _ in range(WINDOW + 10)]
    for _ in range(WINDOW):
        peer.receive_request(OWN_PROFILE)
    peer.reset() if is_reset else peer.close()
    failures = [error(future) for future in futures]
    assert {type(failure) for failure in failures} == {ConnectionLost}
    assert [failure.sent for failure in failures] == [True] * WINDOW + [False] * 10
    assert str(failures[-1]) == "The connection was lost before this was sent. Send it again when the client is online."
    script.accept_login()
    recorder.wait_for_state(State.ONLINE, count=2)


def test_requests_without_a_connection(new_client: NewClient, script: ScriptedServer) -> None:
    """Without a connection they fail at once, and were not sent; before the login they are
    refused."""
    alice = new_client(script.port)
    assert error(alice.own_profile()).code == "not_logged_in"
    peer = script.log_in(alice)
    script.close()
    peer.close()
    wait_until(lambda: alice.state is State.RECONNECTING)
    failure = error(alice.own_profile())
    assert (type(failure), failure.sent) == (ConnectionLost, False)
    alice.close()
    assert str(error(alice.own_profile())) == "The client is closed: make a new one."


def test_timeout(new_client: NewClient, script: ScriptedServer) -> None:
    """The first request times out, those behind it are lost with the connection, and the client
    reconnects."""
    recorder = Recorder()
    alice = new_client(script.port, recorder, request_timeout=0.2, heartbeat=60)
    peer = script.log_in(alice)
    start = time.monotonic()
    first, second = alice.add_friend("bob"), alice.own_profile()
    assert type(error(first)) is RequestTimeout
    assert time.monotonic() - start < 3
    assert (type(error(second)), error(second).sent) == (ConnectionLost, True)
    assert isinstance(recorder.wait_for_state(State.RECONNECTING).error, RequestTimeout)
    peer = script.accept_login()
    recorder.wait_for_state(State.ONLINE, count=2)
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")


def test_the_time_counts_from_when_a_request_is_sent(new_client: NewClient, script: ScriptedServer) -> None:
    """At a classic server a request may be queued longer than a response may take."""
    alice = new_client(script.port, request_timeout=1.5)
    peer = script.log_in(alice, features=None)
    futures = [alice.own_profile() for _ in range(3)]
    for _ in futures:
        peer.receive_request(OWN_PROFILE)
        assert peer.is_silent(0.6)
        peer.send(PROFILE)
    assert [result(future) for future in futures] == [Profile("alice")] * 3


def test_a_stream_that_cannot_send() -> None:
    """What the server sent before it closed can still be read, although sending has failed
    already."""
    sock, peer = socket.socketpair()
    sock.setblocking(False)
    stream = FrameStream(sock, Address("127.0.0.1", 1))
    peer.sendall(message("hello") + notice(SYSTEM, event="taken_over"))
    peer.close()
    stream.send(pack(HEARTBEAT))
    assert isinstance(stream.failure, BrokenPipeError)
    assert [frame.type for frame in stream.receive()] == [PERSON_MESSAGE, SYSTEM]
    with pytest.raises(EOFError):
        stream.receive()
    stream.close()


def test_what_arrived_before_a_failed_send_counts(new_client: NewClient, script: ScriptedServer) -> None:
    """When sending fails, the client still reads what the server sent before it closed: here, why
    it closed."""
    recorder = Recorder()
    alice = new_client(script.port, recorder, heartbeat=0.05)
    peer = script.log_in(alice)
    peer.send(message("x" * 30_000) + notice(SYSTEM, event="taken_over"))
    peer.close()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.TAKEN_OVER


# --- the end of LOGOUT ----------------------------------------------------------------------------


def test_the_end_answers_a_logout(new_client: NewClient, script: ScriptedServer) -> None:
    """Requests before it get their responses; later ones are refused; the close of the server is
    its result."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    profile, logout, late = alice.own_profile(), alice.logout(), alice.own_profile()
    assert error(late).code == "not_logged_in"
    peer.receive_request(OWN_PROFILE)
    assert peer.receive_request(LOGOUT) == {"username": "alice", "token": 7}
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert not logout.done()
    peer.close()
    assert result(logout) is None
    assert alice.state is State.OFFLINE


def test_a_logout_that_is_refused(new_client: NewClient, script: ScriptedServer) -> None:
    """A response to LOGOUT is a refusal: the client stays online and works."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    logout = alice.logout()
    peer.receive_request(LOGOUT)
    peer.answer(LOGOUT, SERVER_BUSY, error="busy")
    assert type(error(logout)) is ServerBusy
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    assert alice.state is State.ONLINE


def test_a_logout_without_an_end(new_client: NewClient, script: ScriptedServer) -> None:
    """If the server does not close, it times out; if the connection breaks, the token may be valid.

    Both end OFFLINE.
    """
    alice = new_client(script.port, request_timeout=0.1)
    script.log_in(alice)
    assert type(error(alice.logout())) is RequestTimeout
    assert alice.state is State.OFFLINE
    peer = script.log_in(alice)
    logout = alice.logout()
    peer.receive_request(LOGOUT)
    peer.reset()
    assert (type(error(logout)), error(logout).sent) == (ConnectionLost, True)
    assert alice.state is State.OFFLINE


def test_a_logout_that_is_cancelled(new_client: NewClient, script: ScriptedServer) -> None:
    """A queued logout can be cancelled; the client goes on as if it had not been requested."""
    alice = new_client(script.port)
    peer = script.log_in(alice, features=None)
    profile, logout = alice.own_profile(), alice.logout()
    assert logout.cancel()
    peer.receive_request(OWN_PROFILE)
    peer.send(PROFILE)
    result(profile)
    wait_until(lambda: not alice.own_profile().done())  # a refused request ends at once
    peer.receive_request(OWN_PROFILE)
    assert alice.state is State.ONLINE
