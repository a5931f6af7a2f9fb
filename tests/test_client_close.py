"""The end of a client: what `close` waits for, for how long, and that nothing is left behind."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from client_tools import (
    CALLBACK_THREAD,
    Join,
    NewClient,
    Recorder,
    ScriptedServer,
    Service,
    descriptors,
    error,
    message,
    response,
    result,
)
from wire import OWN_PROFILE, REGISTER, wait_until

from client_api import ConnectionLost, JellyClient, MessageEvent, Profile, ReconnectPolicy, Sent, State
from jelly.client.connection_manager import ConnectionManager
from jelly.client.requests import Request
from jelly.codec import Frame

PROFILE = response(OWN_PROFILE, username="alice")
PROMPT = 2.0
"""Seconds within which a close that need not wait must return; far less than its timeout."""


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer) -> JellyClient:
    return new_client(script.port, Recorder())


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Fail a test whose clients leave a socket open."""
    before = descriptors()
    yield
    wait_until(lambda: descriptors() <= before, 2)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a host that does not answer: its backlog is full, so the system drops connection
    attempts."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    yield listener.getsockname()[1]
    for sock in (listener, *fillers):
        sock.close()


def start_close(client: JellyClient, timeout: float = 10.0) -> threading.Thread:
    """Close in a thread; return when the close has begun."""
    thread = threading.Thread(target=client.close, args=[timeout])
    thread.start()
    wait_until(lambda: not client._manager._lifecycle.is_open)
    return thread


def assert_nothing_runs() -> None:
    """Assert that no thread of a client is left."""
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("jelly-client")]


# --- what it waits for ----------------------------------------------------------------------------


@pytest.mark.parametrize("features", [None, ("ack",)])
def test_it_waits_for_answers(alice: JellyClient, script: ScriptedServer, features: tuple[str, ...] | None) -> None:
    """Requests made before get their responses, also those still queued; requests made later fail
    at once."""
    peer = script.log_in(alice, features)
    profiles = [alice.own_profile() for _ in range(3)]
    closer = start_close(alice)
    late = error(alice.own_profile())
    assert (type(late), late.sent, str(late)) == (ConnectionLost, False, "The client is closed: make a new one.")
    for _ in profiles:
        peer.receive_request(OWN_PROFILE)
        peer.send(PROFILE)
    closer.join(PROMPT)
    assert not closer.is_alive()
    assert [profile.result(0) for profile in profiles] == [Profile("alice")] * 3
    assert_nothing_runs()


def test_it_waits_for_callbacks(new_client: NewClient, script: ScriptedServer) -> None:
    """Everything received is delivered before it returns, and listeners are called."""

    class Slow(Recorder):
        def on_message(self, event: MessageEvent) -> None:
            assert go.wait(10)
            super().on_message(event)

    go, slow, called = threading.Event(), Slow(), threading.Event()
    alice = new_client(script.port, slow)
    peer = script.log_in(alice)
    profile = alice.own_profile()
    profile.add_done_callback(lambda _: called.set())
    peer.send(message("1") + message("2") + PROFILE)
    result(profile)
    closer = start_close(alice)
    assert not called.is_set()
    go.set()
    closer.join(PROMPT)
    assert (slow.messages, called.is_set()) == (["1", "2"], True)
    assert_nothing_runs()


