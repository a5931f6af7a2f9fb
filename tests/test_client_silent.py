"""A client with several addresses and servers that accept connections, but do nothing."""

import signal
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from client_tools import (
    NEVER,
    QUICK,
    SYSTEM,
    NewClient,
    Recorder,
    ScriptedServer,
    Scripts,
    error,
    has_connection,
    name_of,
    result,
)
from wire import HEARTBEAT, LOGIN, OWN_PROFILE, PERSON_MESSAGE, RECONNECT, Wire, register, wait_until

from client_api import ConnectionLost, Reason, RequestTimeout, State
from faults.process import Server


@pytest.mark.parametrize("begins_with", [LOGIN, RECONNECT])
def test_a_frozen_server(new_client: NewClient, scripts: Scripts, recorder: Recorder, begins_with: int) -> None:
    """It accepts connections and does nothing: after `connect_timeout` it is given up."""
    alice = new_client(1, recorder, addresses=scripts.addresses, reconnect=NEVER, connect_timeout=2)
    first, second = scripts.of(alice)
    frozen, other = (first, second) if begins_with == LOGIN else (second, first)
    if begins_with == RECONNECT:
        first.log_in(alice).close()
        start = time.monotonic()
    else:
        start = time.monotonic()
        alice.login("alice", "pw")
    other.accept_login()
    assert time.monotonic() - start >= 2
    recorder.wait_for_state(State.ONLINE)
    peer = frozen.accept()
    assert peer.receive().type == begins_with
    assert peer.is_closed_by_server()
    assert frozen.accept().receive().type == 0x20  # the client has asked whether it runs


def test_only_frozen_servers(new_client: NewClient, scripts: Scripts) -> None:
    """The error names each, and says that it is not known whether something was done."""
    alice = new_client(1, addresses=scripts.addresses, connect_timeout=0.1)
    failure = error(alice.login("alice", "pw"))
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert str(failure).count("(no answer in time)") == 2


@pytest.mark.parametrize("sign_of_life", ["answer", "close", "refuse"])
def test_a_slow_server(new_client: NewClient, scripts: Scripts, sign_of_life: str) -> None:
    """A server that runs may take its time for a login: it lets one wait while somebody guesses
    passwords. So the client waits."""
    alice = new_client(1, addresses=scripts.addresses, connect_timeout=3)
    first, second = scripts.of(alice)
    login = alice.login("alice", "pw")
    peer = first.accept()
    peer.receive_request(LOGIN)
    if sign_of_life == "refuse":
        first.close()
        assert peer.is_silent(3.5)  # longer than a frozen server has
    else:
        probe = first.accept()
        assert probe.receive() == (1, 0x20, 0, b"")
        if sign_of_life == "answer":
            probe.answer(0x20, 0x32, error="unknown_type")
            assert probe.is_closed_by_server()
        else:
            probe.close()
            assert peer.is_silent(2)
    peer.answer(LOGIN, username="alice", token=7, features=[])
    result(login)
    assert not has_connection(second)


def test_an_answer_in_the_last_moment(new_client: NewClient, scripts: Scripts) -> None:
    """What came while the client asked whether the server runs counts."""
    alice = new_client(1, addresses=scripts.addresses, connect_timeout=3)
    first, second = scripts.of(alice)
    login = alice.login("alice", "pw")
    peer = first.accept()
    peer.receive_request(LOGIN)
    probe = first.accept()
    probe.receive()
    peer.answer(LOGIN, username="alice", token=7, features=[])
    assert probe.is_closed_by_server()
    result(login)
    assert not has_connection(second)


def test_the_only_server_may_be_silent(new_client: NewClient, script: ScriptedServer) -> None:
    """There is no other one, so the client asks nothing, and waits for `request_timeout`."""
    alice = new_client(script.port, connect_timeout=0.1, request_timeout=0.5)
    assert type(error(alice.login("alice", "pw"))) is RequestTimeout
    script.accept()
    assert not has_connection(script)


