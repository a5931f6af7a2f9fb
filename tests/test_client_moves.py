"""A client with several addresses whose connection is lost, or whose server stops."""

import logging
import time

import pytest
from client_tools import (
    NEVER,
    SYSTEM,
    NewClient,
    Recorder,
    ScriptedServer,
    Scripts,
    error,
    has_connection,
    message,
    name_of,
    notice,
    result,
    three,
)
from wire import LOGOUT, OWN_PROFILE, RECONNECT, wait_until

from client_api import FEATURES, JellyClient, Reason, ReconnectPolicy, State


@three
def test_the_next_one_at_once(alice: JellyClient, scripts: Scripts, recorder: Recorder) -> None:
    """Without a pause it goes round, also if a connection that has just begun breaks."""
    first, second, third = scripts.of(alice)
    first.log_in(alice).close()
    assert recorder.wait_for_state(State.RECONNECTING).address == name_of(first)
    second.accept().close()
    third.accept_login().close()
    first.accept_login()
    recorder.wait_for_state(State.ONLINE, Reason.RECONNECTED, count=2)
    assert [event.address for event in recorder.wait_for(lambda e: getattr(e, "state", "") is State.ONLINE, 3)] == [
        name_of(first), name_of(third), name_of(first)
    ]  # fmt: skip


@three
def test_attempts_are_rounds(new_client: NewClient, scripts: Scripts, recorder: Recorder) -> None:
    """A policy with two attempts allows two rounds."""
    policy = ReconnectPolicy(pause=0.01, attempts=2)
    alice = new_client(1, recorder, addresses=scripts.addresses, reconnect=policy)
    first, second, third = scripts.of(alice)
    first.log_in(alice).close()
    for server in (second, third, first) * 2:
        server.accept().close()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.GAVE_UP
    assert not any(map(has_connection, (first, second, third)))


def test_a_pause_after_a_round(new_client: NewClient, scripts: Scripts, recorder: Recorder) -> None:
    """When no address works, the client waits before it tries them again."""
    policy = ReconnectPolicy(pause=0.3, jitter=0.0)
    alice = new_client(1, recorder, addresses=scripts.addresses, reconnect=policy)
    first, second = scripts.of(alice)
    first.log_in(alice).close()
    second.accept().close()
    peer = first.accept()
    start = time.monotonic()
    peer.close()
    second.accept_login()
    assert time.monotonic() - start >= 0.3
    recorder.wait_for_state(State.ONLINE, Reason.RECONNECTED)


def test_the_token_of_one_server_is_used_at_the_other(alice: JellyClient, scripts: Scripts) -> None:
    """With the same features."""
    first, second = scripts.of(alice)
    first.log_in(alice).close()
    values = second.accept().receive_request(RECONNECT)
    assert values == {"username": "alice", "token": 7, "features": list(FEATURES)}


def test_a_token_that_is_refused(alice: JellyClient, scripts: Scripts, recorder: Recorder) -> None:
    """The client stops: the other server would refuse it, too."""
    first, second = scripts.of(alice)
    first.log_in(alice).close()
    second.refuse()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.TOKEN_REFUSED
    assert not has_connection(first)


@pytest.mark.parametrize("event", ["taken_over", "password_changed"])
def test_a_session_that_is_ended(alice: JellyClient, scripts: Scripts, recorder: Recorder, event: str) -> None:
    """The client does not go elsewhere, and a new login begins with the same server."""
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    peer.notify(SYSTEM, event=event)
    peer.close()
    recorder.wait_for_state(State.OFFLINE)
    first.log_in(alice)
    assert not has_connection(second)


def test_no_reconnect(new_client: NewClient, scripts: Scripts, recorder: Recorder) -> None:
    """With reconnect=False the client goes offline; the next login begins with the next address."""
    alice = new_client(1, recorder, addresses=scripts.addresses, reconnect=False)
    first, second = scripts.of(alice)
    first.log_in(alice).close()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.CONNECTION_LOST
    second.log_in(alice)


def test_a_shutdown(alice: JellyClient, scripts: Scripts, recorder: Recorder) -> None:
    """The client leaves as soon as the server says that it stops; it does not wait for the end."""
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    peer.send(message("last words", id=1) + notice(SYSTEM, event="shutdown"))
    second.accept_login()
    event = recorder.wait_for_state(State.RECONNECTING)
    assert (event.reason, event.error) == (Reason.CONNECTION_LOST, None)
    assert peer.is_closed_by_server()
    assert recorder.contents(1) == ["last words"]


def test_a_shutdown_that_comes_with_the_login(alice: JellyClient, scripts: Scripts) -> None:
    """It has the same effect."""
    first, second = scripts.of(alice)
    login = alice.login("alice", "pw")
    first.accept_login(behind=notice(SYSTEM, event="shutdown"))
    result(login)
    second.accept_login()
    wait_until(lambda: alice.address == name_of(second))


def test_a_shutdown_of_the_only_server(new_client: NewClient, script: ScriptedServer) -> None:
    """The client stays until the server closes: it may still answer."""
    alice = new_client(script.port, reconnect=NEVER)
    peer = script.log_in(alice)
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.notify(SYSTEM, event="shutdown")
    peer.answer(OWN_PROFILE, username="alice")
    assert result(profile).username == "alice"


def test_a_shutdown_during_the_logout(alice: JellyClient, scripts: Scripts) -> None:
    """The end of the connection is the response to the LOGOUT, so the client waits for it."""
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    logout = alice.logout()
    peer.receive_request(LOGOUT)
    peer.notify(SYSTEM, event="shutdown")
    assert peer.is_silent()
    assert not logout.done()
    peer.close()
    assert result(logout) is None
    assert not has_connection(second)


def test_the_log(alice: JellyClient, scripts: Scripts, recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Its lines name the addresses."""
    caplog.set_level(logging.DEBUG, "jelly.client")
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    second.close()
    profile = alice.own_profile()
    peer.receive_request(OWN_PROFILE)
    peer.close()
    assert str(error(profile)).startswith(f"The connection to {name_of(first)} was lost before there was a response")
    first.accept_login()
    recorder.wait_for_state(State.ONLINE, Reason.RECONNECTED)
    wait_until(lambda: f"alice: reconnected at {name_of(first)}" in caplog.text)
    for line in (
        f"alice: logged in at {name_of(first)}",
        f"alice: the connection to {name_of(first)} was lost: the server has closed the connection",
        f"alice: cannot reconnect to {name_of(second)} yet: Cannot connect to 127.0.0.1 port {second.port}",
    ):
        assert line in caplog.text
