"""The states of a client: every change in the table of `State`, with its reason, and no other."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from client_tools import (
    QUICK,
    SYSTEM,
    Join,
    NewClient,
    Recorder,
    ScriptedServer,
    Service,
    error,
    notice,
    result,
)
from harness import StartServer
from original import OriginalServer
from wire import (
    HEARTBEAT,
    LOGOUT,
    OWN_PROFILE,
    RECONNECT,
    SERVER_BUSY,
    SERVER_ERROR,
    UPDATE_PROFILE,
    logged_in,
    register,
    wait_until,
)

from client_api import (
    FEATURES,
    ConnectionLost,
    JellyClient,
    Reason,
    ReconnectPolicy,
    RequestRejected,
    State,
    SystemEvent,
)
from faults.proxy import Proxy
from jelly.session_lifecycle import PASSWORD_CHANGED

OFFLINE, CONNECTING, ONLINE, RECONNECTING, CLOSED = State
BEGIN = [(OFFLINE, CONNECTING, Reason.LOGIN), (CONNECTING, ONLINE, Reason.LOGGED_IN)]


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> JellyClient:
    return new_client(script.port, recorder)


# --- the table ------------------------------------------------------------------------------------


def test_login_and_logout(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """OFFLINE, CONNECTING, ONLINE, OFFLINE, and once more: each event has the state before and the
    reason."""
    assert (alice.state, alice.username) == (OFFLINE, None)
    for _ in range(2):
        login = alice.login("alice", "pw")
        assert (alice.state, alice.username) == (CONNECTING, None)
        peer = script.accept_login()
        result(login)
        assert (alice.state, alice.username) == (ONLINE, "alice")
        logout = alice.logout()
        peer.receive_request(LOGOUT)
        peer.close()
        result(logout)
        assert (alice.state, alice.username) == (OFFLINE, None)
    recorder.wait_for_state(OFFLINE, count=2)
    assert recorder.changes == [*BEGIN, (ONLINE, OFFLINE, Reason.LOGGED_OUT)] * 2


def test_a_login_that_fails(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """CONNECTING, then OFFLINE again; the event and the future have the same error.

    There is one attempt only.
    """
    login = alice.login("alice", "pw")
    script.refuse()
    event = recorder.wait_for_state(OFFLINE)
    assert (event.previous, event.reason) == (CONNECTING, Reason.LOGIN_FAILED)
    assert event.error is error(login)
    script.close()
    failure = error(alice.login("alice", "pw"))
    assert (type(failure), failure.sent, alice.state) == (ConnectionLost, False, OFFLINE)
    assert "Connection refused" in str(failure)
    recorder.wait_for_state(OFFLINE, count=2)
    assert len(recorder.changes) == 4


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_impossible_port(new_client: NewClient, port: int) -> None:
    """The connection fails, and nothing else happens."""
    failure = error(new_client(port).login("alice", "pw"))
    assert (type(failure), failure.sent) == (ConnectionLost, False)


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "a\0b", "no.such.host.invalid"])
def test_an_impossible_host(host: str) -> None:
    """The connection fails, for a login and for a registration."""
    with JellyClient(host, 1) as client:
        for future in (client.login("alice", "pw"), client.register("dora", "pw")):
            failure = error(future)
            assert (type(failure), failure.sent) == (ConnectionLost, False)
        assert client.state is OFFLINE


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_connection_loss_and_back(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder, is_reset: bool
) -> None:
    """ONLINE, RECONNECTING at once, ONLINE; a reset is reported as the error, an orderly close has
    none."""
    peer = script.log_in(alice)
    peer.reset() if is_reset else peer.close()
    event = recorder.wait_for_state(RECONNECTING)
    assert isinstance(event.error, ConnectionResetError) if is_reset else event.error is None
    assert alice.username == "alice"
    script.accept_login()
    recorder.wait_for_state(ONLINE, count=2)
    assert recorder.changes == [
        *BEGIN, (ONLINE, RECONNECTING, Reason.CONNECTION_LOST), (RECONNECTING, ONLINE, Reason.RECONNECTED)
    ]  # fmt: skip


def test_the_reconnect_shows_the_token_and_the_features(alice: JellyClient, script: ScriptedServer) -> None:
    """The client sends RECONNECT with the token of the login, and with the same features."""
    script.log_in(alice).close()
    values = script.accept().receive_request(RECONNECT)
    assert values == {"username": "alice", "token": 7, "features": list(FEATURES)}


def test_a_token_that_is_refused(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """After one refusal it stops: OFFLINE, with the reason and the error; a new login is
    possible."""
    script.log_in(alice).close()
    script.refuse()
    event = recorder.wait_for_state(OFFLINE)
    assert (event.previous, event.reason) == (RECONNECTING, Reason.TOKEN_REFUSED)
    assert isinstance(event.error, RequestRejected)
    assert event.error.code == "invalid_token"
    script.log_in(alice)
    assert alice.state is ONLINE


@pytest.mark.parametrize("status", [SERVER_BUSY, SERVER_ERROR])
def test_a_server_that_cannot_yet(alice: JellyClient, script: ScriptedServer, recorder: Recorder, status: int) -> None:
    """A server that is busy or fails says nothing about the token: the client tries again."""
    script.log_in(alice).close()
    with script.accept() as peer:
        peer.receive_request(RECONNECT)
        peer.answer(RECONNECT, status)
    script.accept_login()
    recorder.wait_for_state(ONLINE, count=2)


def test_giving_up(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> None:
    """When the policy allows no more attempts: OFFLINE, with the error of the last one."""
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(pause=0.01, attempts=3))
    script.log_in(alice).close()
    for _ in range(3):
        script.accept().close()
    event = recorder.wait_for_state(OFFLINE)
    assert (event.previous, event.reason, type(event.error)) == (RECONNECTING, Reason.GAVE_UP, ConnectionLost)
    assert alice.wait(0)


def test_no_reconnect(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> None:
    """With reconnect=False a lost connection leads to OFFLINE, and there is no attempt."""
    alice = new_client(script.port, recorder, reconnect=False)
    script.log_in(alice).close()
    assert recorder.wait_for_state(OFFLINE).reason is Reason.CONNECTION_LOST
    assert recorder.changes == [*BEGIN, (ONLINE, OFFLINE, Reason.CONNECTION_LOST)]
    wait_until(lambda: "jelly-client-network" not in [thread.name for thread in threading.enumerate()])


@pytest.mark.parametrize("behind", [0, 20_000])
def test_taken_over(alice: JellyClient, script: ScriptedServer, recorder: Recorder, behind: int) -> None:
    """When the server says that another login took over: OFFLINE, and the client does not
    reconnect."""
    peer = script.log_in(alice)
    peer.send(notice(SYSTEM, event="taken_over") + notice(SYSTEM, event="x", filler="x" * behind))
    peer.close()
    event = recorder.wait_for_state(OFFLINE)
    assert (event.previous, event.reason, event.error) == (ONLINE, Reason.TAKEN_OVER, None)
    assert alice.wait(1)
    script.log_in(alice).close()
    script.accept_login()
    recorder.wait_for_state(RECONNECTING)  # the takeover is forgotten by then


@pytest.mark.parametrize("state", [OFFLINE, ONLINE, RECONNECTING])
def test_closed(alice: JellyClient, script: ScriptedServer, recorder: Recorder, state: State) -> None:
    """From any state to CLOSED, which is the last event; a new login fails."""
    if state is not OFFLINE:
        peer = script.log_in(alice)
        if state is RECONNECTING:
            script.close()
            peer.close()
            recorder.wait_for_state(RECONNECTING)
    alice.close()
    assert recorder.changes[-1] == (state, CLOSED, Reason.CLOSED)
    assert (alice.state, alice.username) == (CLOSED, None)
    failure = error(alice.login("alice", "pw"))
    assert (type(failure), failure.sent, str(failure)) == (
        ConnectionLost,
        False,
        "The client is closed: make a new one.",
    )
    assert recorder.changes[-1][1] is CLOSED


@pytest.mark.parametrize("state", [CONNECTING, ONLINE, RECONNECTING])
def test_login_when_not_offline(alice: JellyClient, script: ScriptedServer, recorder: Recorder, state: State) -> None:
    """It is refused, and changes nothing."""
    first = alice.login("alice", "pw")
    peer = script.accept()
    if state is not CONNECTING:
        peer.receive()
        peer.answer(0x11, username="alice", token=7, features=[])
        result(first)
        if state is RECONNECTING:
            script.close()
            peer.close()
            recorder.wait_for_state(RECONNECTING)
    for future in (alice.login("alice", "pw"), alice.resume("alice", 7)):
        assert error(future).code == "already_logged_in"
    assert alice.state is state


def test_logout_while_reconnecting(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """The attempts end: OFFLINE, logged out; the future says that the server could not be told."""
    peer = script.log_in(alice)
    script.close()
    peer.close()
    recorder.wait_for_state(RECONNECTING)
    failure = error(alice.logout())
    assert (type(failure), failure.sent) == (ConnectionLost, False)
    event = recorder.wait_for_state(OFFLINE)
    assert (event.previous, event.reason) == (RECONNECTING, Reason.LOGGED_OUT)


def test_logout_while_the_server_thinks_about_the_token(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """The client does not go online any more, although the server may accept the token."""
    script.log_in(alice).close()
    peer = script.accept()
    peer.receive_request(RECONNECT)
    assert isinstance(error(alice.logout()), ConnectionLost)
    assert peer.is_closed_by_server()
    recorder.wait_for_state(OFFLINE, Reason.LOGGED_OUT)
    assert ONLINE not in [state for _, state, _ in recorder.changes[2:]]


def test_logout_when_offline(alice: JellyClient) -> None:
    """There is no session to end."""
    assert error(alice.logout()).code == "not_logged_in"


def test_wait(alice: JellyClient, script: ScriptedServer) -> None:
    """It returns when the client is OFFLINE or CLOSED, and not before."""
    assert alice.wait()
    peer = script.log_in(alice)
    assert not alice.wait(0.02)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(alice.wait(10)))
    thread.start()
    peer.notify(SYSTEM, event="taken_over")
    peer.close()
    thread.join()
    assert results == [True]


def test_resume_and_connection_loss(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """A client that logged in with a token reconnects with the same token."""
    resume = alice.resume("alice", -5)
    peer = script.accept_login()
    assert result(resume).token == -5
    peer.close()
    assert script.accept().receive_request(RECONNECT)["token"] == -5
    assert recorder.wait_for_state(ONLINE).reason is Reason.LOGGED_IN


def test_a_connection_loss_during_the_logout(alice: JellyClient, script: ScriptedServer, recorder: Recorder) -> None:
    """After a logout the client does not reconnect."""
    peer = script.log_in(alice, features=None)
    profile, logout = alice.own_profile(), alice.logout()
    peer.receive_request(0x1F)
    peer.close()
    assert (error(profile).sent, error(logout).sent) == (True, False)
    assert recorder.wait_for_state(OFFLINE).reason is Reason.LOGGED_OUT


def test_login_in_the_callback_of_a_failure(alice: JellyClient, script: ScriptedServer) -> None:
    """As soon as a login has failed, another login is possible."""
    again = threading.Event()
    first = alice.login("alice", "pw")
    first.add_done_callback(lambda _: alice.login("alice", "pw"))
    first.add_done_callback(lambda _: again.set())
    script.refuse()
    assert again.wait(10)
    script.accept_login()
    wait_until(lambda: alice.state is ONLINE)


# --- real servers ---------------------------------------------------------------------------------


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


# --- the policy -----------------------------------------------------------------------------------


def take(policy: ReconnectPolicy, count: int, random: float = 0.0) -> list[float]:
    return list(itertools.islice(policy.pauses(lambda: random), count))


def test_the_first_try_is_made_at_once() -> None:
    """Then the pauses double, up to the maximum."""
    assert take(ReconnectPolicy(), 9) == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert take(ReconnectPolicy(pause=3, factor=3, maximum=30), 5) == [0, 3, 9, 27, 30]


def test_jitter_shortens_a_pause_by_a_random_part() -> None:
    """At most the part `jitter` of each pause is left out; the growth does not depend on it."""
    assert take(ReconnectPolicy(jitter=0.5), 4, random=1.0) == [0, 0.5, 1, 2]
    assert take(ReconnectPolicy(jitter=0.5), 4, random=0.5) == [0, 0.75, 1.5, 3]
    assert take(ReconnectPolicy(jitter=0), 4, random=1.0) == [0, 1, 2, 4]


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_attempts(attempts: int) -> None:
    """There are as many attempts as the policy allows."""
    assert len(take(ReconnectPolicy(attempts=attempts), 10)) == attempts


def test_usual_jitter_is_random() -> None:
    """By default, two clients do not reconnect at the same moments."""
    policy = ReconnectPolicy()
    first, second = (list(itertools.islice(policy.pauses(), 6)) for _ in range(2))
    assert first != second
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(first[1:]))


def test_a_short_connection_does_not_start_the_pauses_again(
    new_client: NewClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """A server that accepts the token and closes again and again is not hammered: these attempts
    count, too."""
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(pause=0.01, attempts=4))
    script.log_in(alice).close()
    for _ in range(4):
        script.accept_login().close()
    assert recorder.wait_for_state(OFFLINE).reason is Reason.GAVE_UP


def test_a_policy_without_a_try(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> None:
    """A lost connection leads to GAVE_UP at once."""
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(attempts=0))
    script.log_in(alice).close()
    assert recorder.wait_for_state(OFFLINE).reason is Reason.GAVE_UP


# --- the constructor ------------------------------------------------------------------------------


def test_the_constructor_does_no_io() -> None:
    """It starts no thread, opens nothing, and accepts an impossible host; so does a close after
    it."""
    threads = threading.active_count()
    with JellyClient("no.such.host.invalid", 1) as client:
        assert threading.active_count() == threads
    assert client.state is CLOSED


@pytest.mark.parametrize(
    ("url", "host", "port", "has_tls"),
    [
        ("jelly://example.org", "example.org", 20000, False),
        ("jelly://example.org:5/", "example.org", 5, False),
        ("jellys://[::1]:20001", "::1", 20001, True),
    ],
)
def test_from_url(url: str, host: str, port: int, has_tls: bool) -> None:
    """The scheme says whether there is TLS, and the port may be left out."""
    with JellyClient.from_url(url, reconnect=QUICK) as client:
        endpoint = client._manager._endpoint
    server = endpoint.addresses.current
    assert (server.host, server.port, endpoint.tls is not None) == (host, port, has_tls)


@pytest.mark.parametrize(
    "url",
    ["http://x", "jelly:", "jelly://", "x:1", "jelly://h:99999", "jelly://h/room", "jelly://h?a=b", "jelly://a:b@h"],
)
def test_from_another_url(url: str) -> None:
    """Another URL raises ValueError."""
    with pytest.raises(ValueError, match=r"jelly|[Pp]ort|user name"):
        JellyClient.from_url(url)


def test_the_old_name_of_a_reason() -> None:
    """LINE_CUT is an alias of CONNECTION_LOST; the name and the value are the new ones."""
    assert len({Reason.LINE_CUT, Reason.CONNECTION_LOST}) == 1
    assert (Reason.LINE_CUT.name, Reason.LINE_CUT.value) == ("CONNECTION_LOST", "connection lost")


def test_a_receiver_that_is_empty(new_client: NewClient, script: ScriptedServer) -> None:
    """A receiver gets its events even if it counts as false, like an empty list."""

    class Inbox(Recorder, list[str]):
        pass

    inbox = Inbox()
    script.log_in(new_client(script.port, inbox))
    inbox.wait_for_state(ONLINE)


def test_an_unknown_failure_of_the_login_is_not_swallowed(
    new_client: NewClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    """A bug in the library ends the future, and the state changes, too."""

    def fail(*_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("jelly.client.handshake.open_stream", fail)
    client = new_client(script.port, recorder)
    assert isinstance(error(client.login("alice", "pw")), AssertionError)
    assert isinstance(error(client.register("dora", "pw")), AssertionError)
    assert recorder.wait_for_state(OFFLINE).reason is Reason.LOGIN_FAILED