def test_a_close_while_it_asks(new_client: NewClient, scripts: Scripts) -> None:
    """It ends at once."""
    alice = new_client(1, addresses=scripts.addresses, connect_timeout=1)
    first, _ = scripts.of(alice)
    login = alice.login("alice", "pw")
    first.accept().receive_request(LOGIN)
    assert first.accept().receive().type == 0x20
    alice.close(timeout=0.1)
    failure = error(login)
    assert (type(failure), failure.sent) == (ConnectionLost, True)


def test_a_server_that_freezes(new_client: NewClient, scripts: Scripts, recorder: Recorder) -> None:
    """One that leaves a request without a response, and does not answer on a second connection
    either, is left. Messages are sent again at the next one."""
    options: dict[str, Any] = {"reconnect": NEVER, "connect_timeout": 2, "heartbeat": 0.5}
    alice = new_client(1, recorder, addresses=scripts.addresses, **options)
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    start = time.monotonic()
    profile, sent = alice.own_profile(), alice.send_message("bob", "hello")
    other = second.accept_login()
    assert time.monotonic() - start >= 1
    failure = error(profile)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert isinstance(recorder.wait_for_state(State.RECONNECTING).error, TimeoutError)
    assert peer.is_closed_by_server()
    assert other.receive_request(PERSON_MESSAGE)["content"] == "hello"
    other.answer(PERSON_MESSAGE)
    result(sent)


def test_a_slow_response(new_client: NewClient, scripts: Scripts) -> None:
    """A server that runs, or that sends something on the connection meanwhile, is not left."""
    alice = new_client(1, addresses=scripts.addresses, reconnect=NEVER, connect_timeout=3, heartbeat=0.5)
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    with first.accept() as probe:
        assert probe.receive().type == 0x20
        probe.answer(0x20, 0x32, error="unknown_type")
        assert probe.is_closed_by_server()
    peer.answer(OWN_PROFILE, username="alice")
    assert result(profile).username == "alice"
    peer.reset()
    peer = second.accept_login()
    assert alice.wait_until_online(10)
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    probe = second.accept()
    peer.notify(SYSTEM, event="presence", friend="bob", online=True)
    assert probe.is_closed_by_server()  # without an answer
    peer.answer(OWN_PROFILE, username="alice")
    assert result(profile).username == "alice"
    assert not has_connection(first)


def test_an_idle_connection(new_client: NewClient, scripts: Scripts) -> None:
    """A server that sends nothing for long is asked whether it runs; if it does not answer, it is
    left."""
    alice = new_client(1, addresses=scripts.addresses, reconnect=NEVER, connect_timeout=3, heartbeat=0.1)
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    for _ in range(2):
        assert peer.receive_request(0x20) == {}
        peer.answer(0x20, 0x32, error="unknown_type")
    second.accept_login()
    assert first.accept().receive().type == 0x20
    assert peer.is_closed_by_server()


@pytest.mark.parametrize("features", [("ack",), None], ids=["modern", "classic"])
@pytest.mark.parametrize("reconnects", [True, False])
def test_nothing_comes_any_more(
    new_client: NewClient, script: ScriptedServer, recorder: Recorder, features: Any, reconnects: bool
) -> None:
    """With one address, too: the server is asked for something cheap, and without an answer in time
    the connection is made anew, although heartbeats still go out."""
    alice = new_client(
        script.port,
        recorder,
        heartbeat=0.05 if features else 0.2,  # a classic client pauses after each
        request_timeout=0.3 if features else 1.0,
        reconnect=QUICK if reconnects else False,
    )
    type, values = (0x20, {}) if features else (OWN_PROFILE, {"username": "alice"})
    peer = script.log_in(alice, features)
    for _ in range(2):
        assert peer.receive_request(type) == values
        peer.answer(type, 0x32, error="unknown_type")
    assert alice.state is State.ONLINE
    future = alice.send_message("bob", "hello")
    peer.receive_request(PERSON_MESSAGE)
    peer.answer(PERSON_MESSAGE)
    result(future)
    assert peer.receive_request(type) == values
    frames: list[int] = []
    while frames.count(HEARTBEAT) < 3:  # the other direction works
        frames.append(peer.receive().type)
    state = State.RECONNECTING if reconnects else State.OFFLINE
    assert isinstance(recorder.wait_for_state(state, Reason.CONNECTION_LOST).error, RequestTimeout)
    assert peer.is_closed_by_server()
    if reconnects:
        with script.accept_login(features) as peer:
            assert alice.wait_until_online(10)
            future = alice.send_message("bob", "again")
            peer.receive_request(PERSON_MESSAGE)
            peer.answer(PERSON_MESSAGE)
            result(future)


