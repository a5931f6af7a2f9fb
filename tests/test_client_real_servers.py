"""The states of a client with real servers: Jelly, and the stand-in for the original."""

import itertools
import time
from collections.abc import Iterator

import pytest
from client_tools import BEGIN, Join, NewClient, Recorder, ScriptedServer, Service, error, result
from harness import StartServer
from original import OriginalServer
from wire import HEARTBEAT, OWN_PROFILE, UPDATE_PROFILE, logged_in, register, wait_until

from client_api import (
    Reason,
    ReconnectPolicy,
    State,
    SystemEvent,
)
from faults.proxy import Proxy
from jelly.session_lifecycle import PASSWORD_CHANGED

OFFLINE, CONNECTING, ONLINE, RECONNECTING, CLOSED = State


@pytest.mark.parametrize("service", ["jelly"], indirect=True)
def test_a_new_password_brings_a_new_token(service: Service, join: Join, recorder: Recorder) -> None:
    """The client reconnects with it, and another client can resume with it."""
    alice = join("alice", recorder)
    old = alice.token
    assert error(alice.update_profile(password="new")).code == "wrong_credentials"
    assert error(alice.update_profile(password="new", old_password="wrong")).code == "wrong_credentials"
    assert alice.token == old
    result(alice.update_profile(password="new", old_password="pw"))
    token = alice.token
    assert token not in (old, None)
    service.cut()
    recorder.wait_for_state(RECONNECTING)
    assert alice.wait_until_online(10)
    assert alice.token == token
    result(alice.logout())
    assert alice.token is None


def test_a_password_that_is_changed_elsewhere(
    start_server: StartServer, new_client: NewClient, recorder: Recorder
) -> None:
    """The client that is told so stops; one that was away is told that its token is not valid."""
    server = start_server()
    register(server.port, "alice", "bob")
    with Proxy(server.port) as proxy:
        alice = new_client(proxy.port, recorder)
        result(alice.login("alice", "pw"))
        server.store.call_soon(lambda: server.services.lifecycle.end_sessions("alice", PASSWORD_CHANGED))
        assert recorder.wait_for_state(OFFLINE).reason is Reason.PASSWORD_CHANGED
        [event] = recorder.wait_for(lambda e: isinstance(e, SystemEvent))
        assert event.event == "password_changed"
        result(alice.login("alice", "pw"))
        proxy.block()
        recorder.wait_for_state(RECONNECTING)
        with logged_in(server.port, "alice") as other:
            other.ok(UPDATE_PROFILE, password="new")
        proxy.mend()
        assert recorder.wait_for_state(OFFLINE, count=2).reason is Reason.TOKEN_REFUSED


@pytest.mark.parametrize("service", ["jelly-classic"], indirect=True)
def test_a_new_password_ends_the_token(service: Service, join: Join, recorder: Recorder) -> None:
    """The connection stays; after it is lost the token is refused, and the new password opens the
    account."""
    alice = join("alice", recorder)
    result(alice.update_profile(password="new"))
    assert alice.state is ONLINE
    service.cut()
    assert recorder.wait_for_state(OFFLINE).reason is Reason.TOKEN_REFUSED
    assert result(alice.login("alice", "new")).username == "alice"


def test_a_server_that_starts_anew(start_server: StartServer, new_client: NewClient, recorder: Recorder) -> None:
    """The token survives a restart of the server, and so does the session of the client."""
    server = start_server()
    register(server.port, "alice")
    with Proxy(server.port) as proxy:
        alice = new_client(proxy.port, recorder)
        result(alice.login("alice", "pw"))
        server.stop()
        recorder.wait_for_state(RECONNECTING)
        proxy.target = start_server().port
        recorder.wait_for_state(ONLINE, count=2)
        assert result(alice.own_profile()).username == "alice"


