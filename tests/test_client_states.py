"""The states of a client: every change in the table of `State`, with its reason, and no other."""

import threading

import pytest
from client_tools import BEGIN, SYSTEM, NewClient, Recorder, ScriptedServer, error, notice, result
from wire import LOGOUT, RECONNECT, SERVER_BUSY, SERVER_ERROR, wait_until

from client_api import FEATURES, ConnectionLost, JellyClient, Reason, ReconnectPolicy, RequestRejected, State

OFFLINE, CONNECTING, ONLINE, RECONNECTING, CLOSED = State


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> JellyClient:
    return new_client(script.port, recorder)


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


def test_the_old_name_of_a_reason() -> None:
    """LINE_CUT is an alias of CONNECTION_LOST; the name and the value are the new ones."""
    assert len({Reason.LINE_CUT, Reason.CONNECTION_LOST}) == 1
    assert (Reason.LINE_CUT.name, Reason.LINE_CUT.value) == ("CONNECTION_LOST", "connection lost")


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