def test_a_real_server_that_is_quiet(port: int, new_client: NewClient, recorder: Recorder) -> None:
    """It answers what it is asked, so the connection stays, and nothing is logged."""
    register(port, "alice")
    alice = new_client(port, recorder, heartbeat=0.02, reconnect=False)
    result(alice.login("alice", "pw"))
    stream = alice._manager._pipeline.stream
    assert stream is not None
    for _ in range(3):
        wait_until(lambda began=stream.last_read_at: stream.last_read_at > began)
    assert alice.state is State.ONLINE


@pytest.mark.parametrize("case", ["one address", "classic", "no reconnect"])
def test_who_asks_nothing(new_client: NewClient, scripts: Scripts, case: str) -> None:
    """On a second connection, that is: a client that would not go to another server, or whose
    server may be the original one."""
    options: dict[str, Any] = {"heartbeat": 0.15, "connect_timeout": 0.1}
    if case == "one address":
        options["addresses"] = scripts.addresses[:1]
    elif case == "no reconnect":
        options["reconnect"] = False
    alice = new_client(1, **{"addresses": scripts.addresses, **options})
    first = scripts.of(alice)[0]
    peer = first.log_in(alice, features=None if case == "classic" else ("ack",))
    alice.own_profile()
    types = [peer.receive().type for _ in range(10)]
    assert set(types) == {0x23, OWN_PROFILE}
    assert not has_connection(first)


def test_a_server_that_is_stopped(tmp_path: Path, new_client: NewClient, script: ScriptedServer) -> None:
    """A real process, frozen by a signal."""
    with Server(f"sqlite:///{tmp_path}/jelly.db") as frozen:
        register(frozen.port, "alice")
        frozen.process.send_signal(signal.SIGSTOP)
        addresses = [("127.0.0.1", frozen.port), ("127.0.0.1", script.port)]
        for _ in range(2):  # the second login begins with the address that works
            alice = new_client(1, addresses=addresses, connect_timeout=2)
            script.log_in(alice)
            assert alice.address == name_of(script)
            alice.close()


def test_a_server_that_is_stopped_under_a_connection(
    tmp_path: Path, new_client: NewClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """A client that only receives finds out, too."""
    with Server(f"sqlite:///{tmp_path}/jelly.db") as frozen:
        register(frozen.port, "alice")
        addresses = [("127.0.0.1", frozen.port), ("127.0.0.1", script.port)]
        alice = new_client(1, recorder, addresses=addresses, reconnect=NEVER, connect_timeout=3, heartbeat=0.1)
        while not alice.addresses[0].endswith(f":{frozen.port}"):
            alice = new_client(1, recorder, addresses=addresses, reconnect=NEVER, connect_timeout=3, heartbeat=0.1)
        result(alice.login("alice", "pw"))
        frozen.process.send_signal(signal.SIGSTOP)
        script.accept_login()
        recorder.wait_for_state(State.ONLINE, Reason.RECONNECTED)


def test_jelly_shows_that_it_runs(port: int) -> None:
    """It answers a type that does not exist, before a login and after it, and goes on."""
    register(port, "alice")
    with Wire(port) as alice:
        assert alice.refused(0x20) == "unknown_type"
        alice.login("alice", features=["ack"])
        assert alice.refused(0x20) == "unknown_type"
        alice.ok(OWN_PROFILE)


def test_a_frozen_server_with_tls(new_client: NewClient, scripts: Scripts) -> None:
    """The handshake of TLS has the same time as the connection."""
    alice = new_client(1, addresses=scripts.addresses, tls=ssl.create_default_context(), connect_timeout=0.2)
    failure = error(alice.login("alice", "pw"))
    assert (type(failure), failure.sent) == (ConnectionLost, False)
    assert str(failure).count("(timed out)") == 2