def test_pauses_grow_while_the_server_cannot_be_reached(
    original: OriginalServer, new_client: NewClient, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt at once, the next after growing pauses; when the server is there again, the
    client reconnects."""
    policy = ReconnectPolicy(pause=0.02, factor=2, jitter=0)
    tries: list[float] = []
    pauses = policy.pauses

    def noted() -> Iterator[float]:
        for pause in pauses():
            tries.append(time.monotonic())
            yield pause

    monkeypatch.setattr(ReconnectPolicy, "pauses", lambda _: noted())
    alice = new_client(original.port, recorder, reconnect=policy)
    result(alice.login("alice", "pw"))
    original.stop_listening()
    original.cut_all()
    recorder.wait_for_state(RECONNECTING)
    wait_until(lambda: len(tries) >= 5)
    original.listen_again()
    recorder.wait_for_state(ONLINE, count=2)
    between = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert all(took >= pause for took, pause in zip(between, pauses(), strict=False))


def test_two_logins_at_the_original(original: OriginalServer, new_client: NewClient, recorder: Recorder) -> None:
    """The original keeps both connections: nobody is thrown out."""
    first, second = new_client(original.port, recorder), new_client(original.port)
    result(first.login("alice", "pw"))
    result(second.login("alice", "pw"))
    assert result(first.own_profile()).username == "alice"
    assert recorder.changes == BEGIN


def test_silence_of_the_client(original: OriginalServer, new_client: NewClient, recorder: Recorder) -> None:
    """Heartbeats keep the connection: a server that wants one every 0.4 s never closes it."""
    original.silence = 0.4
    alice = new_client(original.port, recorder, heartbeat=0.1)
    result(alice.login("alice", "pw"))
    (connection,) = original.connections_of("alice")
    wait_until(lambda: len(connection.frames) >= 10)
    assert connection.is_open
    assert not original.stalled
    assert recorder.changes == BEGIN


@pytest.fixture
def original() -> Iterator[OriginalServer]:
    """The stand-in for the original, with alice and bob."""
    with OriginalServer() as server:
        register(server.port, "alice", "bob")
        yield server


def test_another_kind_of_client_takes_over_without_a_word(
    start_server: StartServer, new_client: NewClient, recorder: Recorder
) -> None:
    """A classic client is not told about a takeover. It tries to reconnect, its token is refused,
    and the newer login is left in peace."""
    port = start_server().port
    register(port, "alice")
    alice = new_client(port, recorder, features=())
    result(alice.login("alice", "pw"))
    with logged_in(port, "alice") as other:
        assert recorder.wait_for_state(OFFLINE).reason is Reason.TOKEN_REFUSED
        other.ok(OWN_PROFILE)


def test_two_classic_clients_do_not_fight_for_ever(start_server: StartServer, new_client: NewClient) -> None:
    """The token of the first one is refused after the second login, which keeps the account."""
    port = start_server(classic_gap=1).port
    register(port, "alice")
    recorders = [Recorder(), Recorder()]
    clients = [new_client(port, recorder, features=()) for recorder in recorders]
    for client in clients:
        result(client.login("alice", "pw"))
    assert recorders[0].wait_for_state(OFFLINE).reason is Reason.TOKEN_REFUSED
    assert clients[1].state is ONLINE
    result(clients[1].own_profile())


def test_a_server_that_only_closes(script: ScriptedServer, new_client: NewClient, recorder: Recorder) -> None:
    """A server without features that closes again and again tells of no takeover: the client comes
    back each time."""
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(pause=0.01, maximum=0.01))
    peer = script.log_in(alice, features=None)
    for _ in range(10):
        assert peer.receive().type == HEARTBEAT  # unread, it would make the close a reset
        peer.close()
        peer = script.accept_login(features=None)
    recorder.wait_for_state(ONLINE, Reason.RECONNECTED, count=10)
    assert {reason for _, _, reason in recorder.changes} == {
        Reason.LOGIN, Reason.LOGGED_IN, Reason.CONNECTION_LOST, Reason.RECONNECTED
    }  # fmt: skip


@pytest.mark.parametrize("features", [("ack",), ()])
@pytest.mark.parametrize("reset", [False, True])
def test_cuts_at_the_original(
    original: OriginalServer, new_client: NewClient, recorder: Recorder, features: tuple[str, ...], reset: bool
) -> None:
    """However often the original ends the connection within a minute, the client comes back, and
    the second client of the user is left in peace."""
    alice = new_client(original.port, recorder, features=features)
    result(alice.login("alice", "pw"))
    with logged_in(original.port, "alice") as other:
        for number in range(1, 7):
            connection = original.connections[-2 if number == 1 else -1]
            wait_until(lambda: any(frame.type == HEARTBEAT for frame in connection.frames))  # noqa: B023 - it waits here
            connection.end(reset)
            recorder.wait_for_state(ONLINE, Reason.RECONNECTED, count=number)
        other.ok(OWN_PROFILE)
    assert result(alice.own_profile()).username == "alice"
    assert not [reason for _, _, reason in recorder.changes if reason is Reason.TAKEN_OVER]


def test_waiting_until_it_is_online(start_server: StartServer, new_client: NewClient) -> None:
    """It waits during a login or a reconnect, and returns whether the client is online; otherwise
    it returns at once."""
    port = start_server().port
    register(port, "alice")
    with Proxy(port) as proxy:
        alice = new_client(proxy.port)
        assert not alice.wait_until_online(10)
        alice.login("alice", "pw")
        assert alice.wait_until_online(10)
        proxy.block()
        wait_until(lambda: alice.state is RECONNECTING)
        assert not alice.wait_until_online(0.01)
        proxy.mend()
        assert alice.wait_until_online(10)
        result(alice.own_profile())
