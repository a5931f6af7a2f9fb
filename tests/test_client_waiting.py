"""What is sent while there is no connection waits for the next one; and the log tells what failed
unheard."""

import gc
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from client_tools import NEVER, NewClient, Peer, Recorder, ScriptedServer, error, result
from harness import StartServer
from wire import ALL_FRIENDS, GROUP_MESSAGE, PERSON_MESSAGE, REQUEST_ERROR, register, wait_until

from client_api import ConnectionLost, JellyClient, MessageEvent, Reason, Receiver, RequestRejected, State
from faults.proxy import Proxy
from jelly.client import pending


@pytest.fixture
def alice(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> JellyClient:
    return new_client(script.port, recorder)


def lose(client: JellyClient, peer: Peer) -> None:
    """Break the connection of a client, and wait until it knows."""
    peer.close()
    wait_until(lambda: client.state is State.RECONNECTING)


def receive(peer: Peer, count: int) -> list[str]:
    return [peer.receive_request(PERSON_MESSAGE)["content"] for _ in range(count)]


def test_what_is_sent_without_a_connection_waits(alice: JellyClient, script: ScriptedServer) -> None:
    """It is sent in its order, behind what had no answer when the connection was lost."""
    peer = script.log_in(alice)
    futures = [alice.send_message("bob", "before")]
    assert receive(peer, 1) == ["before"]
    lose(alice, peer)
    futures += [alice.send_message("bob", "first"), alice.send_message("bob", "second")]
    in_group = alice.send_group_message("team", "third")
    with script.accept_login() as peer:
        assert receive(peer, 1) == ["before"]
        peer.answer(PERSON_MESSAGE)
        assert receive(peer, 2) == ["first", "second"]
        assert peer.receive_request(GROUP_MESSAGE)["content"] == "third"
        for type in (PERSON_MESSAGE, PERSON_MESSAGE, GROUP_MESSAGE):
            peer.answer(type)
        assert [result(future).receiver for future in (*futures, in_group)] == ["bob", "bob", "bob", "team"]


def test_over_several_attempts(alice: JellyClient, script: ScriptedServer) -> None:
    """It waits as long as it takes, and is sent with the same requestId when it had no answer."""
    lose(alice, script.log_in(alice))
    future = alice.send_message("bob", "hello")
    script.accept().close()
    with script.accept_login() as peer:
        request = peer.receive_request(PERSON_MESSAGE)
    with script.accept_login() as peer:
        assert peer.receive_request(PERSON_MESSAGE) == request
        peer.answer(PERSON_MESSAGE)
        assert result(future).receiver == "bob"


def test_other_requests_do_not_wait(alice: JellyClient, script: ScriptedServer) -> None:
    """They end at once: nothing was done."""
    lose(alice, script.log_in(alice))
    failure = error(alice.list_friends())
    assert isinstance(failure, ConnectionLost)
    assert not failure.sent


def test_a_server_that_knows_no_ids(alice: JellyClient, script: ScriptedServer) -> None:
    """There, messages end at once, too."""
    lose(alice, script.log_in(alice, features=None))
    failure = error(alice.send_message("bob", "hello"))
    assert isinstance(failure, ConnectionLost)
    assert not failure.sent


def test_not_without_bounds(alice: JellyClient, script: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much ends at once, and was not sent."""
    monkeypatch.setattr(pending, "MAX_WAITING", 3)
    lose(alice, script.log_in(alice))
    futures = [alice.send_message("bob", str(number)) for number in range(5)]
    for future in futures[3:]:
        failure = error(future)
        assert isinstance(failure, ConnectionLost)
        assert not failure.sent
        assert "too many messages wait" in str(failure)
    with script.accept_login() as peer:
        assert receive(peer, 3) == ["0", "1", "2"]


@pytest.mark.parametrize("how", ["refused", "logout", "close"])
def test_if_there_is_no_other_connection(
    new_client: NewClient, script: ScriptedServer, recorder: Recorder, how: str
) -> None:
    """Then it was not sent, and the error says so."""
    alice = new_client(script.port, recorder, **({} if how == "refused" else {"reconnect": NEVER}))
    peer = script.log_in(alice)
    if how != "refused":
        script.close()
    lose(alice, peer)
    future = alice.send_message("bob", "hello")
    if how == "refused":
        script.refuse()
    elif how == "logout":
        alice.logout().exception(10)
    else:
        alice.close()
    failure = error(future)
    assert isinstance(failure, ConnectionLost)
    assert not failure.sent
    late = error(alice.send_message("bob", "late"))
    assert isinstance(late, ConnectionLost | RequestRejected)


class Echo(Receiver):
    """The shortest bot."""

    def on_message(self, event: MessageEvent) -> None:
        event.reply(event.content)


def test_the_shortest_bot_answers_everything(start_server: StartServer, new_client: NewClient) -> None:
    """However often its connection is lost."""
    port = start_server().port
    register(port, "alice", "echo")
    with Proxy(port) as proxy:
        recorder = Recorder()
        alice, echo = new_client(port, recorder), new_client(proxy.port, Echo())
        result(alice.login("alice", "pw"))
        result(echo.login("echo", "pw"))
        for batch in range(8):
            futures = [alice.send_message("echo", f"{batch} {number}") for number in range(20)]
            recorder.contents(20 * batch + 3)
            proxy.cut()
            for future in futures:
                result(future)
        expected = [f"{batch} {number}" for batch in range(8) for number in range(20)]
        assert recorder.contents(len(expected)) == expected


# --- the log --------------------------------------------------------------------------------------


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The warnings of the library, which the test expects."""
    caplog.set_level(logging.WARNING, "jelly.client")
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("jelly.client").addHandler(handler)
    yield found
    logging.getLogger("jelly.client").removeHandler(handler)
    caplog.clear()


def fail_once(alice: JellyClient, peer: Peer, ask: Callable[[Future[Any]], object]) -> None:
    """Send a message that is refused, and do something with the future."""
    future = alice.send_message("bob", "a secret")
    ask(future)
    assert receive(peer, 1) == ["a secret"]
    peer.answer(PERSON_MESSAGE, REQUEST_ERROR, error="no_such_user", message="There is no such user.")
    wait_until(future.done)
    del future
    friends = alice.list_friends()
    peer.receive_request(ALL_FRIENDS)
    peer.answer(ALL_FRIENDS, friends={})
    result(friends)
    gc.collect()


def wait_in_vain(future: Future[Any]) -> None:
    with pytest.raises(TimeoutError):
        future.result(0)


def test_a_failure_that_nobody_looked_at_is_logged_once(
    alice: JellyClient, script: ScriptedServer, warnings: list[str]
) -> None:
    """With the name of the request and the error, and without what the message says."""
    with script.log_in(alice) as peer:
        fail_once(alice, peer, id)
        assert warnings == ["nobody asked how a request ended, and it failed: PERSON_MESSAGE: There is no such user."]


def test_a_failure_that_somebody_looked_at_is_not_logged(
    alice: JellyClient, script: ScriptedServer, warnings: list[str]
) -> None:
    """Whether with a listener, or by waiting for it, before or afterwards."""
    with script.log_in(alice) as peer:
        told: list[Any] = []
        fail_once(alice, peer, lambda future: future.add_done_callback(told.append))
        del told[:]
        fail_once(alice, peer, wait_in_vain)
        future = alice.send_message("bob", "a secret")
        assert receive(peer, 1) == ["a secret"]
        peer.answer(PERSON_MESSAGE, REQUEST_ERROR, error="no_such_user")
        wait_until(future.done)
        assert isinstance(future.exception(), RequestRejected)
        del future
        gc.collect()
        assert warnings == []


def test_a_login_that_failed_unheard(alice: JellyClient, script: ScriptedServer, warnings: list[str]) -> None:
    """The first mistake of a bot: it does not ask for the result of its login."""
    alice.login("alice", "pw")
    with script.accept() as peer:
        peer.receive()
        peer.answer(0x11, REQUEST_ERROR, error="wrong_credentials")
    assert alice.wait(10)
    wait_until(lambda: bool(warnings))
    assert len(warnings) == 1
    assert "LOGIN: The user name or the password is wrong." in warnings[0]


def test_what_the_client_asks_by_itself_is_not_logged(
    alice: JellyClient, script: ScriptedServer, recorder: Recorder, warnings: list[str]
) -> None:
    lose(alice, script.log_in(alice))
    script.refuse()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.TOKEN_REFUSED
    gc.collect()
    assert warnings == []