def test_a_listener_that_makes_a_request(
    alice: JellyClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response whose listener was not called yet counts as an open request."""
    looked = threading.Event()
    is_idle, complete = ConnectionManager._wait_until_idle, Request.complete

    def look(manager: ConnectionManager, deadline: float) -> bool:
        found = is_idle(manager, deadline)
        looked.set()
        return found

    def complete_late(request: Request[Any], frame: Frame, may_be_original: bool) -> None:
        looked.wait(0.2)  # the response must not be complete before the listener is added
        complete(request, frame, may_be_original)

    monkeypatch.setattr(ConnectionManager, "_wait_until_idle", look)
    monkeypatch.setattr(Request, "complete", complete_late)
    peer = script.log_in(alice)
    again: list[Future[Profile]] = []
    alice.own_profile().add_done_callback(lambda _: again.append(alice.own_profile()))
    closer = start_close(alice)
    for _ in range(2):
        peer.receive_request(OWN_PROFILE)
        peer.send(PROFILE)
    closer.join(PROMPT)
    assert result(again[0]) == Profile("alice")
    assert_nothing_runs()


def test_it_waits_no_longer_than_it_is_told(alice: JellyClient, script: ScriptedServer) -> None:
    """Requests without a response then fail, and their listeners are called before close()
    returns."""
    peer = script.log_in(alice, features=None)
    failures: list[object] = []
    sent, unsent = alice.own_profile(), alice.own_profile()
    for future in (sent, unsent):
        future.add_done_callback(lambda future: failures.append(error(future).sent))
    peer.receive_request(OWN_PROFILE)
    start = time.monotonic()
    alice.close(timeout=0.2)
    assert 0.2 <= time.monotonic() - start < PROMPT
    assert failures == [True, False]
    assert (
        str(error(sent))
        == f"The connection to 127.0.0.1:{script.port} was lost before there was a response: the client was closed."
    )
    assert_nothing_runs()


def test_a_callback_that_makes_a_request_after_a_connection_loss(new_client: NewClient, script: ScriptedServer) -> None:
    """If the connection is lost while close() waits for a callback, the callback's next request
    fails at once."""

    class Slow(Recorder):
        def on_message(self, event: MessageEvent) -> None:
            assert go.wait(10)
            late.append(event.reply("too late"))

    go, late = threading.Event(), list[Future[Sent]]()
    alice = new_client(script.port, Slow())
    peer = script.log_in(alice)
    profile = alice.own_profile()
    peer.say("hello")
    closer = start_close(alice)
    peer.close()
    assert error(profile).sent is True
    go.set()
    closer.join(PROMPT)
    assert not closer.is_alive()
    assert error(late[0]).sent is False
    assert_nothing_runs()


# --- wherever the client stands -------------------------------------------------------------------


def test_with_a_pending_login(alice: JellyClient, script: ScriptedServer) -> None:
    """A login that gets its response in time succeeds, and then the client is closed."""
    login = alice.login("alice", "pw")
    peer = script.accept()
    peer.receive()
    closer = start_close(alice)
    peer.answer(0x11, username="alice", token=7, features=[])
    assert result(login).token == 7
    closer.join(PROMPT)
    assert peer.is_closed_by_server()
    assert alice.state is State.CLOSED
    assert_nothing_runs()


def test_with_a_login_that_is_not_answered(alice: JellyClient, script: ScriptedServer) -> None:
    """The future says that the request was sent; so does that of a registration."""
    login, registration = alice.login("alice", "pw"), alice.register("dora", "pw")
    for _ in range(2):
        script.accept().receive()
    alice.close(timeout=0.1)
    for future in (login, registration):
        failure = error(future)
        assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert_nothing_runs()


def test_while_connecting_to_a_host_that_does_not_answer(new_client: NewClient, silent_port: int) -> None:
    """It returns in time, and the futures say that nothing was sent."""
    client = new_client(silent_port)
    login, registration = client.login("alice", "pw"), client.register("dora", "pw")
    start = time.monotonic()
    client.close(timeout=0.2)
    assert time.monotonic() - start < PROMPT
    for future in (login, registration):
        failure = error(future)
        assert (type(failure), failure.sent) == (ConnectionLost, False)
    assert_nothing_runs()


def test_a_host_that_does_not_answer(new_client: NewClient, silent_port: int) -> None:
    """Without a close, `connect_timeout` ends it."""
    failure = error(new_client(silent_port, connect_timeout=0.2).login("alice", "pw"))
    assert (type(failure), failure.sent) == (ConnectionLost, False)
    assert str(failure) == f"Cannot connect to 127.0.0.1 port {silent_port}: timed out."


@pytest.mark.parametrize("pause", [0.01, 60.0])
def test_while_reconnecting(new_client: NewClient, script: ScriptedServer, pause: float) -> None:
    """It waits neither for a pause nor for an attempt."""
    recorder = Recorder()
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(pause=pause, jitter=0))
    peer = script.log_in(alice)
    script.close()
    peer.close()
    recorder.wait_for_state(State.RECONNECTING)
    start = time.monotonic()
    alice.close()
    assert time.monotonic() - start < PROMPT
    assert recorder.changes[-1][:2] == (State.RECONNECTING, State.CLOSED)
    assert_nothing_runs()


def test_while_the_server_thinks_about_the_token(alice: JellyClient, script: ScriptedServer) -> None:
    """It aborts an attempt that has no response yet."""
    script.log_in(alice).close()
    peer = script.accept()
    peer.receive()
    start = time.monotonic()
    alice.close()
    assert time.monotonic() - start < PROMPT
    assert peer.is_closed_by_server()
    assert_nothing_runs()


def test_when_the_connection_is_lost_meanwhile(alice: JellyClient, script: ScriptedServer) -> None:
    """Then there is nothing left to wait for, and the client does not reconnect."""
    peer = script.log_in(alice)
    profile = alice.own_profile()
    closer = start_close(alice)
    peer.receive_request(OWN_PROFILE)
    peer.close()
    assert error(profile).sent is True
    closer.join(PROMPT)
    assert not closer.is_alive()
    assert isinstance(alice.receiver, Recorder)
    assert alice.receiver.changes[-1][:2] == (State.ONLINE, State.CLOSED)
    assert_nothing_runs()


def test_while_the_server_floods(alice: JellyClient, script: ScriptedServer) -> None:
    """A server that never stops sending does not delay it."""
    peer = script.log_in(alice)

    def flood() -> None:
        try:
            while True:
                peer.send(message("x") * 100)
        except OSError:
            pass

    flooder = threading.Thread(target=flood)
    flooder.start()
    assert isinstance(alice.receiver, Recorder)
    alice.receiver.contents(100)
    start = time.monotonic()
    alice.close(timeout=10)
    assert time.monotonic() - start < 5
    flooder.join(PROMPT)
    assert_nothing_runs()


def test_a_host_whose_first_address_does_not_answer(
    new_client: NewClient, script: ScriptedServer, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second address still gets half of the time."""
    look_up = socket.getaddrinfo

    def find_two(host: str, port: int, **options: int) -> list[object]:
        return [*look_up(host, silent_port, **options), *look_up(host, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", find_two)
    start = time.monotonic()
    login = new_client(script.port, connect_timeout=3).login("alice", "pw")
    script.accept_login()
    result(login)
    assert 1.5 <= time.monotonic() - start < 3


# --- more than once -------------------------------------------------------------------------------


def test_twice(alice: JellyClient, script: ScriptedServer) -> None:
    """The second call does nothing; there is one event only."""
    script.log_in(alice)
    alice.close()
    alice.close()
    assert isinstance(alice.receiver, Recorder)
    assert [state for _, state, _ in alice.receiver.changes].count(State.CLOSED) == 1
    assert alice.wait(0)


def test_from_several_threads_at_once(alice: JellyClient, script: ScriptedServer) -> None:
    """Each call returns when the client is closed, and not before."""
    peer = script.log_in(alice)
    profile = alice.own_profile()
    left: list[list[str]] = []

    def close() -> None:
        alice.close()
        left.append([thread.name for thread in threading.enumerate() if thread.name.startswith("jelly-client")])

    closers = [threading.Thread(target=close) for _ in range(8)]
    for closer in closers:
        closer.start()
    peer.receive_request(OWN_PROFILE)
    assert left == []
    peer.send(PROFILE)
    assert result(profile) == Profile("alice")
    for closer in closers:
        closer.join(PROMPT)
    assert left == [[]] * 8


def test_with_and_an_exception(new_client: NewClient, script: ScriptedServer) -> None:
    """The exception leaves the block, and the client is closed."""
    alice = new_client(script.port)
    peer = script.log_in(alice)
    with pytest.raises(ZeroDivisionError), alice:
        raise ZeroDivisionError
    assert alice.state is State.CLOSED
    assert peer.is_closed_by_server()
    assert_nothing_runs()


def test_a_client_that_did_nothing(new_client: NewClient) -> None:
    """There is nothing to end; the event comes all the same."""
    recorder = Recorder()
    new_client(1, recorder).close()
    assert recorder.changes == [(State.OFFLINE, State.CLOSED, recorder.wait_for_state(State.CLOSED).reason)]
    assert_nothing_runs()


# --- nothing is left ------------------------------------------------------------------------------


def test_no_descriptor_is_left(service: Service, join: Join) -> None:
    """After twenty clients that worked, failed, registered and reconnected, as many are open as
    before."""
    with join("carol") as carol:
        result(carol.own_profile())
    before, threads = descriptors("socket:", "pipe:"), threading.active_count()
    for number in range(5):
        with join("alice") as alice, join("bob") as bob:
            result(alice.register(f"u{number}", "pw"))
            assert error(alice.register("alice", "pw")) is not None
            service.cut()
            assert error(bob.login("bob", "wrong")) is not None
    wait_until(lambda: descriptors("socket:", "pipe:") <= before)
    wait_until(lambda: threading.active_count() <= threads)


def test_the_token_stays_good(service: Service, new_client: NewClient) -> None:
    """close() is no logout: the token continues the session, also in another process."""
    with new_client(service.port, features=service.features) as first:
        token = result(first.login("alice", "pw")).token
    with new_client(service.port, features=service.features) as second:
        assert result(second.resume("alice", token)).username == "alice"


def test_out_of_descriptors(new_client: NewClient, script: ScriptedServer) -> None:
    """Then the future fails, as if the server could not be reached; later the client works
    again."""
    alice = new_client(script.port)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() - 1, usual[1]))
    try:
        login, registration = alice.login("alice", "pw"), alice.register("dora", "pw")
        failures = [error(login), error(registration)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert [(type(failure), failure.sent) for failure in failures] == [(ConnectionLost, False)] * 2
    assert "Too many open files" in str(failures[0])
    assert alice.state is State.OFFLINE
    script.log_in(alice)


@pytest.mark.parametrize("names", [("jelly-client-network", "jelly-client-register"), (CALLBACK_THREAD,)])
def test_out_of_threads(
    new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """The same happens if the system cannot start a thread, whichever it is."""
    alice = new_client(script.port)
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name in names:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    for future in (alice.login("alice", "pw"), alice.register("dora", "pw")):
        failure = error(future)
        assert (type(failure), failure.sent) == (ConnectionLost, False)
    monkeypatch.undo()
    registration = alice.register("dora", "pw")
    peer = script.accept()
    peer.receive_request(REGISTER)
    peer.answer(REGISTER, username="dora")
    assert result(registration) == "dora"


def test_a_close_without_threads(new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns all the same, and the waiting callbacks are called."""
    recorder, called = Recorder(), threading.Event()
    alice = new_client(1, recorder)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    alice.login("alice", "pw").add_done_callback(lambda _: called.set())
    start = time.monotonic()
    alice.close()
    assert time.monotonic() - start < PROMPT
    assert called.is_set()
    assert [state for _, state, _ in recorder.changes] == [State.CLOSED]
